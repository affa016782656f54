//! Buffers, arenas and allocators' habits.

use std::collections::VecDeque;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::arena::Arena;
use crate::case::{Case, Program};
use crate::departures::Departures;
use crate::random::Random;

pub(super) const CASES: &[Case] = &[
    Case::healthy("arena_phases", "arenas that a phase fills and its end frees", arena_phases),
    Case::healthy("reset_arena", "an arena that each request resets; of requests a few are large", reset_arena),
    Case::healthy("thread_pools", "16 threads that come and go, each with buffers of its own", thread_pools),
    Case::healthy("ring_buffer", "the last 512 messages", ring_buffer),
    Case::healthy("reused_vec", "a vector that doubles, then is used again", reused_vec),
    Case::healthy("late_release", "chains of counted references that are released together, late", late_release),
    Case::healthy("fragmentation", "random replacement by other sizes: resident up, live flat", fragmentation),
];

fn arena_phases(_seed: u64, _epochs: u32) -> Program {
    let mut arenas = Vec::new();
    Box::new(move |t| {
        if t % 24 == 0 {
            arenas.clear();
        }
        if t % 24 < 10 {
            (0..3).for_each(|_| add_arena(&mut arenas));
        }
    })
}

#[inline(never)]
fn add_arena(arenas: &mut Vec<Vec<u64>>) {
    arenas.push(black_box(vec![1; 8 * 1024]));
}

fn reset_arena(seed: u64, _epochs: u32) -> Program {
    let (mut random, mut arena) = (Random::new(seed), Arena::default());
    Box::new(move |_| {
        for _ in 0..random.poisson(8.0) {
            parse_request(&mut random, &mut arena);
        }
    })
}

#[inline(never)]
fn parse_request(random: &mut Random, arena: &mut Arena) {
    arena.reset();
    // One in twice as many is twice as large: the largest so far doubles whenever the time does, up to a mebibyte.
    let share = random.unit().max(1e-9);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "up to 1,048")]
    let parts = (1.0 / share).min(1048.0) as u32;
    (0..=parts).for_each(|_| arena.take(1000));
}

/// A thread that holds buffers until it is told to end.
struct Worker {
    until: u32,
    end: SyncSender<()>,
    thread: JoinHandle<()>,
}

fn thread_pools(seed: u64, _epochs: u32) -> Program {
    let mut random = Random::new(seed);
    let mut workers: Vec<Worker> = Vec::new();
    Box::new(move |t| {
        for index in (0..workers.len()).rev() {
            if workers[index].until <= t {
                let worker = workers.swap_remove(index);
                worker.end.send(()).expect("it waits for this");
                worker.thread.join().expect("it ends");
            }
        }
        while workers.len() < 16 {
            let life = 5 + u32::try_from(random.below(60)).unwrap_or(0);
            workers.push(hire(t + life));
        }
    })
}

fn hire(until: u32) -> Worker {
    let (end, ended) = sync_channel::<()>(1);
    let (ready, is_ready) = sync_channel::<()>(1);
    let thread = std::thread::spawn(move || {
        let buffers = worker_buffers();
        // The epoch begins when they are there.
        let _ = ready.send(());
        let _ = ended.recv();
        drop(black_box(buffers));
    });
    is_ready.recv().expect("it begins");
    Worker { until, end, thread }
}

#[inline(never)]
fn worker_buffers() -> Vec<Vec<u8>> {
    (0..4).map(|number| black_box(vec![number + 1; 16 * 1024])).collect()
}

fn ring_buffer(_seed: u64, _epochs: u32) -> Program {
    let mut ring = VecDeque::with_capacity(512);
    Box::new(move |_| (0..20).for_each(|_| put_message(&mut ring)))
}

#[inline(never)]
fn put_message(ring: &mut VecDeque<Vec<u8>>) {
    if ring.len() == 512 {
        ring.pop_front();
    }
    ring.push_back(black_box(vec![3; 3 * 1024]));
}

fn reused_vec(_seed: u64, _epochs: u32) -> Program {
    let mut buffer: Vec<[u64; 8]> = Vec::new();
    Box::new(move |_| (0..40).for_each(|_| write_line(&mut buffer)))
}

#[inline(never)]
fn write_line(buffer: &mut Vec<[u64; 8]>) {
    if buffer.len() == 960 {
        buffer.clear();
    }
    buffer.push(black_box([7; 8]));
}

/// Each link holds the one before it; only the last one's release frees them all.
struct Link {
    body: [u64; 120],
    _before: Option<Rc<Link>>,
}

fn late_release(seed: u64, _epochs: u32) -> Program {
    let (mut random, mut chains) = (Random::new(seed), Departures::default());
    Box::new(move |_| {
        chains.begin_epoch();
        for _ in 0..random.poisson(6.0) {
            let chain = (0..5).fold(None, |before, _| Some(make_link(before)));
            let epochs = 25 + u32::try_from(random.below(20)).unwrap_or(0);
            chains.after(epochs, chain);
        }
    })
}

#[inline(never)]
fn make_link(before: Option<Rc<Link>>) -> Rc<Link> {
    let link = Rc::new(Link { body: [9; 120], _before: before });
    black_box(link.body[3]);
    link
}

fn fragmentation(seed: u64, _epochs: u32) -> Program {
    let (mut random, mut kept) = (Random::new(seed), Vec::with_capacity(800));
    Box::new(move |_| {
        for _ in 0..30 {
            let size = 64 << random.below(8);
            let block = other_size(size);
            if kept.len() < 800 {
                kept.push(block);
            } else {
                let victim = random.below(800);
                kept[victim] = block;
            }
        }
    })
}

#[inline(never)]
fn other_size(size: usize) -> Vec<u8> {
    black_box(vec![2; size])
}
