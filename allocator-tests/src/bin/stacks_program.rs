//! Every shape of stack through the real hook, each unwound twice: `stacks_program CAPTURES [FIRST.so SECOND.so]`.
//!
//! Goes through all shapes in four threads until so many captures were compared; prints `checked N, differed M`.
//! With libraries: frames of a library that was loaded after the start carry its names within a second.

use std::ffi::{CString, c_void};
use std::future::Future;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use allocator_tests::load::Xorshift;
use allocator_tests::runner::end_within;

#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

#[inline(never)]
fn touch(n: usize) {
    drop(black_box(vec![1u8; 1 + n % 700]));
}

// ---- recursion ------------------------------------------------------------------------------------------------------

#[inline(never)]
fn down(depth: usize, random: &mut Xorshift) -> usize {
    let local = [depth; 3];
    touch(depth);
    if depth > 0 {
        if random.below(3) == 0 {
            down_otherwise(depth - 1, random)
        } else {
            down(depth - 1, random)
        };
    }
    touch(depth + 1);
    black_box(&local)[1]
}

#[inline(never)]
fn down_otherwise(depth: usize, random: &mut Xorshift) -> usize {
    let local = [depth; 40];
    let sum = if depth > 0 { down(depth - 1, random) } else { 0 };
    touch(depth);
    sum + black_box(&local)[7]
}

/// Frames by the thousand, with captures at the bottom and on the way back.
#[inline(never)]
fn tower(height: usize, random: &mut Xorshift) -> usize {
    if height == 0 {
        for n in 0..20 {
            down(3, random);
            touch(n);
        }
        return 1;
    }
    let below = tower(height - 1, random);
    if height.is_multiple_of(512) {
        touch(height);
    }
    black_box(below) + 1
}

// ---- calls through pointers -----------------------------------------------------------------------------------------

trait Shape {
    fn act(&self, depth: usize, random: &mut Xorshift) -> usize;
}

struct Small(u8);
struct Large([u64; 30]);
#[repr(align(256))]
#[derive(Clone, Copy)]
struct Aligned([u8; 256]);
#[repr(align(4096))]
#[derive(Clone, Copy)]
struct Page([u8; 64]);

impl Shape for Small {
    #[inline(never)]
    fn act(&self, depth: usize, random: &mut Xorshift) -> usize {
        touch(usize::from(self.0));
        if depth == 0 { 0 } else { shape(random).act(depth - 1, random) + 1 }
    }
}

impl Shape for Large {
    #[inline(never)]
    fn act(&self, depth: usize, random: &mut Xorshift) -> usize {
        let copy = black_box(self.0);
        let sum = if depth == 0 { 0 } else { shape(random).act(depth - 1, random) };
        touch(sum);
        sum + usize::try_from(copy[3]).unwrap_or(0)
    }
}

impl Shape for Aligned {
    /// An over-aligned local: the frame is realigned, and the one above may lie in its gap.
    #[inline(never)]
    fn act(&self, depth: usize, random: &mut Xorshift) -> usize {
        let mut copy = black_box(*self);
        touch(depth);
        let sum = if depth == 0 { 0 } else { shape(random).act(depth - 1, random) };
        copy.0[depth % 256] = 1;
        touch(depth + 5);
        sum + usize::from(black_box(&copy).0[1])
    }
}

impl Shape for Page {
    #[inline(never)]
    fn act(&self, depth: usize, random: &mut Xorshift) -> usize {
        let copy = black_box(*self);
        let sum = if depth == 0 { 0 } else { shape(random).act(depth - 1, random) };
        touch(depth + usize::from(black_box(&copy).0[1]));
        sum
    }
}

fn shape(random: &mut Xorshift) -> &'static dyn Shape {
    static SMALL: Small = Small(9);
    static LARGE: Large = Large([1; 30]);
    static ALIGNED: Aligned = Aligned([1; 256]);
    static PAGE: Page = Page([1; 64]);
    black_box(match random.below(4) {
        0 => &SMALL,
        1 => &LARGE,
        2 => &ALIGNED,
        _ => &PAGE as &dyn Shape,
    })
}

/// A local of any alignment below calls that are made through pointers, at shifting depths of the stack.
#[inline(never)]
fn over_aligned(f: &mut dyn FnMut(usize), depth: usize) {
    let page = black_box(Page([3; 64]));
    f(depth);
    if depth > 0 {
        let aligned = black_box(Aligned([4; 256]));
        over_aligned(&mut |n| f(n + usize::from(aligned.0[0])), depth - 1);
    }
    f(usize::from(black_box(&page).0[0]));
}

