//! Short byte strings in words, padded with zeros; the length lies elsewhere.

use crate::store::words::{get, set};
use crate::sys::sync::AtomicU64;

/// Writes as much of `text` as fits, cut between characters; gives the number of bytes.
pub(crate) fn store(text: &str, cells: &[AtomicU64]) -> u64 {
    let mut length = text.len().min(cells.len() * 8);
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    store_bytes(text.as_bytes().get(..length).unwrap_or_default(), cells)
}

/// Writes as many of `bytes` as fit; gives their number.
pub(crate) fn store_bytes(bytes: &[u8], cells: &[AtomicU64]) -> u64 {
    for (index, cell) in cells.iter().enumerate() {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(bytes.iter().skip(index * 8)) {
            *to = *from;
        }
        set(cell, u64::from_le_bytes(word));
    }
    bytes.len().min(cells.len() * 8) as u64
}

/// The first `length` bytes; `None` where there are not so many.
pub(crate) fn load_bytes(cells: &[AtomicU64], length: u64) -> Option<Vec<u8>> {
    let length = usize::try_from(length).ok().filter(|&length| length <= cells.len() * 8)?;
    let mut bytes = Vec::with_capacity(length.next_multiple_of(8));
    for cell in cells.iter().take(length.div_ceil(8)) {
        bytes.extend_from_slice(&get(cell).to_le_bytes());
    }
    bytes.truncate(length);
    Some(bytes)
}

/// As `load_bytes`, as text; bytes that are none become replacement characters.
pub(crate) fn load(cells: &[AtomicU64], length: u64) -> Option<String> {
    load_bytes(cells, length).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}
