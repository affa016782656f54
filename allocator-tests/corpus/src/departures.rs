//! What is to be dropped at the beginning of a later epoch: how the programs give their blocks lifetimes.

use std::collections::VecDeque;

/// Values by the epoch of their end, which must be reached one by one.
#[derive(Debug)]
pub struct Departures<T> {
    /// Index 0 leaves at the beginning of the next epoch.
    due: VecDeque<Vec<T>>,
}

impl<T> Default for Departures<T> {
    fn default() -> Departures<T> {
        Departures { due: VecDeque::new() }
    }
}

impl<T> Departures<T> {
    /// Drops what lives until now. Called once, at the beginning of each epoch.
    pub fn begin_epoch(&mut self) {
        self.due.pop_front();
    }

    /// Keeps `value` for `epochs` more epochs; with 0 it is dropped at once.
    pub fn after(&mut self, epochs: u32, value: T) {
        let Some(index) = epochs.checked_sub(1) else { return };
        let index = index as usize;
        while self.due.len() <= index {
            self.due.push_back(Vec::new());
        }
        self.due[index].push(value);
    }
}
