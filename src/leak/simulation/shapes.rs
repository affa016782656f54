//! The shapes: what a site does in each epoch. Names as in the corpus of real programs.

mod healthy;
mod leaks;
mod others;
mod trials;

use std::collections::VecDeque;

pub(crate) use healthy::healthy_shapes;
pub(crate) use leaks::leaks;
pub(crate) use others::others;
pub(crate) use trials::trials;

use super::world::{Held, World};

/// What the judge should say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    Leak,
    Backlog,
    Sublinear,
    Healthy,
}

type StepFn = Box<dyn FnMut(&mut World, u32)>;

pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) expect: Expect,
    /// When the leak begins, as a share of the run.
    pub(crate) onset: f64,
    /// Sites that must be named; all other sites of the shape must not.
    pub(crate) culprits: &'static [usize],
    /// Sites that grow with the culprit, such as its index: neither must nor must not be named.
    pub(crate) accomplices: &'static [usize],
    pub(crate) sites: usize,
    pub(crate) make: fn(&mut World, u32) -> StepFn,
}

const fn leak(
    name: &'static str,
    sites: usize,
    culprits: &'static [usize],
    make: fn(&mut World, u32) -> StepFn,
) -> Shape {
    Shape { name, expect: Expect::Leak, onset: 0.0, culprits, accomplices: &[], sites, make }
}

const fn healthy(name: &'static str, sites: usize, make: fn(&mut World, u32) -> StepFn) -> Shape {
    Shape { name, expect: Expect::Healthy, onset: 0.0, culprits: &[], accomplices: &[], sites, make }
}

const KIB: u64 = 1024;

/// Kept for good.
fn keep(_: Held) {}

fn lru(share: f64, run: u32) -> StepFn {
    let mut entries: VecDeque<Held> = VecDeque::new();
    let per_epoch = 12.0;
    let limit = share * f64::from(run) * per_epoch;
    Box::new(move |w, _| {
        for _ in 0..w.random.poisson(per_epoch) {
            entries.push_back(w.alloc(0, 2 * KIB));
            if entries.len() as f64 > limit {
                let oldest = entries.pop_front().expect("not empty");
                w.free(oldest);
            }
        }
    })
}

/// Requests a given number of times an epoch, each living a few epochs.
fn load(w: &mut World, per_epoch: f64) {
    for _ in 0..w.random.poisson(per_epoch) {
        let life = w.random.exponential(4.0);
        w.brief(0, 6 * KIB, life);
    }
}
