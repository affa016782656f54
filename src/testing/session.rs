//! The exact profile that tests for leaks share.
//!
//! Promises: the first to join starts it, in memory and without output, the last to leave ends it, in whatever way a test
//! ends; a profile of the program's own is used if it is exact, and never ended here.

use std::sync::{Mutex, PoisonError};

use super::TestError;
use crate::error::Error;
use crate::profiler::{self, Profiler};
use crate::store::picture::Picture;

/// The profile that tests share now, and how many they are.
static SHARED: Mutex<Option<(Profiler, usize)>> = Mutex::new(None);

/// A test's part in a profile.
#[derive(Debug)]
pub(super) struct Session {
    ticket: u32,
    /// The profile is the tests', not the program's.
    is_shared: bool,
}

impl Session {
    /// Joins the profile that runs, or starts one.
    pub(super) fn join() -> Result<Session, TestError> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((profiler, users)) = shared.as_mut() {
            *users += 1;
            return Ok(Session { ticket: profiler.ticket().number(), is_shared: true });
        }
        let begun = Profiler::builder().exact().store_in_memory().no_output().quiet().no_signals().manual_epochs();
        match begun.start() {
            Ok(profiler) => {
                let ticket = profiler.ticket().number();
                *shared = Some((profiler, 1));
                Ok(Session { ticket, is_shared: true })
            }
            Err(Error::NotInstalled) => Err(TestError::NotInstalled),
            Err(Error::AlreadyRunning) => {
                let ticket = profiler::current_ticket();
                if profiler::is_exact() {
                    Ok(Session { ticket, is_shared: false })
                } else {
                    Err(TestError::SampledProfile)
                }
            }
            Err(error) => Err(TestError::Start(error)),
        }
    }

    /// Everything recorded so far. `None`: the profile has ended.
    pub(super) fn picture(&self) -> Option<Box<Picture>> {
        profiler::picture(self.ticket)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.is_shared {
            return;
        }
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let is_last = shared.as_mut().is_none_or(|(_, users)| {
            *users -= 1;
            *users == 0
        });
        if is_last {
            // Ended before another can begin: one profile runs at a time.
            drop(shared.take());
        }
    }
}
