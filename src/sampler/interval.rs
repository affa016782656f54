//! The interval in force: one byte that every draw reads, and the bytes that a fixed one means.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::weight::IntervalCode;

static CODE: AtomicU8 = AtomicU8::new(0);
/// The coarsest since it was last asked for.
static COARSEST: AtomicU8 = AtomicU8::new(0);
static FIXED_BYTES: AtomicU64 = AtomicU64::new(0);

/// The interval to draw with: its code, and the bytes that `IntervalCode::FIXED` means.
#[inline]
pub(crate) fn get() -> (IntervalCode, u64) {
    // Relaxed: any recent value will do; each draw records the one that it used.
    (IntervalCode(CODE.load(Ordering::Relaxed)), FIXED_BYTES.load(Ordering::Relaxed))
}

/// Sets the interval for draws from now on.
pub(crate) fn set(code: IntervalCode, fixed_bytes: u64) {
    FIXED_BYTES.store(fixed_bytes, Ordering::Relaxed);
    CODE.store(code.0, Ordering::Relaxed);
    COARSEST.fetch_max(code.0, Ordering::Relaxed);
}

/// The coarsest interval that held since this was last asked, that of then included.
pub(crate) fn take_coarsest() -> IntervalCode {
    // Relaxed: what is set between the two is the next answer's.
    let now = CODE.load(Ordering::Relaxed);
    IntervalCode(COARSEST.swap(now, Ordering::Relaxed).max(now))
}
