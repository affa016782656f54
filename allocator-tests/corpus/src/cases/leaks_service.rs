//! Services of several parts, of which one keeps what it should drop.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};

use super::keep;
use crate::case::{Case, Expect, Program, epoch_of};
use crate::departures::Departures;
use crate::random::Random;

pub(super) const CASES: &[Case] = &[
    Case::leak(
        "arc_cycle_metrics",
        "a service and its task hold each other, once a restart",
        &[
            &["collect_metrics", "start_service", "restart", "supervise"],
            &["buffer_of_task", "start_service", "restart", "supervise"],
        ],
        &["start_service"],
        arc_cycle_metrics,
    ),
    Case::leak(
        "background_accumulator",
        "a spawned loop pushes, requests or not",
        &[&["take_sample", "accumulate", "on_tick", "accumulator_loop"]],
        &["accumulate", "spawn_accumulator"],
        background_accumulator,
    ),
    Case::leak(
        "component_mix",
        "of cache, buffer and session one leaks",
        &[&["fill_buffer", "buffer_component", "handle", "run_components"]],
        &["buffer_component"],
        component_mix,
    ),
    Case::leak(
        "route_growth",
        "1 of 12 routes keeps 256 KiB a request",
        &[&["load_report", "route", "dispatch", "serve_routes"]],
        &["load_report", "keep"],
        route_growth,
    ),
    Case::leak(
        "infinite_retry",
        "failed records queued again, with copies",
        &[&["describe_failure", "fail", "process_record", "retry_all"]],
        &["copy_record", "fail", "queue_again"],
        infinite_retry,
    ),
    Case::leak(
        "one_percent_churn",
        "1% of decodes kept",
        &[&["decode_frame", "decode", "on_frame", "stream_loop"]],
        &["keep"],
        one_percent_churn,
    ),
    Case::leak(
        "forgotten_box",
        "`Box::leak` a request",
        &[&["make_static", "intern_config", "handle_request", "request_loop"]],
        &[],
        forgotten_box,
    ),
    Case {
        onset: LATE,
        ..Case::leak(
            "late_onset",
            "starts at 40% of the run",
            &[&["open_handle", "acquire", "on_event", "event_loop"]],
            &["keep"],
            late_onset,
        )
    },
    Case {
        expect: Expect::Backlog,
        ..Case::leak(
            "unbounded_channel",
            "a producer 1.2 times as fast as its consumer",
            &[&["make_message", "produce", "producer_step", "run_channel"]],
            &["produce"],
            unbounded_channel,
        )
    },
];

/// When `late_onset` begins to leak.
const LATE: f64 = 0.4;

/// Holds its task, which holds it.
struct Service {
    metrics: Vec<u64>,
    task: Mutex<Option<Arc<Task>>>,
}

struct Task {
    buffer: Vec<u32>,
    _service: Arc<Service>,
}

fn arc_cycle_metrics(_seed: u64, _epochs: u32) -> Program {
    Box::new(supervise)
}

#[inline(never)]
fn supervise(t: u32) {
    if t.is_multiple_of(3) {
        black_box(restart(t));
    }
}

#[inline(never)]
fn restart(t: u32) -> usize {
    let service = start_service(t);
    black_box(service.metrics.len())
}

#[inline(never)]
fn start_service(t: u32) -> Arc<Service> {
    let service = Arc::new(Service { metrics: collect_metrics(t), task: Mutex::new(None) });
    let task = Arc::new(Task { buffer: buffer_of_task(t), _service: Arc::clone(&service) });
    black_box(task.buffer.len());
    *service.task.lock().expect("not poisoned") = Some(task);
    black_box(service)
}

#[inline(never)]
fn collect_metrics(t: u32) -> Vec<u64> {
    black_box(vec![u64::from(t) + 1; 6 * 1024])
}

#[inline(never)]
fn buffer_of_task(t: u32) -> Vec<u32> {
    black_box(vec![t + 1; 6 * 1024])
}

/// A thread of its own that works when it is told to, so that runs repeat; requests come by day alone.
fn background_accumulator(seed: u64, _epochs: u32) -> Program {
    let (tick, answers) = spawn_accumulator();
    let mut random = Random::new(seed);
    Box::new(move |t| {
        tick.send(t).expect("the loop runs");
        answers.recv().expect("the loop runs");
        if (t / 50) % 2 == 0 {
            (0..random.poisson(30.0)).for_each(|_| answer_by_day(&mut random));
        }
    })
}

fn spawn_accumulator() -> (SyncSender<u32>, Receiver<()>) {
    let (tick, ticks) = sync_channel::<u32>(1);
    let (answer, answers) = sync_channel::<()>(1);
    std::thread::spawn(move || accumulator_loop(&ticks, &answer));
    (tick, answers)
}

#[inline(never)]
fn accumulator_loop(ticks: &Receiver<u32>, answer: &SyncSender<()>) {
    let mut kept = Vec::new();
    while let Ok(t) = ticks.recv() {
        on_tick(&mut kept, t);
        if answer.send(()).is_err() {
            return;
        }
    }
}

