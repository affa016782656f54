//! Assertions on a running heap profile, in the dhat crate's names and words.
//!
//! Promises: each side of a comparison is evaluated once; what that allocates is not the profile's; a failed assertion
//! stops and writes the profile before it panics, and nothing may be asserted after it.

use super::{Phase, phase};

/// Is `condition` false? Then the profile has been stopped and written when this returns, and the caller panics.
#[doc(hidden)]
pub fn check_assert_condition<F>(condition: F) -> bool
where
    F: FnOnce() -> bool,
{
    may_assert();
    let holds = {
        let _inside = crate::hook::inside();
        condition()
    };
    if holds {
        return false;
    }
    // Another thread's assertion may have failed meanwhile.
    may_assert();
    let before = std::mem::replace(&mut *phase(), Phase::Asserted);
    if let Phase::Running(running) = before {
        running.end(true);
    }
    true
}

/// While the result lives, what this thread allocates is not the profile's.
#[doc(hidden)]
#[must_use]
pub fn uncounted() -> impl Sized {
    crate::hook::inside()
}

/// Panics where nothing may be asserted.
fn may_assert() {
    let refused = match &*phase() {
        Phase::Running(running) if running.testing => None,
        Phase::Ready => Some("dhat: asserting when no profiler is running"),
        Phase::Running(_) => Some("dhat: asserting while not in testing mode"),
        Phase::Asserted => Some("dhat: asserting after the profiler has asserted"),
    };
    if let Some(message) = refused {
        panic!("{message}");
    }
}

/// Calls `f`, which must panic with the message `expected`.
#[doc(hidden)]
pub fn assert_is_panic<R, F: FnOnce() -> R + std::panic::UnwindSafe>(f: F, expected: &str) {
    let Err(payload) = std::panic::catch_unwind(f) else { panic!("no panic; expected: {expected}") };
    let message = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(|s| &**s));
    std::assert_eq!(message, Some(expected));
}

/// Asserts that an expression is true, as [`std::assert!`] does; a failure also writes the profile.
///
/// # Panics
/// As `std::assert!`; and, without writing anything, where no profiler runs, where it is not in testing mode, and where
/// an assertion has failed before.
#[doc(hidden)]
#[macro_export]
macro_rules! __dhat_assert {
    ($condition:expr $(,)?) => {
        if $crate::dhat::check_assert_condition(|| $condition) {
            ::std::panic!("dhat: assertion failed: {}", ::std::stringify!($condition));
        }
    };
    ($condition:expr, $($message:tt)+) => {
        if $crate::dhat::check_assert_condition(|| $condition) {
            ::std::panic!(
                "dhat: assertion failed: {}: {}",
                ::std::stringify!($condition),
                ::std::format_args!($($message)+)
            );
        }
    };
}

/// Asserts that two expressions are equal, as [`std::assert_eq!`] does; a failure also writes the profile.
///
/// # Panics
/// As [`assert!`](crate::dhat::assert).
#[doc(hidden)]
#[macro_export]
macro_rules! __dhat_assert_eq {
    ($left:expr, $right:expr $(,)?) => {
        // Each side is evaluated once, and what that allocates is not the profile's.
        match ($crate::dhat::uncounted(), &$left, &$right) {
            (_uncounted, left, right) => {
                if $crate::dhat::check_assert_condition(|| *left == *right) {
                    ::std::panic!(
                        "dhat: assertion failed: `(left == right)`\n  left: `{:?}`,\n right: `{:?}`",
                        left,
                        right
                    );
                }
            }
        }
    };
    ($left:expr, $right:expr, $($message:tt)+) => {
        match ($crate::dhat::uncounted(), &$left, &$right) {
            (_uncounted, left, right) => {
                if $crate::dhat::check_assert_condition(|| *left == *right) {
                    ::std::panic!(
                        "dhat: assertion failed: `(left == right)`\n  left: `{:?}`,\n right: `{:?}`: {}",
                        left,
                        right,
                        ::std::format_args!($($message)+)
                    );
                }
            }
        }
    };
}

/// Asserts that two expressions differ, as [`std::assert_ne!`] does; a failure also writes the profile.
///
/// # Panics
/// As [`assert!`](crate::dhat::assert).
#[doc(hidden)]
#[macro_export]
macro_rules! __dhat_assert_ne {
    ($left:expr, $right:expr $(,)?) => {
        // Each side is evaluated once, and what that allocates is not the profile's.
        match ($crate::dhat::uncounted(), &$left, &$right) {
            (_uncounted, left, right) => {
                if $crate::dhat::check_assert_condition(|| *left != *right) {
                    ::std::panic!(
                        "dhat: assertion failed: `(left != right)`\n  left: `{:?}`,\n right: `{:?}`",
                        left,
                        right
                    );
                }
            }
        }
    };
    ($left:expr, $right:expr, $($message:tt)+) => {
        match ($crate::dhat::uncounted(), &$left, &$right) {
            (_uncounted, left, right) => {
                if $crate::dhat::check_assert_condition(|| *left != *right) {
                    ::std::panic!(
                        "dhat: assertion failed: `(left != right)`\n  left: `{:?}`,\n right: `{:?}`: {}",
                        left,
                        right,
                        ::std::format_args!($($message)+)
                    );
                }
            }
        }
    };
}