#[inline(never)]
fn closures(random: &mut Xorshift) {
    let mut boxed: Vec<Box<dyn Fn(usize) -> usize>> = Vec::new();
    for n in 0..6 {
        let inner = boxed.pop();
        boxed.push(Box::new(move |k| {
            touch(k + n);
            inner.as_ref().map_or(0, |f| f(k + 1)) + n
        }));
    }
    for f in &boxed {
        black_box(f(random.below(100)));
    }
    let mut sorted: Vec<usize> = (0..30).map(|_| random.below(1000)).collect();
    sorted.sort_by(|a, b| {
        touch(*a % 40);
        a.cmp(b)
    });
    black_box(sorted.iter().map(|n| vec![*n; 1 + n % 3]).filter(|v| v.len() > 1).count());
}

// ---- async ----------------------------------------------------------------------------------------------------------

struct Yield(bool);

impl Future for Yield {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        touch(11);
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

async fn leaf(n: usize) -> usize {
    touch(n);
    Yield(false).await;
    touch(n + 1);
    n
}

fn branch(depth: usize) -> Pin<Box<dyn Future<Output = usize>>> {
    Box::pin(async move {
        let first = leaf(depth).await;
        let second = if depth > 0 { branch(depth - 1).await } else { 0 };
        touch(first + second);
        first + second
    })
}

#[inline(never)]
fn run_async() {
    let mut tasks: Vec<_> = (0..4).map(branch).collect();
    let mut context = Context::from_waker(Waker::noop());
    // Round robin, so that stacks of different tasks follow each other.
    while !tasks.is_empty() {
        tasks.retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
    }
}

// ---- panics ---------------------------------------------------------------------------------------------------------

struct AllocatesInDrop(usize);

impl Drop for AllocatesInDrop {
    fn drop(&mut self) {
        touch(self.0);
    }
}

#[inline(never)]
fn throws(depth: usize, random: &mut Xorshift) {
    let _guard = AllocatesInDrop(depth);
    touch(depth);
    if depth == 0 {
        std::panic::resume_unwind(Box::new("thrown"));
    }
    throws(depth - 1, random);
}

#[inline(never)]
fn panics(random: &mut Xorshift) {
    let depth = random.below(20);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| throws(depth, random)));
    assert!(caught.is_err());
    down(3, random);
}

// ---- other stacks ---------------------------------------------------------------------------------------------------

#[inline(never)]
fn elsewhere(random: &mut Xorshift) {
    stacker::grow(256 * 1024, || {
        down(10, random);
        stacker::grow(128 * 1024, || down(5, random));
        shape(random).act(6, random);
    });
}

/// As small as a thread's stack may be: 16 KiB, of which the hook may use little.
#[inline(never)]
fn tiny_threads() {
    let threads: Vec<_> = (0..4)
        .map(|n| {
            let thread = std::thread::Builder::new().stack_size(16 * 1024);
            thread.spawn(move || {
                for k in 0..50 {
                    touch(n + k);
                    down(4, &mut Xorshift(1 + k as u64));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.expect("a thread").join().expect("no overflow");
    }
}

// ---- libraries ------------------------------------------------------------------------------------------------------

type Through = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, i32) -> i32;

struct Library(*mut c_void);

impl Library {
    fn open(path: &str) -> Library {
        let path = CString::new(path).expect("a path");
        // SAFETY: a path; the library has no initializers.
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!library.is_null(), "dlopen");
        Library(library)
    }

    fn call(&self, name: &std::ffi::CStr, f: extern "C" fn(*mut c_void), depth: i32) {
        // SAFETY: an open library and a name.
        let symbol = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!symbol.is_null(), "{name:?}");
        // SAFETY: the function has this type, in both libraries.
        let through: Through = unsafe { std::mem::transmute(symbol) };
        // SAFETY: calls back `f` at some depth.
        unsafe { through(f, std::ptr::null_mut(), depth) };
    }

    fn close(self) {
        // SAFETY: open, and none of its functions runs.
        assert_eq!(unsafe { libc::dlclose(self.0) }, 0);
    }
}

extern "C" fn back(_nothing: *mut c_void) {
    touch(30);
    down(2, &mut Xorshift(5));
}

#[inline(never)]
fn libraries(first: &str, second: &str, depth: i32) {
    // The second often comes to lie where the first was.
    for (path, name) in [(first, c"through_first"), (second, c"through_second")] {
        let library = Library::open(path);
        for n in 0..4 {
            library.call(name, back, depth + n);
        }
        library.close();
    }
}

static KEPT: std::sync::Mutex<Vec<Box<[u8; 100]>>> = std::sync::Mutex::new(Vec::new());

extern "C" fn keep(_nothing: *mut c_void) {
    KEPT.lock().expect("no panic").push(Box::new([1; 100]));
}

/// Allocates through a fresh library until its name shows in a stack that goes on to `main`, for at most a second.
fn names_within_a_second(profiler: &unfreed::Profiler, path: &str, name: &std::ffi::CStr) {
    let library = Library::open(path);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        library.call(name, keep, 3);
        std::thread::sleep(Duration::from_millis(1));
    }
    // What is allocated from here on has to be right.
    profiler.flush();
    let before = named(profiler, name);
    for _ in 0..100 {
        library.call(name, keep, 3);
    }
    let after = named(profiler, name);
    assert_eq!(after - before, 100.0, "blocks of stacks through {name:?} down to main");
    library.close();
}

