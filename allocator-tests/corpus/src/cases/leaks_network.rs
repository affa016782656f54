//! Peers, connections and their buffers.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::hint::black_box;

use super::keep;
use crate::case::{Case, Program};
use crate::departures::Departures;
use crate::random::Random;

pub(super) const CASES: &[Case] = &[
    Case::leak(
        "byte_pool",
        "a pool that stashes and always makes anew",
        &[&["BytePool::alloc", "take_block", "poll_next", "read_responses"]],
        &["keep"],
        byte_pool,
    ),
    Case::leak(
        "uuid_queue",
        "a connection pool's queue never drops stale ids: its growing block alone",
        &[&["ConnectionQueue::push", "return_connection", "run_query", "query_loop"]],
        &[],
        uuid_queue,
    ),
    Case::leak(
        "address_book",
        "peers come and go, never removed",
        &[&["describe_peer", "AddressBook::add", "on_connect", "peer_loop"]],
        &["AddressBook::add"],
        address_book,
    ),
    Case::leak(
        "topic_streams",
        "subscribe without unsubscribe",
        &[&["open_stream", "Topics::subscribe", "on_subscribe", "topic_loop"]],
        &["Topics::subscribe"],
        topic_streams,
    ),
    Case::leak(
        "gossip_counters",
        "HashMap<[u8; 32], u32> whose zeros stay: its growing table alone",
        &[&["Counters::count", "on_message", "receive_gossip", "gossip_loop"]],
        &[],
        gossip_counters,
    ),
    Case::leak(
        "incoming_buffers",
        "1 in 20 incoming connections is never handled, its buffer stays",
        &[&["read_buffer", "accept", "on_incoming", "listen_loop"]],
        &["keep"],
        incoming_buffers,
    ),
];

/// The standard hasher without a random key, so that runs repeat.
pub(super) type Map<K, V> = HashMap<K, V, BuildHasherDefault<DefaultHasher>>;

/// Blocks are stashed when they come back, and none is ever taken out again.
#[derive(Default)]
struct BytePool {
    stashed: Vec<Vec<u64>>,
}

impl BytePool {
    #[inline(never)]
    fn alloc(&mut self) -> Vec<u64> {
        black_box(vec![self.stashed.len() as u64 + 1; 18 * 128])
    }
}

fn byte_pool(seed: u64, _epochs: u32) -> Program {
    let (mut random, mut pool) = (Random::new(seed), BytePool::default());
    Box::new(move |_| read_responses(&mut random, &mut pool))
}

#[inline(never)]
fn read_responses(random: &mut Random, pool: &mut BytePool) {
    for _ in 0..random.poisson(3.0) {
        poll_next(pool);
    }
    black_box(pool.stashed.len());
}

#[inline(never)]
fn poll_next(pool: &mut BytePool) {
    let block = take_block(pool);
    keep(&mut pool.stashed, block);
}

#[inline(never)]
fn take_block(pool: &mut BytePool) -> Vec<u64> {
    let mut block = pool.alloc();
    block[0] = 1;
    black_box(block)
}

#[derive(Default)]
struct ConnectionQueue {
    ids: VecDeque<u128>,
}

impl ConnectionQueue {
    #[inline(never)]
    fn push(&mut self, id: u128) {
        self.ids.push_back(id);
    }
}

fn uuid_queue(seed: u64, _epochs: u32) -> Program {
    let (mut random, mut queue, mut running) = (Random::new(seed), ConnectionQueue::default(), Departures::default());
    Box::new(move |_| {
        running.begin_epoch();
        query_loop(&mut random, &mut queue, &mut running);
    })
}

#[inline(never)]
fn query_loop(random: &mut Random, queue: &mut ConnectionQueue, running: &mut Departures<Vec<u8>>) {
    for _ in 0..random.poisson(60.0) {
        run_query(random, queue, running);
    }
}

#[inline(never)]
fn run_query(random: &mut Random, queue: &mut ConnectionQueue, running: &mut Departures<Vec<u8>>) {
    let rows = random.below(600);
    running.after(2, black_box(vec![2; rows + 1]));
    return_connection(queue, random);
}

#[inline(never)]
fn return_connection(queue: &mut ConnectionQueue, random: &mut Random) {
    queue.push(u128::from(random.word()));
    black_box(queue.ids.len());
}

/// Addresses of all peers ever met.
#[derive(Default)]
struct AddressBook {
    peers: Map<u64, Vec<u8>>,
}

impl AddressBook {
    #[inline(never)]
    fn add(&mut self, peer: u64) {
        let addresses = describe_peer(peer);
        self.peers.insert(peer, addresses);
    }
}

