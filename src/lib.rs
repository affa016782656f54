//! (skeleton; the prose comes with the profiler)
#![allow(dead_code)]
#![deny(unsafe_code)]

mod live;
mod ring;
mod sampler;
mod slots;
mod store;
mod sys;
mod tree;
mod units;
mod unwind;
