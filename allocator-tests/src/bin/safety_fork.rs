//! A process that forks in every way while its other threads allocate: `safety_fork MODE [fork …]`.
//!
//! The child frees and reallocates what the parent made, exits in every way, starts a profiler of its own; the
//! parent's profile, store and output must not notice. Prints one line a case, so that a hang is seen where it is.
//!
//! The wrapped allocator has no lock: after `_Fork` and the raw system calls the C library's locks may
//! be held for ever by threads that the child does not have, which is no fault of a profiler.

use std::alloc::{GlobalAlloc, Layout};
use std::path::Path;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use allocator_tests::load::{Block, Load, Xorshift, size};
use allocator_tests::runner::end_within;

#[global_allocator]
static ALLOC: unfreed::Alloc<Mapped> = unfreed::Alloc::new(Mapped::new());

/// Lists of free blocks by size, lock-free: nothing that a fork could catch halfway.
struct Mapped {
    /// The arena's base; 0: not mapped yet.
    arena: AtomicUsize,
    /// Units handed out so far.
    used: AtomicUsize,
    /// By class: a count against ABA in the upper half, the first free block's unit number + 1 in the lower.
    free: [AtomicU64; CLASSES],
}

/// Classes of 2^4 to 2^19 bytes; what is larger is a mapping of its own.
const CLASSES: usize = 16;
const UNIT: usize = 16;
/// 2^32 units.
const ARENA_BYTES: usize = 64 << 30;

impl Mapped {
    const fn new() -> Mapped {
        Mapped { arena: AtomicUsize::new(0), used: AtomicUsize::new(0), free: [const { AtomicU64::new(0) }; CLASSES] }
    }

