//! Poisson byte sampling: which blocks are recorded, what each stands for, and how fine the sample is.

#[cfg(not(loom))]
pub(crate) mod governor;
pub(crate) mod interval;
pub(crate) mod random;
pub(crate) mod regrow;
pub(crate) mod weight;
