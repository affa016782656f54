//! The scopes that the calling thread is in: entered and left by guards, outside of any allocation.
//!
//! Promises: costs one stay in the cold path (about 40 instructions), and the allocations of a thread in no scope nothing.
//! Nothing happens in a thread that has ended, that could not register, or that is inside the profiler.

use super::Cold;
use crate::hook::hot::{Counters, HOT};
use crate::unwind::Scopes;

/// Changes the calling thread's scopes. `None`, and not called, where the thread has no place for them.
pub(in crate::hook) fn change_scopes<T>(change: impl FnOnce(&mut Scopes) -> T) -> Option<T> {
    HOT.with(|hot| {
        let mut cold = Cold::enter(hot);
        let mut result = None;
        if let Some((_, own)) = cold.block.as_mut() {
            own.stacks.change_scopes(|scopes| result = Some(change(scopes)));
        }
        cold.leave(Counters::default());
        result
    })
}

/// The calling thread's scopes.
pub(in crate::hook) fn scopes() -> Option<Scopes> {
    HOT.with(|hot| {
        let cold = Cold::enter(hot);
        let scopes = cold.block.as_ref().map(|(_, own)| *own.stacks.scopes());
        cold.leave(Counters::default());
        scopes
    })
}