fn named(profiler: &unfreed::Profiler, name: &std::ffi::CStr) -> f64 {
    let name = name.to_str().expect("UTF-8");
    let snapshot = profiler.snapshot();
    let through = |site: &unfreed::Site<'_>| {
        let frames = site.frames();
        let names: Vec<&str> = frames.iter().filter_map(|frame| frame.name()).collect();
        let at = |what: &str| names.iter().position(|name| name.contains(what));
        matches!((at("stacks_program::keep"), at(name), at("names_within_a_second"), at("stacks_program::main")),
            (Some(a), Some(b), Some(c), Some(d)) if a < b && b < c && c < d)
    };
    snapshot.sites().filter(through).map(|site| site.live_blocks().value).sum()
}

// ---- all together ---------------------------------------------------------------------------------------------------

fn varied(seed: u64, stop: &AtomicBool, rounds: &AtomicU64, libraries_at: Option<(&str, &str)>) {
    let mut random = Xorshift(seed);
    while !stop.load(Ordering::Relaxed) {
        match random.below(if libraries_at.is_some() { 40 } else { 39 }) {
            0..=7 => {
                let depth = random.below(30);
                down(depth, &mut random);
            }
            8..=9 => {
                // Deeper than max_frames.
                let depth = 100 + random.below(200);
                down(depth, &mut random);
            }
            10..=17 => {
                let depth = random.below(12);
                black_box(shape(&mut random).act(depth, &mut random));
            }
            18..=23 => {
                let depth = random.below(5);
                over_aligned(&mut |n| touch(n), depth);
            }
            24..=28 => closures(&mut random),
            29..=32 => run_async(),
            33..=35 => panics(&mut random),
            36..=37 => elsewhere(&mut random),
            38 => tiny_threads(),
            _ => {
                if let Some((first, second)) = libraries_at {
                    let depth = i32::try_from(random.below(6)).expect("small");
                    libraries(first, second, depth);
                }
            }
        }
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let captures: u64 = arguments[1].parse().expect("a number");
    end_within(if captures > 2_000_000 { 1500 } else { 80 });
    let libraries_at = arguments.get(3).map(|second| (arguments[2].as_str(), second.as_str()));

    for (turn, max_frames) in [128, 16, 1024].into_iter().enumerate() {
        let builder = unfreed::Profiler::builder().exact().no_output().quiet().store_in_memory();
        let profiler = builder.max_frames(max_frames).check_stacks().start().expect("starts");
        assert_eq!(profiler.snapshot().unwinder(), "framehop + replay");
        if let Some((first, second)) = libraries_at
            && turn == 0
        {
            names_within_a_second(&profiler, first, c"through_first");
            names_within_a_second(&profiler, second, c"through_second");
        }
        // 10,000 frames on a stack of their own.
        let high = std::thread::Builder::new().stack_size(16 << 20);
        let high = high.spawn(|| tower(10_000, &mut Xorshift(3))).expect("a thread");
        assert_eq!(high.join().expect("no overflow"), 10_001);

        let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
        let target = unfreed::internals::checked_stacks().0 + captures / 3 + 1;
        std::thread::scope(|scope| {
            for n in 0..4 {
                let (stop, rounds) = (&stop, &rounds);
                scope.spawn(move || varied(1000 * turn as u64 + n + 1, stop, rounds, libraries_at));
            }
            while unfreed::internals::checked_stacks().0 < target {
                std::thread::sleep(Duration::from_millis(1));
            }
            stop.store(true, Ordering::Relaxed);
        });
        let losses = profiler.snapshot().losses();
        println!("max_frames {max_frames}: {} rounds, {losses:?}", rounds.load(Ordering::Relaxed));
        drop(profiler);
    }
    let (checked, differed) = unfreed::internals::checked_stacks();
    println!("checked {checked}, differed {differed}");
    assert!(checked >= captures);
    assert_eq!(differed, 0);
}