    fn map(bytes: usize) -> *mut u8 {
        let (access, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
        // SAFETY: a new mapping.
        let at = unsafe { libc::mmap(null_mut(), bytes, access, flags, -1, 0) };
        if at == libc::MAP_FAILED { null_mut() } else { at.cast() }
    }

    fn arena(&self) -> *mut u8 {
        let mut base = self.arena.load(Ordering::Acquire);
        if base == 0 {
            let fresh = Self::map(ARENA_BYTES).expose_provenance();
            assert_ne!(fresh, 0);
            // A loser leaves its addresses reserved.
            base = self
                .arena
                .compare_exchange(0, fresh, Ordering::AcqRel, Ordering::Acquire)
                .map_or_else(|won| won, |_| fresh);
        }
        std::ptr::with_exposed_provenance_mut(base)
    }

    fn class(layout: Layout) -> Option<usize> {
        let bytes = layout.size().max(layout.align()).max(UNIT).next_power_of_two();
        let class = bytes.trailing_zeros() as usize - 4;
        (class < CLASSES).then_some(class)
    }

    /// The link in a free block's first word.
    fn link(&self, unit: u64) -> &AtomicU64 {
        // SAFETY: within the arena, aligned, mapped for ever, and only accessed as an atomic while it is free.
        unsafe { &*self.arena().add(unit as usize * UNIT).cast::<AtomicU64>() }
    }
}

const LOW: u64 = 0xFFFF_FFFF;

// SAFETY: blocks of power-of-two classes, naturally aligned, each handed out once until it is given back.
unsafe impl GlobalAlloc for Mapped {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(class) = Self::class(layout) else { return Self::map(layout.size().next_multiple_of(4096)) };
        let arena = self.arena();
        let mut head = self.free[class].load(Ordering::Acquire);
        while head & LOW != 0 {
            let unit = (head & LOW) - 1;
            let next = self.link(unit).load(Ordering::Relaxed) & LOW;
            let new = ((head >> 32).wrapping_add(1) << 32) | next;
            match self.free[class].compare_exchange(head, new, Ordering::Acquire, Ordering::Acquire) {
                // SAFETY: within the arena.
                Ok(_) => return unsafe { arena.add(unit as usize * UNIT) },
                Err(seen) => head = seen,
            }
        }
        let units = 1usize << class;
        // Twice the room: enough to align.
        let unit = self.used.fetch_add(2 * units, Ordering::Relaxed).next_multiple_of(units);
        // SAFETY: within the arena, or the test has used 64 GiB.
        unsafe { arena.add(unit * UNIT) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        let Some(class) = Self::class(layout) else {
            // SAFETY: a whole mapping of ours, which the caller gives up.
            unsafe { libc::munmap(ptr.cast(), layout.size().next_multiple_of(4096)) };
            return;
        };
        let unit = ((ptr.addr() - self.arena().addr()) / UNIT) as u64;
        let mut head = self.free[class].load(Ordering::Relaxed);
        loop {
            self.link(unit).store(head & LOW, Ordering::Relaxed);
            let new = ((head >> 32).wrapping_add(1) << 32) | (unit + 1);
            match self.free[class].compare_exchange(head, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(seen) => head = seen,
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Fork,
    UnderscoreFork,
    SysFork,
    SysClone,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    /// Frees and reallocates the parent's blocks, then `_exit`.
    Free,
    /// The same, then `exit` with its handlers.
    Exit,
    /// The same, then a panic that unwinds through the frame that owns the parent's profiler.
    Panic,
    Exec,
    /// Starts a profile of its own, over blocks of the parent, with threads.
    Profile,
    /// The same in the other mode, and forks again.
    ProfileTwice,
    /// Asks the parent's handle for everything; none of it may hang.
    UseHandle,
}

unsafe extern "C" {
    fn _Fork() -> libc::pid_t;
}

fn fork(how: How) -> libc::pid_t {
    match how {
        // SAFETY: the child uses what is fork-safe here.
        How::Fork => unsafe { libc::fork() },
        // SAFETY: as above.
        How::UnderscoreFork => unsafe { _Fork() },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        How::SysFork => i32::try_from(unsafe { libc::syscall(libc::SYS_fork) }).expect("a pid"),
        #[cfg(not(target_arch = "x86_64"))]
        // SAFETY: as above.
        How::SysFork => unsafe { _Fork() },
        // SAFETY: as above; no shared memory, no new stack.
        How::SysClone => {
            i32::try_from(unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) }).expect("a pid")
        }
    }
}

fn builder(mode: &str) -> unfreed::Builder {
    match mode {
        "exact" => unfreed::Profiler::builder().exact(),
        "fine" => unfreed::Profiler::builder().sample_interval(256),
        other => panic!("no mode {other}"),
    }
    .quiet()
}

#[inline(never)]
fn parents_blocks(random: &mut Xorshift) -> Vec<Block> {
    (0..400u32).map(|n| Block::new(if n % 8 == 0 { 40_000 + size(random) } else { size(random) }, n as u8)).collect()
}

/// What a child does with what it inherited.
fn use_blocks(mut blocks: Vec<Block>, random: &mut Xorshift) {
    for n in 0..blocks.len() {
        if n % 3 == 0 {
            let block = blocks.swap_remove(n % blocks.len());
            let to = size(random);
            blocks.push(block.resize(to));
        }
        if n % 5 == 0 {
            blocks.push(Block::new(size(random), n as u8));
        }
    }
    for block in blocks {
        block.check();
    }
}

#[inline(never)]
fn childs_own_block() -> Block {
    let block = Block::new(12_345, 9);
    // No tail call: this function is to be on the stack.
    std::hint::black_box(&block);
    block
}

/// A profile in a child: right, and written where it says.
fn profile_in_child(mode: &str, blocks: Vec<Block>, random: &mut Xorshift, again: bool) {
    let output = format!("child-{}.json", std::process::id());
    let profiler = builder(mode).output(&output).start().expect("a child may start its own");
    use_blocks(blocks, random);
    let kept = childs_own_block();
    std::thread::scope(|scope| {
        for n in 0..3 {
            scope.spawn(move || use_blocks(parents_blocks(&mut Xorshift(77 + n)), &mut Xorshift(5 + n)));
        }
    });
    if again {
        // SAFETY: as in `fork`.
        let grandchild = unsafe { libc::fork() };
        if grandchild == 0 {
            drop(kept);
            let _profiler = builder("exact").no_output().start().expect("so may a grandchild");
            use_blocks(parents_blocks(random), random);
            leave(0);
        }
        assert_eq!(wait(grandchild), 0, "the grandchild");
    }
    let snapshot = profiler.snapshot();
    if mode == "exact" {
        let site = snapshot
            .sites()
            .filter(|site| site.frames().iter().any(|f| f.name().is_some_and(|n| n.contains("childs_own_block"))));
        let live: f64 = site.map(|site| site.live_bytes().value).sum();
        assert_eq!(live, 12_345.0, "the child's own profile");
        assert!(snapshot.losses().dropped_records == 0, "{:?}", snapshot.losses());
    }
    assert_eq!(snapshot.pid(), std::process::id());
    drop(profiler);
    kept.check();
    let text = std::fs::read_to_string(&output).expect("the child's file");
    assert!(text.starts_with('{') && text.trim_end().ends_with('}'));
}

fn wait(pid: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: a place for the status of a child of ours.
    let got = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(got, pid, "waitpid");
    status
}

fn leave(status: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(status) }
}

fn child(then: Then, mode: &str, blocks: Vec<Block>, profiler: &unfreed::Profiler) {
    // A hang is found by then; where other programs hold the processors, three profiles take a while.
    end_within(120);
    let mut random = Xorshift(4711);
    match then {
        Then::Free => {
            use_blocks(blocks, &mut random);
            leave(0);
        }
        Then::Exit => {
            use_blocks(blocks, &mut random);
            std::process::exit(0);
        }
        Then::Panic => {
            use_blocks(blocks, &mut random);
            std::panic::resume_unwind(Box::new("the child's end"));
        }
        Then::Exec => {
            let arguments = [c"/bin/true".as_ptr(), std::ptr::null()];
            // SAFETY: a path and a list that ends in null.
            unsafe { libc::execv(c"/bin/true".as_ptr(), arguments.as_ptr()) };
            leave(1);
        }
        Then::Profile => {
            profile_in_child(mode, blocks, &mut random, false);
            std::process::exit(0);
        }
        Then::ProfileTwice => {
            let other = if mode == "exact" { "fine" } else { "exact" };
            profile_in_child(other, blocks, &mut random, true);
            profile_in_child(mode, parents_blocks(&mut random), &mut random, false);
            std::process::exit(0);
        }
        Then::UseHandle => {
            profiler.flush();
            profiler.advance_epoch();
            drop(profiler.snapshot());
            use_blocks(blocks, &mut random);
            drop(profiler.snapshot());
            leave(0);
        }
    }
}

fn live_at(profiler: &unfreed::Profiler, name: &str) -> (u64, f64) {
    let snapshot = profiler.snapshot();
    let named = |site: &unfreed::Site<'_>| site.frames().iter().any(|f| f.name().is_some_and(|n| n.contains(name)));
    let live = snapshot.sites().filter(named).map(|site| site.live_bytes().value).sum();
    (snapshot.totals().live_bytes, live)
}

fn main() {
    end_within(280);
    let arguments: Vec<String> = std::env::args().collect();
    let mode = arguments.get(1).expect("a mode").as_str();
    // Shared memory, where stores are by default: a disk that others keep busy stalls who writes to a mapped file, for seconds.
    let directory = std::env::var_os("UNFREED_DIR").expect("the test names a directory in shared memory");
    let store = Path::new(&directory).join("parent.store");
    let profiler = builder(mode).output("parent.json").store(&store).start().expect("starts");
    let mut random = Xorshift(99);
    let blocks = parents_blocks(&mut random);
    let (live_before, at_site_before) = live_at(&profiler, "parents_blocks");
    assert!(at_site_before > 100_000.0, "the parent's blocks are in its profile: {at_site_before}");

    let load = Load::start(3);
    for how in [How::Fork, How::UnderscoreFork, How::SysFork, How::SysClone] {
        for then in
            [Then::Free, Then::Exit, Then::Panic, Then::Exec, Then::Profile, Then::ProfileTwice, Then::UseHandle]
        {
            // A profile in a child takes a while; the others are over in a moment.
            for round in 0..if matches!(then, Then::Profile | Then::ProfileTwice | Then::Exec) { 1 } else { 3 } {
                load.wait_turns(3);
                eprintln!("{how:?} {then:?} {round}");
                let pid = fork(how);
                assert!(pid >= 0, "fork failed");
                if pid == 0 {
                    // Unwinds out of main in `Then::Panic`, through the owner of the profiler.
                    child(then, mode, blocks, &profiler);
                    unreachable!("a child leaves");
                }
                let status = wait(pid);
                let good = if then == Then::Panic { 101 << 8 } else { 0 };
                assert_eq!(status, good, "{how:?} {then:?} {round}: wait status {status:#x}");
                assert!(store.exists(), "a child removed the parent's store");
                assert!(!Path::new("parent.json").exists(), "a child wrote the parent's output");
            }
        }
    }
    load.stop();
    let (live_after, at_site_after) = live_at(&profiler, "parents_blocks");
    assert_eq!(at_site_before, at_site_after, "the children changed the parent's profile");
    // The profile's own lines on stderr allocate nothing of the program's.
    let difference = live_after.abs_diff(live_before);
    assert!(difference < 4096, "live bytes: {live_before} before, {live_after} after");
    for block in &blocks {
        block.check();
    }
    drop(profiler);
    assert!(Path::new("parent.json").exists());
    assert!(!store.exists());
}
