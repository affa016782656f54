//! Another heap for each round: a few hundred blocks, half of them left, before the work begins.
//!
//! Why: what malloc costs depends on where its free blocks happen to lie. On `json` that is 15% of all instructions between two layouts, and the same in each run of one
//! program, so that no number of repetitions shows it. The remedy is
//! that of Stabilizer (Curtsinger and Berger, ASPLOS 2013): measure over several layouts.

use crate::Random;

/// The layouts that `layout` makes differ; the same number makes the same, and 0 none.
pub fn lay_out(layout: u64) {
    if layout == 0 {
        return;
    }
    let mut random = Random::new(layout);
    let blocks = 100 + random.below(400);
    let mut kept: Vec<Vec<u8>> = (0..blocks).map(|_| Vec::with_capacity(8 + random.below(1000) as usize)).collect();
    for _ in 0..blocks / 2 {
        drop(kept.swap_remove(random.below(kept.len() as u64) as usize));
    }
    std::mem::forget(kept);
}