#[inline(never)]
fn on_tick(kept: &mut Vec<Vec<u32>>, t: u32) {
    for number in 0..4 {
        accumulate(kept, t + number);
    }
    black_box(kept.len());
}

#[inline(never)]
fn accumulate(kept: &mut Vec<Vec<u32>>, value: u32) {
    let sample = take_sample(value);
    kept.push(sample);
}

#[inline(never)]
fn take_sample(value: u32) -> Vec<u32> {
    black_box(vec![value + 1; 1024])
}

#[inline(never)]
fn answer_by_day(random: &mut Random) {
    let length = 300 + random.below(1500);
    black_box(vec![b'a'; length]);
}

fn component_mix(seed: u64, _epochs: u32) -> Program {
    let mut random = Random::new(seed);
    let mut parts = Components::default();
    Box::new(move |_| run_components(&mut parts, &mut random))
}

#[derive(Default)]
struct Components {
    cache: VecDeque<Vec<u64>>,
    buffers: Vec<Vec<u8>>,
    sessions: Departures<Vec<u16>>,
}

#[inline(never)]
fn run_components(parts: &mut Components, random: &mut Random) {
    parts.sessions.begin_epoch();
    for _ in 0..random.poisson(8.0) {
        handle(parts, random);
    }
}

#[inline(never)]
fn handle(parts: &mut Components, random: &mut Random) {
    cache_component(parts);
    buffer_component(parts);
    session_component(parts, random);
    black_box(parts.buffers.len());
}

#[inline(never)]
fn cache_component(parts: &mut Components) {
    if parts.cache.len() == 200 {
        parts.cache.pop_front();
    }
    parts.cache.push_back(black_box(vec![5; 512]));
}

#[inline(never)]
fn buffer_component(parts: &mut Components) {
    let buffer = fill_buffer(parts.buffers.len());
    parts.buffers.push(buffer);
}

#[inline(never)]
fn fill_buffer(number: usize) -> Vec<u8> {
    black_box(vec![u8::try_from(number % 251).unwrap_or(0) + 1; 3 * 1024])
}

#[inline(never)]
fn session_component(parts: &mut Components, random: &mut Random) {
    let epochs = random.epochs(8.0);
    parts.sessions.after(epochs, black_box(vec![9; 2560]));
}

fn route_growth(seed: u64, _epochs: u32) -> Program {
    let (mut random, mut kept) = (Random::new(seed), Vec::new());
    Box::new(move |_| serve_routes(&mut random, &mut kept))
}

const ROUTES: [fn(&mut Vec<Vec<u8>>); 12] = [
    route::<0>,
    route::<1>,
    route::<2>,
    route::<3>,
    route::<4>,
    route::<5>,
    route::<6>,
    route::<7>,
    route::<8>,
    route::<9>,
    route::<10>,
    route::<11>,
];

#[inline(never)]
fn serve_routes(random: &mut Random, kept: &mut Vec<Vec<u8>>) {
    for _ in 0..random.poisson(12.0) {
        dispatch(random.below(ROUTES.len()), kept);
    }
    black_box(kept.len());
}

#[inline(never)]
fn dispatch(number: usize, kept: &mut Vec<Vec<u8>>) {
    ROUTES[number](kept);
    black_box(kept.len());
}

#[inline(never)]
fn route<const N: usize>(kept: &mut Vec<Vec<u8>>) {
    if N == 7 {
        keep(kept, load_report());
    } else {
        black_box(vec![0u8; 60 * 1024 + N]);
    }
}

#[inline(never)]
fn load_report() -> Vec<u8> {
    black_box(vec![0; 256 * 1024])
}

/// Records that fail for ever: each try copies the record and keeps what the failure was.
fn infinite_retry(seed: u64, _epochs: u32) -> Program {
    let (mut random, mut queue, mut failures) = (Random::new(seed), VecDeque::new(), Vec::new());
    Box::new(move |_| retry_all(&mut random, &mut queue, &mut failures))
}

type Record = Vec<u8>;

#[inline(never)]
fn retry_all(random: &mut Random, queue: &mut VecDeque<Record>, failures: &mut Vec<String>) {
    for _ in 0..random.poisson(1.0) {
        queue_again(queue, vec![1; 900]);
    }
    // A few at a time.
    for _ in 0..queue.len().min(6) {
        if let Some(record) = queue.pop_front() {
            process_record(record, queue, failures);
        }
    }
    black_box(failures.len());
}

#[inline(never)]
fn process_record(record: Record, queue: &mut VecDeque<Record>, failures: &mut Vec<String>) {
    let copy = copy_record(&record);
    fail(&copy, failures);
    queue_again(queue, copy);
}

#[inline(never)]
fn copy_record(record: &Record) -> Record {
    black_box(record.clone())
}

#[inline(never)]
fn queue_again(queue: &mut VecDeque<Record>, record: Record) {
    queue.push_back(record);
}

