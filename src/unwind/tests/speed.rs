//! Nanoseconds a frame, printed. `cargo test --release --lib unwind::tests::speed -- --ignored --nocapture`

use std::hint::black_box;
use std::time::Instant;

use super::*;

/// Calls itself `depth` times through frames of different shapes, then `last`.
#[inline(never)]
fn down(depth: u32, last: &mut dyn FnMut()) -> u32 {
    let local = black_box([depth; 5]);
    let answer = match depth {
        0 => {
            last();
            0
        }
        n if n.is_multiple_of(2) => other(n - 1, last),
        n => down(n - 1, last),
    };
    black_box(answer + local[2])
}

#[inline(never)]
fn other(depth: u32, last: &mut dyn FnMut()) -> u32 {
    let local = black_box([u64::from(depth); 9]);
    if depth == 0 {
        last();
    } else {
        black_box(down(depth - 1, last));
    }
    black_box(local[3] as u32)
}

/// The least of several rounds, in ns a call.
fn least(calls: u32, mut call: impl FnMut()) -> f64 {
    (0..15)
        .map(|_| {
            let start = Instant::now();
            (0..calls).for_each(|_| call());
            start.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
        })
        .fold(f64::INFINITY, f64::min)
}

#[inline(never)]
fn forgetful() -> Captured {
    STACKS.with(|stacks| {
        // SAFETY: this thread's own, no reference to it is alive.
        unsafe { &mut *stacks.0.get() }.forget(0);
    });
    capture_here()
}

#[inline(never)]
fn one_way() -> Captured {
    black_box(sample())
}

#[inline(never)]
fn another_way() -> Captured {
    black_box(one_way())
}

#[test]
#[ignore = "prints figures; for a release build"]
fn ns_a_frame() {
    let session = Session::start(128);
    set_checking(false);
    println!(
        "frames | repeated: ns, ns a frame | new: ns, ns a frame | 3 of them changed: ns | backtrace crate: ns a frame"
    );
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for depth in [8, 20, 50, 100] {
                down(depth, &mut || {
                    let frames = f64::from(sample().frames);
                    let repeated = least(20_000, || {
                        black_box(sample());
                    });
                    let new = least(5_000, || {
                        black_box(forgetful());
                    });
                    let changed = least(5_000, || {
                        black_box(one_way());
                        black_box(another_way());
                    }) / 2.0;
                    let crates = least(500, || {
                        let mut n = 0;
                        // SAFETY: no symbolization goes on.
                        unsafe {
                            backtrace::trace_unsynchronized(|frame| {
                                frame.ip().addr() != 0 && {
                                    n += 1;
                                    true
                                }
                            })
                        };
                        black_box(n);
                    });
                    println!(
                        "{frames:6} | {repeated:6.1} {:5.2} | {new:6.1} {:5.2} | {changed:6.1} | {:5.1}",
                        repeated / frames,
                        new / frames,
                        crates / frames
                    );
                });
            }
        });
        std::thread::Builder::new()
            .stack_size(256 << 20)
            .spawn_scoped(scope, || {
                let start = Instant::now();
                let mut captures = 0_u32;
                down(100_000, &mut || {
                    sample();
                });
                rise(20_000, &mut captures);
                let each = start.elapsed().as_secs_f64() * 1e9 / f64::from(captures);
                println!("a capture at each level of a recursion of 20,000, 128 frames kept: {each:.0} ns");
            })
            .unwrap();
    });
    session.finish(0);
}

#[inline(never)]
fn rise(depth: u32, captures: &mut u32) {
    black_box(sample());
    *captures += 1;
    if depth > 0 {
        rise(depth - 1, captures);
    }
    black_box(sample());
    *captures += 1;
}
