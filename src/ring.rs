//! The single-producer single-consumer ring of fixed-size records, one per thread.

pub(crate) mod record;
