//! A bump arena as crates have them: chunks that double, none given back before a reset, which keeps the last one.

use std::hint::black_box;

const FIRST_BYTES: usize = 512;

/// What is allocated is counted, not handed out.
#[derive(Default)]
pub struct Arena {
    chunks: Vec<Vec<u8>>,
    /// Bytes left in the last chunk.
    left: usize,
}

impl Arena {
    /// Takes so many bytes.
    pub fn take(&mut self, bytes: usize) {
        if bytes > self.left {
            self.grow(bytes);
        }
        self.left -= bytes;
    }

    #[inline(never)]
    fn grow(&mut self, bytes: usize) {
        let last = self.chunks.last().map_or(FIRST_BYTES, Vec::capacity);
        let chunk = Vec::with_capacity((2 * last).max(bytes));
        self.left = chunk.capacity();
        self.chunks.push(black_box(chunk));
    }

    /// Frees all but the last chunk, the largest.
    pub fn reset(&mut self) {
        let keep = self.chunks.len().saturating_sub(1);
        self.chunks.drain(..keep);
        self.left = self.chunks.last().map_or(0, Vec::capacity);
    }
}