fn address_book(seed: u64, _epochs: u32) -> Program {
    let (mut random, mut book, mut connections) = (Random::new(seed), AddressBook::default(), Departures::default());
    Box::new(move |_| {
        connections.begin_epoch();
        peer_loop(&mut random, &mut book, &mut connections);
    })
}

#[inline(never)]
fn peer_loop(random: &mut Random, book: &mut AddressBook, connections: &mut Departures<Vec<u8>>) {
    for _ in 0..random.poisson(3.0) {
        on_connect(random, book, connections);
    }
    black_box(book.peers.len());
}

#[inline(never)]
fn on_connect(random: &mut Random, book: &mut AddressBook, connections: &mut Departures<Vec<u8>>) {
    book.add(random.word());
    let epochs = random.epochs(12.0);
    connections.after(epochs, black_box(vec![4; 6 * 1024]));
}

#[inline(never)]
fn describe_peer(peer: u64) -> Vec<u8> {
    let mut text = Vec::with_capacity(2048);
    text.extend_from_slice(&peer.to_le_bytes());
    black_box(text)
}

#[derive(Default)]
struct Topics {
    streams: Vec<Box<[u8]>>,
}

impl Topics {
    #[inline(never)]
    fn subscribe(&mut self, topic: usize) {
        let stream = open_stream(topic);
        self.streams.push(stream);
    }
}

fn topic_streams(seed: u64, _epochs: u32) -> Program {
    let (mut random, mut topics) = (Random::new(seed), Topics::default());
    Box::new(move |_| topic_loop(&mut random, &mut topics))
}

#[inline(never)]
fn topic_loop(random: &mut Random, topics: &mut Topics) {
    if random.chance(0.7) {
        on_subscribe(topics, random.below(30));
    }
    black_box(topics.streams.len());
}

#[inline(never)]
fn on_subscribe(topics: &mut Topics, topic: usize) {
    topics.subscribe(topic);
    black_box(topics.streams.len());
}

#[inline(never)]
fn open_stream(topic: usize) -> Box<[u8]> {
    let mut queue = vec![0; 32 * 1024].into_boxed_slice();
    queue[0] = u8::try_from(topic).unwrap_or(0);
    black_box(queue)
}

#[derive(Default)]
struct Counters {
    of: Map<[u8; 32], u32>,
}

impl Counters {
    #[inline(never)]
    fn count(&mut self, key: [u8; 32]) {
        *self.of.entry(key).or_default() += 1;
    }
}

fn gossip_counters(seed: u64, _epochs: u32) -> Program {
    let (mut random, mut counters) = (Random::new(seed), Counters::default());
    Box::new(move |_| gossip_loop(&mut random, &mut counters))
}

#[inline(never)]
fn gossip_loop(random: &mut Random, counters: &mut Counters) {
    for _ in 0..random.poisson(70.0) {
        receive_gossip(random, counters);
    }
}

#[inline(never)]
fn receive_gossip(random: &mut Random, counters: &mut Counters) {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&random.word().to_le_bytes());
    on_message(counters, key);
    black_box(counters.of.len());
}

#[inline(never)]
fn on_message(counters: &mut Counters, key: [u8; 32]) {
    counters.count(key);
    // It has arrived; the counter is 0 again, and stays in the table.
    if let Some(count) = counters.of.get_mut(&key) {
        *count -= 1;
    }
}

fn incoming_buffers(seed: u64, _epochs: u32) -> Program {
    let (mut random, mut handled, mut waiting) = (Random::new(seed), Departures::default(), Vec::new());
    Box::new(move |_| {
        handled.begin_epoch();
        listen_loop(&mut random, &mut handled, &mut waiting);
    })
}

type Buffer = Vec<u64>;

#[inline(never)]
fn listen_loop(random: &mut Random, handled: &mut Departures<Buffer>, waiting: &mut Vec<Buffer>) {
    for _ in 0..random.poisson(40.0) {
        on_incoming(random, handled, waiting);
    }
    black_box(waiting.len());
}

#[inline(never)]
fn on_incoming(random: &mut Random, handled: &mut Departures<Buffer>, waiting: &mut Vec<Buffer>) {
    let buffer = accept(random);
    if random.chance(0.05) {
        keep(waiting, buffer);
    } else {
        let epochs = random.epochs(1.0);
        handled.after(epochs, buffer);
    }
}

#[inline(never)]
fn accept(random: &mut Random) -> Buffer {
    let buffer = read_buffer(random.word());
    black_box(buffer)
}

#[inline(never)]
fn read_buffer(first: u64) -> Buffer {
    let mut buffer = Vec::with_capacity(2048);
    buffer.push(first);
    black_box(buffer)
}