#[inline(never)]
fn fail(record: &Record, failures: &mut Vec<String>) {
    let text = describe_failure(record);
    failures.push(text);
    black_box(failures.len());
}

#[inline(never)]
fn describe_failure(record: &Record) -> String {
    let mut text = String::with_capacity(3000);
    record.iter().for_each(|byte| text.push(char::from(b'a' + byte % 26)));
    black_box(text)
}

fn one_percent_churn(seed: u64, _epochs: u32) -> Program {
    let mut random = Random::new(seed);
    let (mut passing, mut kept) = (Departures::default(), Vec::new());
    Box::new(move |_| {
        passing.begin_epoch();
        stream_loop(&mut random, &mut passing, &mut kept);
    })
}

type Frame = Vec<u16>;

#[inline(never)]
fn stream_loop(random: &mut Random, passing: &mut Departures<Frame>, kept: &mut Vec<Frame>) {
    for _ in 0..random.poisson(150.0) {
        on_frame(random, passing, kept);
    }
    black_box(kept.len());
}

#[inline(never)]
fn on_frame(random: &mut Random, passing: &mut Departures<Frame>, kept: &mut Vec<Frame>) {
    let frame = decode(random);
    if random.chance(0.01) {
        keep(kept, frame);
    } else {
        let epochs = random.epochs(1.5);
        passing.after(epochs, frame);
    }
}

#[inline(never)]
fn decode(random: &mut Random) -> Frame {
    let frame = decode_frame(random.below(200));
    black_box(frame)
}

#[inline(never)]
fn decode_frame(value: usize) -> Frame {
    let mut frame = Vec::with_capacity(6 * 1024);
    frame.push(u16::try_from(value).unwrap_or(0));
    black_box(frame)
}

fn forgotten_box(seed: u64, _epochs: u32) -> Program {
    let mut random = Random::new(seed);
    Box::new(move |_| request_loop(&mut random))
}

#[inline(never)]
fn request_loop(random: &mut Random) {
    for number in 0..random.poisson(20.0) {
        handle_request(u64::from(number));
    }
}

#[inline(never)]
fn handle_request(number: u64) {
    let config = intern_config(number);
    black_box(config[0]);
}

#[inline(never)]
fn intern_config(number: u64) -> &'static [u64; 64] {
    let config = make_static(number);
    black_box(config)
}

#[inline(never)]
fn make_static(number: u64) -> &'static [u64; 64] {
    black_box(Box::leak(Box::new([number; 64])))
}

fn late_onset(seed: u64, epochs: u32) -> Program {
    let onset = epoch_of(LATE, epochs);
    let mut random = Random::new(seed);
    let (mut open, mut kept) = (Departures::default(), Vec::new());
    Box::new(move |t| {
        open.begin_epoch();
        event_loop(&mut random, &mut open, &mut kept, t >= onset);
    })
}

#[inline(never)]
fn event_loop(random: &mut Random, open: &mut Departures<Vec<u32>>, kept: &mut Vec<Vec<u32>>, leaks: bool) {
    for _ in 0..random.poisson(12.0) {
        on_event(random, open, kept, leaks);
    }
    black_box(kept.len());
}

#[inline(never)]
fn on_event(random: &mut Random, open: &mut Departures<Vec<u32>>, kept: &mut Vec<Vec<u32>>, leaks: bool) {
    let handle = acquire(random);
    if leaks && random.chance(0.33) {
        keep(kept, handle);
    } else {
        let epochs = random.epochs(2.0);
        open.after(epochs, handle);
    }
}

#[inline(never)]
fn acquire(random: &mut Random) -> Vec<u32> {
    let handle = open_handle(random.below(100));
    black_box(handle)
}

#[inline(never)]
fn open_handle(number: usize) -> Vec<u32> {
    black_box(vec![u32::try_from(number).unwrap_or(0) + 3; 1536])
}

fn unbounded_channel(seed: u64, _epochs: u32) -> Program {
    let mut random = Random::new(seed);
    let (sender, receiver) = channel();
    Box::new(move |_| run_channel(&mut random, &sender, &receiver))
}

#[inline(never)]
fn run_channel(random: &mut Random, sender: &Sender<Vec<u8>>, receiver: &Receiver<Vec<u8>>) {
    producer_step(random, sender);
    for _ in 0..random.poisson(20.0) {
        black_box(receiver.try_recv().ok());
    }
}

#[inline(never)]
fn producer_step(random: &mut Random, sender: &Sender<Vec<u8>>) {
    for number in 0..random.poisson(24.0) {
        produce(sender, number);
    }
    black_box(sender);
}

#[inline(never)]
fn produce(sender: &Sender<Vec<u8>>, number: u32) {
    let message = make_message(number);
    sender.send(message).expect("the receiver is there");
}

#[inline(never)]
fn make_message(number: u32) -> Vec<u8> {
    black_box(vec![u8::try_from(number % 250).unwrap_or(0) + 1; 3 * 1024])
}
