//! (skeleton; the prose comes with the profiler)
#![allow(dead_code)]
#![deny(unsafe_code)]

mod leak;
mod ring;
mod sampler;
mod store;
mod sys;
mod tree;
mod units;

pub use leak::{
    Evidence, Interval, Leak, LeakConfig, LeakConfigError, LeakReport, Severity, State, Unjudged, Withdrawal, Withdrawn,
};
