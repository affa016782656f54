//! Random programs: at each level one of many ways to call the next, with captures on the way in and out.

use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use super::*;

/// What a program carries down its calls.
struct Run<'s> {
    random: XorShift,
    left: u64,
    sink: &'s Sink,
    traced: u64,
}

impl Run<'_> {
    /// A capture; every 50th is compared with the system's unwinder.
    #[inline(never)]
    fn sample(&mut self) {
        self.left = self.left.saturating_sub(1);
        if self.random.below(50) == 0 {
            let (captured, system) = sample_and_trace(self.sink);
            if !captured.truncated {
                assert_is(&captured, &system);
                self.traced += 1;
            }
        } else {
            black_box(sample());
        }
    }
}

#[inline(never)]
fn level(run: &mut Run<'_>, depth: u64) -> u64 {
    for _ in 0..run.random.below(3) {
        run.sample();
    }
    if depth == 0 || run.left == 0 {
        run.sample();
        return depth;
    }
    let next = depth - 1;
    let answer = match run.random.below(14) {
        0 => level(run, next),
        1 => {
            let mut closure = |d| level(run, d);
            call_closure(&mut closure, next)
        }
        2 => (black_box(&Plain) as &dyn Callee).call(run, next),
        3 => (black_box(&Aligned) as &dyn Callee).call(run, next),
        4 => (black_box(&Through) as &dyn Callee).call(run, next),
        5 => large(run, next),
        6 => poll_nested(run, next),
        7 => unwinding(run, next),
        8 => sorted(run, next),
        9 => [next].iter().map(|d| level(run, *d)).sum(),
        10 => many_arguments(run, next, 1, 2, 3, 4, 5, 6, 7.0, 8.0),
        11 => {
            let boxed: Box<dyn FnOnce(&mut Run<'_>) -> u64> = Box::new(move |run| level(run, next));
            boxed(run)
        }
        12 => through_c(run, next),
        _ => variable(run, next),
    };
    for _ in 0..run.random.below(2) {
        run.sample();
    }
    black_box(answer + 1)
}

#[inline(never)]
fn call_closure(closure: &mut dyn FnMut(u64) -> u64, depth: u64) -> u64 {
    black_box(closure(depth))
}

trait Callee {
    fn call(&self, run: &mut Run<'_>, depth: u64) -> u64;
}
struct Plain;
struct Aligned;
struct Through;

impl Callee for Plain {
    #[inline(never)]
    fn call(&self, run: &mut Run<'_>, depth: u64) -> u64 {
        black_box(level(run, depth))
    }
}

#[repr(align(128))]
struct Wide([u64; 16]);

impl Callee for Aligned {
    #[inline(never)]
    fn call(&self, run: &mut Run<'_>, depth: u64) -> u64 {
        let wide = black_box(Wide([depth; 16]));
        run.sample();
        let answer = level(run, depth);
        black_box(wide.0[(answer % 16) as usize]) + answer
    }
}

impl Callee for Through {
    #[inline(never)]
    fn call(&self, run: &mut Run<'_>, depth: u64) -> u64 {
        black_box((black_box(&Aligned) as &dyn Callee).call(run, depth))
    }
}

#[inline(never)]
fn large(run: &mut Run<'_>, depth: u64) -> u64 {
    let array = black_box([depth; 600]);
    let answer = level(run, depth);
    black_box(array[(answer % 600) as usize]) + answer
}

#[inline(never)]
#[expect(clippy::too_many_arguments, reason = "arguments on the stack")]
fn many_arguments(r: &mut Run<'_>, depth: u64, a: u64, b: u64, c: u64, d: u64, e: u64, f: u64, g: f64, h: f64) -> u64 {
    let answer = level(r, depth);
    black_box(a + b + c + d + e + f) + black_box(g.max(h).to_bits() & 1) + answer
}

/// A frame whose size depends on its data: nothing but rbp finds its caller.
#[inline(never)]
fn variable(run: &mut Run<'_>, depth: u64) -> u64 {
    if depth.is_multiple_of(2) {
        let small = black_box([depth; 3]);
        black_box(level(run, depth) + small[0])
    } else {
        let big = black_box([depth; 90]);
        black_box(level(run, depth) + big[depth as usize % 90])
    }
}

/// Nested futures, polled through pins of trait objects as an executor does.
struct Nested<'a, 's> {
    run: &'a mut Run<'s>,
    depth: u64,
    polls: u64,
}

impl Future for Nested<'_, '_> {
    type Output = u64;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<u64> {
        self.run.sample();
        self.polls += 1;
        if self.polls < 3 {
            return Poll::Pending;
        }
        let depth = self.depth;
        if depth > 2 && depth.is_multiple_of(3) {
            let inner = Nested { run: &mut *self.run, depth: depth - 1, polls: 1 };
            let mut inner = pin!(async move { inner.await + 1 });
            let inner: Pin<&mut dyn Future<Output = u64>> = inner.as_mut();
            return poll_to_end(inner, context);
        }
        Poll::Ready(level(self.run, depth))
    }
}

#[inline(never)]
fn poll_to_end(mut future: Pin<&mut dyn Future<Output = u64>>, context: &mut Context<'_>) -> Poll<u64> {
    loop {
        if let Poll::Ready(answer) = future.as_mut().poll(context) {
            return Poll::Ready(black_box(answer));
        }
    }
}

#[inline(never)]
fn poll_nested(run: &mut Run<'_>, depth: u64) -> u64 {
    let mut context = Context::from_waker(Waker::noop());
    let nested = Nested { run, depth, polls: 0 };
    let mut future = pin!(async move { nested.await + 1 });
    match poll_to_end(future.as_mut(), &mut context) {
        Poll::Ready(answer) => answer,
        Poll::Pending => unreachable!("polled to its end"),
    }
}

/// A panic unwinds through frames whose destructors capture.
#[inline(never)]
fn unwinding(run: &mut Run<'_>, depth: u64) -> u64 {
    struct Guard<'g, 's>(&'g mut Run<'s>);
    impl Drop for Guard<'_, '_> {
        fn drop(&mut self) {
            self.0.sample();
        }
    }
    #[inline(never)]
    fn fall(run: &mut Run<'_>, depth: u64) -> u64 {
        let guard = Guard(run);
        if depth == 0 {
            guard.0.sample();
            resume_unwind(Box::new(7_u64));
        }
        black_box(fall(guard.0, depth - 1)) + 1
    }
    let caught = catch_unwind(AssertUnwindSafe(|| fall(run, depth % 5)));
    assert!(caught.is_err());
    run.sample();
    level(run, depth)
}

/// Captures inside a comparison, called from the standard library's sort.
#[inline(never)]
fn sorted(run: &mut Run<'_>, depth: u64) -> u64 {
    let mut numbers = [3, 1, 2, depth];
    numbers.sort_by(|a, b| {
        run.sample();
        a.cmp(b)
    });
    black_box(numbers[0]) + level(run, depth)
}

/// Through a C function that knows nothing of frame pointers.
#[inline(never)]
fn through_c(run: &mut Run<'_>, depth: u64) -> u64 {
    unsafe extern "C" {
        fn bsearch(
            key: *const u8,
            base: *const u8,
            count: usize,
            size: usize,
            compare: unsafe extern "C" fn(*const u8, *const u8) -> i32,
        ) -> *mut u8;
    }
    struct Call<'c, 's>(&'c mut Run<'s>, u64);
    unsafe extern "C" fn compare(key: *const u8, _: *const u8) -> i32 {
        // SAFETY: the key is a `Call`.
        let call = unsafe { &mut *key.cast_mut().cast::<Call<'_, '_>>() };
        call.0.sample();
        call.1 = level(call.0, call.1);
        0
    }
    let mut call = Call(run, depth);
    let base = [0_u8; 1];
    // SAFETY: one element of one byte; the comparison only uses the key.
    unsafe { bsearch((&raw mut call).cast(), base.as_ptr(), 1, 1, compare) };
    call.1
}

fn run_programs(session: &Session, seed: u64, captures: u64) -> u64 {
    let mut run = Run { random: XorShift(seed), left: captures, sink: &session.sink, traced: 0 };
    while run.left > 0 {
        let depth = 1 + run.random.below(60);
        // The same program again from the same place: what replay is for.
        let again = run.random.next() | 1;
        for _ in 0..1 + run.random.below(4) {
            run.random = XorShift(again);
            black_box(level(&mut run, depth));
        }
        run.random = XorShift(again.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    }
    run.traced
}

#[test]
fn replay_is_full_unwinding() {
    let captures: u64 = std::env::var("UNFREED_CAPTURES").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let (mut compared, mut frames, mut kept, mut recalled) = (0, 0, 0, 0);
    for round in 0.. {
        for max_frames in [1024, 128, 4, 37] {
            let session = Session::start(max_frames);
            assert_eq!(session.method, "framehop + replay");
            let before = session.before;
            let seed = 0x5eed_0000 + (round << 12) + max_frames as u64;
            println!("seed {seed:#x}");
            let each = (captures / 8).min(5_000);
            let traced = std::thread::scope(|scope| {
                let session = &session;
                let other = scope.spawn(move || run_programs(session, seed ^ 0xffff, each));
                run_programs(session, seed, each) + other.join().unwrap()
            });
            assert!(max_frames < 1024 || traced > each / 100, "{traced}");
            assert_eq!(tree().state.folded.load(Ordering::Relaxed), 0, "numbers were compared too");
            session.finish(each * 2);
            let now = counters();
            compared += now.checked - before.checked;
            frames += now.checked_frames - before.checked_frames;
            kept += now.kept_frames - before.kept_frames;
            recalled += now.recalled - before.recalled;
        }
        if compared >= captures {
            break;
        }
    }
    println!(
        "{compared} captures replayed and unwound in full, no disagreement; {kept} of {frames} frames kept, {recalled} \
         recalled"
    );
    assert!(kept > frames / 4, "replay was put to use");
    assert!(recalled > compared / 50, "the memo was put to use");
}
