//! The mapped file: layout, writer, reader, attribution, validation.

pub(crate) mod picture;
