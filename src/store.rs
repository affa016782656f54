//! The mapped file: layout, writer, reader, attribution, validation.
//!
//! | file | what it is |
//! |---|---|
//! | `layout` | where everything lies, and what each word means |
//! | `row`, `tables` | one row of figures; typed views over a mapping or a copy |
//! | `attribution`, `merge` | one record applied; all rings drained in order of time |
//! | `writer`, `place`, `identity`, `text` | the store of this process: the file and its growth, where it lies, whose it is |
//! | `source`, `image`, `reader`, `decode` | somebody's store, read in bounded memory, into a `picture` |
//! | `error` | what can be wrong |

pub(crate) mod attribution;
mod decode;
pub(crate) mod error;
mod identity;
mod image;
pub(crate) mod layout;
mod merge;
pub(crate) mod picture;
pub(crate) mod place;
pub(crate) mod reader;
pub(crate) mod row;
mod source;
pub(crate) mod tables;
#[cfg(all(test, not(loom)))]
mod tests;
mod text;
pub(crate) mod writer;

pub use error::StoreError;
pub(crate) use place::Place;
pub(crate) use reader::PictureCopy;
pub(crate) use writer::{Store, StoreOptions};
