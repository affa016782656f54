//! The mapped file: layout, writer, reader, attribution, validation.
//!
//! | file | what it is |
//! |---|---|
//! | `layout` | where everything lies, and what each word means |
//! | `words`, `figures`, `row`, `tables` | numbers that one writer changes; a row's figures made of them; one row; typed views over a mapping or a copy |
//! | `attribution`, `exact`, `streak`, `merge`, `abreast` | one record applied to the row of its stack; one of exact mode; equal ones at once; all rings drained in order of time, or pairs ring by ring |
//! | `weights`, `observer`, `epoch`, `fill` | what a block counts for; whoever sees the records that were applied; the end of an epoch; how full a drain found the rings |
//! | `writer`, `held`, `space`, `telling`, `version`, `place`, `identity`, `text` | the store of this process: the file, its descriptor, its growth, what it is told, where it lies (`place/old`: which old ones go; `place/aside`: how it takes a name), whose it is |
//! | `source`, `image`, `reader`, `copy`, `decode` | somebody's store, or our own, read in bounded memory, into a `picture` |
//! | `totals` | the totals that go with a picture's sites |
//! | `error` | what can be wrong |

mod abreast;
pub(crate) mod attribution;
mod copy;
mod decode;
pub(crate) mod epoch;
pub(crate) mod error;
pub(crate) mod exact;
mod figures;
pub(crate) mod fill;
mod held;
mod identity;
mod image;
pub(crate) mod layout;
mod merge;
pub(crate) mod observer;
pub(crate) mod picture;
pub(crate) mod place;
pub(crate) mod reader;
pub(crate) mod row;
mod source;
mod space;
pub(crate) mod streak;
pub(crate) mod tables;
mod telling;
#[cfg(all(test, not(loom)))]
mod tests;
mod text;
pub(crate) mod totals;
mod version;
pub(crate) mod weights;
mod words;
pub(crate) mod writer;

pub(crate) use copy::PictureCopy;
pub use error::StoreError;
pub(crate) use place::Place;
pub(crate) use writer::{Store, StoreOptions};
