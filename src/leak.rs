//! The judge.
mod case;
mod classify;
mod config;
mod gates;
mod history;
mod judge;
mod ladder;
mod marks;
mod pool;
#[cfg(test)]
mod simulation;
mod spine;
mod state;
