//! What is kept of each judged site: its history, its habits for advice, and its tally, by the number of its row.
//!
//! Promises: mappings of its own, three, which cost what is touched; at most 1,176 bytes a site (1 KiB of history), and no more than
//! [`MOST_SITES`] sites. Nothing is allocated after `new`; a site is found in a few instructions.

#![allow(unsafe_code, reason = "histories in a mapping of their own")]

use std::ptr::NonNull;

use crate::leak::habits::Habits;
use crate::leak::history::History;
use crate::leak::tally::Tally;
use crate::sys::map;

/// Sites that are judged at most: 19 MB where all of them exist. Far more than a service has that hold
/// memory; an exact profile of a huge program may exceed it.
pub(super) const MOST_SITES: usize = 16_384;

/// All sites', by the number of their row.
#[derive(Debug)]
pub(super) struct Sites {
    histories: NonNull<History>,
    habits: NonNull<Habits>,
    tallies: NonNull<Tally>,
    /// Rows seen so far, and 1; at most `MOST_SITES`.
    used: usize,
}

// SAFETY: the mappings belong to this value alone.
unsafe impl Send for Sites {}

/// All that is kept of one site.
pub(super) struct Site<'a> {
    pub(super) history: &'a mut History,
    pub(super) habits: &'a mut Habits,
    pub(super) tally: &'a mut Tally,
}

impl Sites {
    /// Of nobody yet. `None` where no memory is to be had.
    pub(super) fn new() -> Option<Sites> {
        let histories = map::anonymous(MOST_SITES * size_of::<History>())?;
        let rest = map::anonymous(MOST_SITES * size_of::<Habits>()).and_then(|habits| {
            let tallies = map::anonymous(MOST_SITES * size_of::<Tally>());
            if tallies.is_none() {
                // SAFETY: exactly the mapping just made; nobody else has it.
                unsafe { map::unmap(habits.as_ptr().cast(), MOST_SITES * size_of::<Habits>()) };
            }
            Some((habits, tallies?))
        });
        let Some((habits, tallies)) = rest else {
            // SAFETY: exactly the mapping made above; nobody else has it.
            unsafe { map::unmap(histories.as_ptr().cast(), MOST_SITES * size_of::<History>()) };
            return None;
        };
        Some(Sites { histories: histories.cast(), habits: habits.cast(), tallies: tallies.cast(), used: 0 })
    }

    /// Rows seen so far, and 1.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// The histories of the rows seen so far.
    pub(super) fn histories(&mut self) -> &mut [History] {
        // SAFETY: `used` is within the mapping, whose zeroed bytes are unused histories; `&mut self` makes this the
        // only access.
        unsafe { std::slice::from_raw_parts_mut(self.histories.as_ptr(), self.used) }
    }

    /// The same rows' habits.
    pub(super) fn habits(&mut self) -> &mut [Habits] {
        // SAFETY: as in `histories`; zeroed bytes are a site's that has not done anything.
        unsafe { std::slice::from_raw_parts_mut(self.habits.as_ptr(), self.used) }
    }

    /// All tallies, those of rows that were not seen included.
    #[inline(always)]
    pub(super) fn tallies(&mut self) -> &mut [Tally] {
        // SAFETY: the whole mapping, whose zeroed bytes are empty tallies; `&mut self` makes this the only access.
        unsafe { std::slice::from_raw_parts_mut(self.tallies.as_ptr(), MOST_SITES) }
    }

    /// What is kept of one site, seen or not; `None` beyond the last that is judged.
    #[inline(always)]
    pub(super) fn at(&mut self, index: usize) -> Option<Site<'_>> {
        if index >= MOST_SITES {
            return None;
        }
        // SAFETY: within the mapping, whose zeroed bytes are unused ones; `&mut self` makes this the only access.
        let history = unsafe { nth(self.histories, index) };
        // SAFETY: the same.
        let habits = unsafe { nth(self.habits, index) };
        // SAFETY: the same.
        let tally = unsafe { nth(self.tallies, index) };
        Some(Site { history, habits, tally })
    }

    /// The same of a row that is seen now: it is among the histories from here on.
    #[inline(always)]
    pub(super) fn see(&mut self, index: usize) -> Option<Site<'_>> {
        if index >= MOST_SITES {
            return None;
        }
        self.used = self.used.max(index + 1);
        self.at(index)
    }

    /// The memory that the rows seen so far take.
    pub(super) fn memory_bytes(&self) -> u64 {
        (self.used * (size_of::<History>() + size_of::<Habits>() + size_of::<Tally>())) as u64
    }
}

impl Drop for Sites {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made by `new`; nobody else has it.
        unsafe { map::unmap(self.histories.as_ptr().cast(), MOST_SITES * size_of::<History>()) };
        // SAFETY: the same.
        unsafe { map::unmap(self.habits.as_ptr().cast(), MOST_SITES * size_of::<Habits>()) };
        // SAFETY: the same.
        unsafe { map::unmap(self.tallies.as_ptr().cast(), MOST_SITES * size_of::<Tally>()) };
    }
}

/// One of many.
///
/// # Safety
/// `index` lies within what `base` points to, all of which is valid; the result is the only access while it lives.
#[inline(always)]
unsafe fn nth<'a, T>(base: NonNull<T>, index: usize) -> &'a mut T {
    // SAFETY: within, by the caller.
    let mut at = unsafe { base.add(index) };
    // SAFETY: valid and alone, by the caller.
    unsafe { at.as_mut() }
}
