//! What a program meets where unfreed profiles nothing: `elsewhere STORE`.
//!
//! Every request reaches the wrapped allocator as it was made, nothing starts, and each part of the interface says so or
//! does nothing. A store that was written on another machine can be read. Prints what the interface says; a wrong
//! answer is a panic. Only built with `--cfg unfreed_unsupported`, or on such a target, is it of use.

#![allow(unsafe_code, reason = "requests of a global allocator, by hand")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::RefCell;

/// What reached the wrapped allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Alloc(Layout, usize),
    Zeroed(Layout, usize),
    Free(Layout, usize),
    Realloc(Layout, usize, usize, usize),
}

thread_local! {
    /// Room for all that `requests_are_handed_on` makes, so that noting allocates nothing.
    static NOTED: RefCell<Noted> = const { RefCell::new(Noted { requests: [None; ROOM], len: 0, on: false }) };
}

const ROOM: usize = 64;

struct Noted {
    requests: [Option<Request>; ROOM],
    len: usize,
    on: bool,
}

fn note(request: Request) {
    NOTED.with_borrow_mut(|noted| {
        if noted.on && noted.len < ROOM {
            noted.requests[noted.len] = Some(request);
            noted.len += 1;
        }
    });
}

/// The system's allocator, which notes what it is asked.
struct Noting;

// SAFETY: the system's answers.
unsafe impl GlobalAlloc for Noting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout.
        let at = unsafe { System.alloc(layout) };
        note(Request::Alloc(layout, at.addr()));
        at
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout.
        let at = unsafe { System.alloc_zeroed(layout) };
        note(Request::Zeroed(layout, at.addr()));
        at
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        note(Request::Free(layout, ptr.addr()));
        // SAFETY: the caller's block.
        unsafe { System.dealloc(ptr, layout) };
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let from = ptr.addr();
        // SAFETY: the caller's block and size.
        let at = unsafe { System.realloc(ptr, layout, new_size) };
        note(Request::Realloc(layout, from, new_size, at.addr()));
        at
    }
}

#[global_allocator]
static ALLOC: unfreed::Alloc<Noting> = unfreed::Alloc::new(Noting);

/// Blocks of many sizes, from those that would be slots to those that would be listed: the four requests of each, in this
/// order, with these layouts, at these addresses, and no other.
fn requests_are_handed_on() {
    for size in [1, 64, 4096, 40_000, 100_000, 5_000_000] {
        let layout = Layout::from_size_align(size, 16).expect("a layout");
        let grown = Layout::from_size_align(2 * size, 16).expect("a layout");
        NOTED.with_borrow_mut(|noted| (noted.len, noted.on) = (0, true));
        // SAFETY: not of size zero.
        let first = unsafe { std::alloc::alloc(layout) };
        // SAFETY: not of size zero.
        let zeroed = unsafe { std::alloc::alloc_zeroed(layout) };
        let from = first.addr();
        // SAFETY: the block above.
        let moved = unsafe { std::alloc::realloc(first, layout, 2 * size) };
        let at = (zeroed.addr(), moved.addr());
        // SAFETY: as above.
        unsafe { std::alloc::dealloc(moved, grown) };
        // SAFETY: as above.
        unsafe { std::alloc::dealloc(zeroed, layout) };
        let (requests, len) = NOTED.with_borrow_mut(|noted| {
            noted.on = false;
            (noted.requests, noted.len)
        });
        let expected = [
            Request::Alloc(layout, from),
            Request::Zeroed(layout, at.0),
            Request::Realloc(layout, from, 2 * size, at.1),
            Request::Free(grown, at.1),
            Request::Free(layout, at.0),
        ];
        assert_eq!(requests[..len], expected.map(Some));
    }
}

/// Threads that come, go, and free what others allocated.
fn threads_live() {
    let blocks: Vec<Vec<u8>> = (0..8)
        .map(|thread| std::thread::spawn(move || (0..1000).fold(Vec::new(), |_, n| vec![thread; n])))
        .map(|thread| thread.join().expect("no panic"))
        .collect();
    assert!(blocks.iter().all(|block| block.len() == 999));
}

/// Scopes and dhat's names do nothing, and say nothing twice.
fn the_rest_does_nothing() {
    let scopes: Vec<_> = (0..100).map(|_| unfreed::bounded("a cache", 1 << 20)).collect();
    let handle = unfreed::ScopeHandle::current();
    std::thread::spawn(move || drop(handle.enter())).join().expect("no panic");
    drop(scopes);

    let profiler = unfreed::dhat::Profiler::builder().testing().build();
    drop(vec![1u8; 100]);
    assert_eq!(unfreed::dhat::HeapStats::get().total_blocks, 0);
    drop(profiler);
}

fn main() {
    let store = std::env::args().nth(1).expect("a store's path");
    requests_are_handed_on();
    threads_live();

    match unfreed::Profiler::start() {
        Err(error @ unfreed::Error::Unsupported) => println!("start: {error}"),
        other => panic!("{other:?}"),
    }
    match unfreed::Profiler::from_env() {
        Ok(None) => println!("from_env: nothing asked for"),
        Err(error) => println!("from_env: {error}"),
        Ok(Some(_)) => panic!("a profile runs"),
    }
    let found = std::panic::catch_unwind(|| unfreed::assert_no_leaks!(|| vec![1u8; 10])).expect_err("nothing is known");
    println!("{}", found.downcast_ref::<String>().expect("a text"));
    the_rest_does_nothing();

    let snapshot = unfreed::Store::open(store).expect("a store").snapshot();
    let totals = snapshot.totals();
    println!("store: {} blocks, {} bytes, {} sites", totals.total_blocks, totals.total_bytes, snapshot.sites().len());

    requests_are_handed_on();
    println!("served");
}
