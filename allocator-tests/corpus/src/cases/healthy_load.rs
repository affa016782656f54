//! Requests, sessions and queues whose load changes.

use std::collections::VecDeque;
use std::hint::black_box;

use crate::case::{Case, Program};
use crate::departures::Departures;
use crate::random::Random;

pub(super) const CASES: &[Case] = &[
    Case::healthy("plain_churn", "blocks that live about an epoch", plain_churn),
    Case::healthy("long_sessions", "sessions that live 40 epochs in the mean", long_sessions),
    Case::healthy("slow_queue", "a queue that is filled at times and drains slowly", slow_queue),
    Case::healthy("bursty_load", "a hundred times the load in one epoch of twelve", bursty_load),
    Case::healthy("load_ramp", "load that grows fourfold over the run", load_ramp),
    Case::healthy("load_step", "load that is four times as high from the half on", load_step),
    Case::healthy("keeps_one_hour", "the background task that keeps its last 50 epochs", keeps_one_hour),
    Case::healthy("batch_all", "a batch that allocates everything, then frees everything", batch_all),
];

fn plain_churn(seed: u64, _epochs: u32) -> Program {
    let (mut random, mut passing) = (Random::new(seed), Departures::default());
    Box::new(move |_| {
        passing.begin_epoch();
        for _ in 0..random.poisson(60.0) {
            let epochs = random.epochs(1.0);
            passing.after(epochs, make_passing());
        }
    })
}

#[inline(never)]
fn make_passing() -> Vec<u8> {
    black_box(vec![1; 3 * 1024])
}

fn long_sessions(seed: u64, _epochs: u32) -> Program {
    let (mut random, mut sessions) = (Random::new(seed), Departures::default());
    Box::new(move |_| {
        sessions.begin_epoch();
        for _ in 0..random.poisson(10.0) {
            let epochs = random.epochs(40.0);
            sessions.after(epochs, open_session());
        }
    })
}

#[inline(never)]
fn open_session() -> Vec<u16> {
    black_box(vec![2; 2048])
}

fn slow_queue(_seed: u64, _epochs: u32) -> Program {
    let mut queue = VecDeque::new();
    Box::new(move |t| {
        if t % 80 == 0 {
            (0..600).for_each(|number| enqueue(&mut queue, number));
        }
        (0..9).for_each(|_| drop(queue.pop_front()));
    })
}

#[inline(never)]
fn enqueue(queue: &mut VecDeque<Vec<u32>>, number: u32) {
    queue.push_back(black_box(vec![number + 1; 512]));
}

/// Requests that live four epochs in the mean.
#[derive(Default)]
struct Requests {
    open: Departures<Vec<u64>>,
}

impl Requests {
    fn epoch(&mut self, random: &mut Random, mean: f64) {
        self.open.begin_epoch();
        for _ in 0..random.poisson(mean) {
            let epochs = random.epochs(4.0);
            self.open.after(epochs, open_request());
        }
    }
}

#[inline(never)]
fn open_request() -> Vec<u64> {
    black_box(vec![4; 768])
}

fn bursty_load(seed: u64, _epochs: u32) -> Program {
    let (mut random, mut requests) = (Random::new(seed), Requests::default());
    Box::new(move |_| {
        let mean = if random.chance(0.08) { 300.0 } else { 3.0 };
        requests.epoch(&mut random, mean);
    })
}

fn load_ramp(seed: u64, epochs: u32) -> Program {
    let (mut random, mut requests) = (Random::new(seed), Requests::default());
    Box::new(move |t| requests.epoch(&mut random, 15.0 * (1.0 + 3.0 * f64::from(t) / f64::from(epochs))))
}

fn load_step(seed: u64, epochs: u32) -> Program {
    let (mut random, mut requests) = (Random::new(seed), Requests::default());
    Box::new(move |t| requests.epoch(&mut random, if t < epochs / 2 { 15.0 } else { 60.0 }))
}

/// As `background_accumulator` among the leaks, but what is older than 50 epochs goes.
fn keeps_one_hour(_seed: u64, _epochs: u32) -> Program {
    let mut samples = VecDeque::new();
    Box::new(move |t| (0..4).for_each(|number| keep_sample(&mut samples, t + number)))
}

#[inline(never)]
fn keep_sample(samples: &mut VecDeque<Vec<u32>>, value: u32) {
    if samples.len() == 200 {
        samples.pop_front();
    }
    samples.push_back(black_box(vec![value + 1; 1024]));
}

fn batch_all(_seed: u64, _epochs: u32) -> Program {
    let mut batch = Vec::new();
    Box::new(move |t| match t % 40 {
        0..30 => (0..15).for_each(|_| add_to_batch(&mut batch)),
        30 => batch = Vec::new(),
        _ => (),
    })
}

#[inline(never)]
fn add_to_batch(batch: &mut Vec<Vec<u8>>) {
    batch.push(black_box(vec![5; 3 * 1024]));
}
