//! Single shapes of stacks, each with the danger that it stands for.

use std::hint::black_box;

use super::*;

#[test]
fn the_self_test_chooses_tables_and_replay() {
    let session = Session::start(128);
    assert_eq!(session.method, "framehop + replay");
    assert!(session.sink.rows.len() >= 3, "the program, libc, the loader");
    assert!(session.sink.rows[0].0.path.contains("unfreed"));
    session.finish(0);
}

#[inline(never)]
pub(super) fn twice(sink: &Sink) -> [(Captured, Vec<FrameKey>); 2] {
    let mut pairs = Vec::new();
    while pairs.len() < black_box(2) {
        pairs.push(sample_and_trace(sink));
    }
    pairs.try_into().unwrap()
}

#[test]
fn a_repeated_stack_is_the_same_and_the_systems() {
    let session = Session::start(128);
    let [(first, system), (second, _)] = twice(&session.sink);
    assert_is(&first, &system);
    assert_eq!(first, second);
    session.finish(2);
}

/// What the trap's functions are given and give back.
struct Trapped {
    sp: u64,
    captured: Option<Captured>,
}

type Work = unsafe extern "C" fn(*mut Trapped);

unsafe extern "C" fn trapped(data: *mut Trapped) {
    // SAFETY: `trap`'s own, which waits.
    unsafe { *data = Trapped { sp: Registers::here().sp, captured: Some(sample()) } };
}

/// Calls `work(data)` from a frame that is aligned to 128 bytes, by `busy`.
#[unsafe(naked)]
unsafe extern "C" fn wide(data: *mut Trapped, work: Work) {
    #[cfg(target_arch = "x86_64")]
    core::arch::naked_asm!(
        ".cfi_startproc",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "sub rsp, 128",
        "and rsp, -128",
        "call {busy}",
        "mov rsp, rbp",
        "pop rbp",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_endproc",
        busy = sym busy,
    );
    #[cfg(target_arch = "aarch64")]
    core::arch::naked_asm!(
        ".cfi_startproc",
        "stp x29, x30, [sp, #-16]!",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset x29, -16",
        ".cfi_offset x30, -8",
        "mov x29, sp",
        ".cfi_def_cfa x29, 16",
        "sub x9, sp, #128",
        "and sp, x9, #-128",
        "bl {busy}",
        "mov sp, x29",
        ".cfi_def_cfa sp, 16",
        "ldp x29, x30, [sp], #16",
        ".cfi_def_cfa_offset 0",
        ".cfi_restore x29",
        ".cfi_restore x30",
        "ret",
        ".cfi_endproc",
        busy = sym busy,
    );
}

/// The same with a frame between.
#[unsafe(naked)]
unsafe extern "C" fn via(data: *mut Trapped, work: Work) {
    #[cfg(target_arch = "x86_64")]
    core::arch::naked_asm!(
        ".cfi_startproc",
        "sub rsp, 8",
        ".cfi_def_cfa_offset 16",
        "call {wide}",
        "add rsp, 8",
        ".cfi_def_cfa_offset 8",
        "ret",
        ".cfi_endproc",
        wide = sym wide,
    );
    #[cfg(target_arch = "aarch64")]
    core::arch::naked_asm!(
        ".cfi_startproc",
        "stp x29, x30, [sp, #-16]!",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset x29, -16",
        ".cfi_offset x30, -8",
        "bl {wide}",
        "ldp x29, x30, [sp], #16",
        ".cfi_def_cfa_offset 0",
        ".cfi_restore x29",
        ".cfi_restore x30",
        "ret",
        ".cfi_endproc",
        wide = sym wide,
    );
}

/// Calls `work(data)` with another value in the frame pointer register, as a function short of registers does. Now
/// the only trace of the caller's frame pointer is the word where this function saved it.
#[unsafe(naked)]
unsafe extern "C" fn busy(data: *mut Trapped, work: Work) {
    #[cfg(target_arch = "x86_64")]
    core::arch::naked_asm!(
        ".cfi_startproc",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov ebp, 7",
        "call rsi",
        "pop rbp",
        ".cfi_def_cfa_offset 8",
        ".cfi_restore rbp",
        "ret",
        ".cfi_endproc",
    );
    #[cfg(target_arch = "aarch64")]
    core::arch::naked_asm!(
        ".cfi_startproc",
        "stp x29, x30, [sp, #-16]!",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset x29, -16",
        ".cfi_offset x30, -8",
        "mov x29, #7",
        "blr x1",
        "ldp x29, x30, [sp], #16",
        ".cfi_def_cfa_offset 0",
        ".cfi_restore x29",
        ".cfi_restore x30",
        "ret",
        ".cfi_endproc",
    );
}

/// The trap: an over-aligned frame absorbs, or not, a frame between it and one call instruction, with the same sp and
/// the same return addresses above and below. Returns how often that was so, of 41.
fn trap(each: &mut dyn FnMut(Captured, usize)) -> usize {
    #[inline(never)]
    fn pad(depth: usize, each: &mut dyn FnMut(Captured, usize), same: &mut usize) {
        let mut sps = [0; 2];
        for i in 0..80 {
            let callee: unsafe extern "C" fn(*mut Trapped, Work) = black_box(if i % 2 == 0 { wide } else { via });
            let mut data = Trapped { sp: 0, captured: None };
            // SAFETY: all three call what they are given with the data, by the C ABI.
            unsafe { callee(&raw mut data, trapped) };
            sps[i % 2] = data.sp;
            each(data.captured.unwrap(), i);
        }
        *same += usize::from(sps[0] == sps[1]);
        // Frames of several sizes, so that sp is now more, now less than a multiple of 128.
        match (depth, depth % 3) {
            (0, _) => {}
            (_, 0) => beside::<16>(depth, each, same),
            (_, 1) => beside::<48>(depth, each, same),
            _ => beside::<80>(depth, each, same),
        }
    }
    #[inline(never)]
    fn beside<const BYTES: usize>(depth: usize, each: &mut dyn FnMut(Captured, usize), same: &mut usize) {
        let used = black_box([0_u8; BYTES]);
        pad(depth - 1, each, same);
        black_box(used);
    }
    let mut same = 0;
    pad(40, each, &mut same);
    same
}

#[test]
fn an_aligned_local_does_not_hide_a_frame() {
    let session = Session::start(128);
    let mut last = [StackId::ROOT; 2];
    let same = trap(&mut |captured, i| {
        assert_ne!(captured.stack, last[1 - i % 2]);
        assert!(i < 2 || captured.stack == last[i % 2]);
        last[i % 2] = captured.stack;
    });
    assert!(same > 5, "the trap must be there: {same} of 41 had one sp for both");
    session.finish(80 * 41);
}

/// The test above can fail: a replay that compares return addresses alone falls into the trap, and the debug mode
/// counts it.
#[test]
fn comparing_return_addresses_alone_is_found_out() {
    let session = Session::start(128);
    frame::planted::ADDRESSES_ALONE.store(true, Ordering::Relaxed);
    trap(&mut |_, _| ());
    frame::planted::ADDRESSES_ALONE.store(false, Ordering::Relaxed);
    let wrong = counters().disagreements - session.before.disagreements;
    println!("{wrong} of {} captures wrong", 80 * 41);
    assert!(wrong > 100, "{wrong}");
    STACKS.with(|stacks| {
        // SAFETY: this thread's own.
        unsafe { &mut *stacks.0.get() }.forget(0);
    });
}

/// Nor is a memo that looks at a stack's innermost words alone believed.
#[test]
fn recalling_by_the_innermost_words_alone_is_found_out() {
    let session = Session::start(128);
    memo::planted::INNERMOST_ALONE.store(true, Ordering::Relaxed);
    trap(&mut |_, _| ());
    memo::planted::INNERMOST_ALONE.store(false, Ordering::Relaxed);
    let wrong = counters().disagreements - session.before.disagreements;
    println!("{wrong} of {} recalled wrong", counters().recalled - session.before.recalled);
    assert!(wrong > 20, "{wrong}");
    STACKS.with(|stacks| {
        // SAFETY: this thread's own.
        unsafe { &mut *stacks.0.get() }.forget(0);
    });
}

#[inline(never)]
fn down(levels: u64) -> u64 {
    match levels {
        0 => u64::from(sample().stack.0),
        _ => black_box(down(black_box(levels - 1))).wrapping_add(1),
    }
}

#[inline(never)]
fn by_left(levels: u64) -> u64 {
    black_box(down(levels)).wrapping_add(3)
}

#[inline(never)]
fn by_right(levels: u64) -> u64 {
    black_box(down(levels)).wrapping_add(5)
}

/// Deep stacks that differ in their outer frames alone, in turn; each a few times.
fn by_two_ways(rounds: u64) {
    for round in 0..rounds {
        for depth in [30, 45, 60] {
            black_box(if round % 4 < 2 { by_left(depth) } else { by_right(depth) });
        }
    }
}

#[test]
fn deep_stacks_are_told_apart_by_their_outer_frames() {
    let session = Session::start(128);
    by_two_ways(40);
    let recalled = counters().recalled - session.before.recalled;
    assert!(recalled > 90, "{recalled} of 120");
    session.finish(120);
}

/// By each of these ways, again and again. How many stacks were not the expected ones, once the order was seen four times. What
/// changes from round to round is in memory: a register may be saved in any frame, and make another stack of it.
#[inline(never)]
fn unexpected_in_turn(ways: &[u64], rounds: u64) -> u64 {
    static UNTIL_THEN: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    for round in 0..rounds {
        if round == 4 {
            UNTIL_THEN.store(memo::planted::UNEXPECTED.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        for way in ways {
            black_box(if way % 2 == 0 { by_left(10 + way / 2) } else { by_right(10 + way / 2) });
        }
    }
    memo::planted::UNEXPECTED.load(Ordering::Relaxed) - UNTIL_THEN.load(Ordering::Relaxed)
}

#[test]
fn stacks_that_come_in_turn_are_expected() {
    let session = Session::start(128);
    // Two from each of two places: those of one depth differ in their outermost frames alone.
    assert_eq!(unexpected_in_turn(&[0, 20, 1, 21], 44), 0);
    let seldom = unexpected_in_turn(&[0, 0, 0, 0, 1], 44);
    assert!(seldom <= 40, "more than the seldom one: {seldom}");
    session.finish(396);
}

/// The same work from two callers in no order, with a stack at each of eight places: a change of the caller is a surprise at one of
/// them, and not at all eight, once the surprises' order was seen.
#[test]
fn work_whose_caller_changes_is_a_surprise_once() {
    let session = Session::start(128);
    let left: Vec<u64> = (0..8).map(|place| 2 * place).collect();
    let right: Vec<u64> = left.iter().map(|way| way + 1).collect();
    // A fixed order without a period (xorshift), the first four rounds of which are for learning.
    let (mut random, mut changes, mut before) = (0x2545_f491_4f6c_dd1d_u64, 0, false);
    let mut ways = Vec::new();
    let jobs = 40;
    for _ in 0..jobs {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let is_right = random & 1 != 0;
        changes += u64::from(is_right != before);
        before = is_right;
        ways.extend(if is_right { &right } else { &left });
    }
    let unexpected = unexpected_in_turn(&ways, 12);
    // Without a chain of surprises: 8 a change.
    println!("{unexpected} of {} stacks unexpected, {} changes", 8 * 8 * jobs, 8 * changes);
    assert!((1..=8 * changes * 3 / 2).contains(&unexpected), "{unexpected} of {} changes", 8 * changes);
    session.finish(12 * 8 * jobs);
}

/// The test above can fail: outer frames that are taken for granted are found out.
#[test]
fn recalling_without_the_outer_frames_is_found_out() {
    let session = Session::start(128);
    memo::planted::OUTER_UNSEEN.store(true, Ordering::Relaxed);
    by_two_ways(40);
    memo::planted::OUTER_UNSEEN.store(false, Ordering::Relaxed);
    let wrong = counters().disagreements - session.before.disagreements;
    println!("{wrong} of {} recalled wrong", counters().recalled - session.before.recalled);
    assert!(wrong > 20, "{wrong}");
    STACKS.with(|stacks| {
        // SAFETY: this thread's own.
        unsafe { &mut *stacks.0.get() }.forget(0);
    });
}

/// Nor is a rule that was learned wrong believed in: the debug mode asks framehop alone.
#[test]
fn a_wrongly_learned_rule_is_found_out() {
    let session = Session::start(128);
    // Over-aligned frames are unwound by their frame pointer, which such a rule leaves as it was.
    rules::planted::FRAME_POINTER_STAYS.store(true, Ordering::Relaxed);
    registry::choose(Method::FramePointers);
    registry::choose(Method::Framehop);
    trap(&mut |_, _| ());
    rules::planted::FRAME_POINTER_STAYS.store(false, Ordering::Relaxed);
    let wrong = counters().disagreements - session.before.disagreements;
    println!("{wrong} captures wrong");
    assert!(wrong > 100, "{wrong}");
    // A new generation, so that nobody uses what was learned here.
    registry::choose(Method::FramePointers);
    registry::choose(Method::Framehop);
    STACKS.with(|stacks| {
        // SAFETY: this thread's own.
        unsafe { &mut *stacks.0.get() }.forget(0);
    });
}

#[inline(never)]
pub(super) fn recurse(depth: usize, each: &mut dyn FnMut(usize)) {
    if depth > 0 {
        recurse(depth - 1, each);
    }
    each(depth);
    black_box(depth);
}

/// Ten thousand frames, a capture at each on the way back: the leaf-most are kept, the marker is the root's child.
#[test]
fn ten_thousand_frames() {
    let session = Session::start(128);
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .stack_size(64 << 20)
            .spawn_scoped(scope, || {
                let mut last = 0;
                recurse(10_000, &mut |depth| {
                    let captured = sample();
                    if depth < 9_800 {
                        assert!(captured.truncated);
                        assert_eq!(captured.frames, 128);
                        let frames = frames(&captured);
                        assert_eq!(frames.len(), 129);
                        assert_eq!(frames[128], FrameKey::TRUNCATED);
                        if depth % 100 == 0 {
                            let (captured, system) = sample_and_trace(&session.sink);
                            assert!(captured.truncated);
                            let found = self::frames(&captured);
                            assert_eq!(found[..128], system[..128]);
                        }
                    } else if depth > 9_950 {
                        assert!(!captured.truncated);
                    }
                    last = depth;
                });
                assert_eq!(last, 10_000);
            })
            .unwrap()
            .join()
            .unwrap();
    });
    session.finish(10_001);
}

/// The outermost frames come and go out of the window: what was cut is found again.
#[test]
fn around_the_cut() {
    let session = Session::start(16);
    for _ in 0..3 {
        for depth in [3, 9, 12, 30, 14, 8, 5, 31, 2] {
            recurse(depth, &mut |_| {
                let (captured, system) = sample_and_trace(&session.sink);
                let found = frames(&captured);
                let kept = captured.frames as usize;
                let common = kept.min(system.len());
                assert_eq!(found[..common], system[..common]);
                assert_eq!(captured.truncated, found.last() == Some(&FrameKey::TRUNCATED));
                assert!(if captured.truncated { kept == 16 } else { kept + 1 >= system.len() });
            });
        }
    }
    session.finish(100);
}

/// 16 KiB on x86-64, 128 on aarch64.
#[test]
fn threads_with_the_smallest_stack() {
    let session = Session::start(128);
    let mut attributes = core::mem::MaybeUninit::uninit();
    // SAFETY: a place for the attributes.
    unsafe { libc::pthread_attr_init(attributes.as_mut_ptr()) };
    // SAFETY: initialised.
    assert_eq!(unsafe { libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), libc::PTHREAD_STACK_MIN) }, 0);
    extern "C" fn body(data: *mut libc::c_void) -> *mut libc::c_void {
        // No standard thread-local with a destructor here: the hook's has none, and little stack is left.
        let mut stacks = ThreadStacks::new();
        let mut first = None;
        for _ in 0..100 {
            let captured = where_little_is_left(&mut stacks);
            assert!(!captured.truncated && captured.frames >= 2, "{captured:?} {:x?}", frames(&captured));
            assert_eq!(first.get_or_insert(captured).frames, captured.frames);
        }
        stacks.release();
        data
    }
    #[inline(never)]
    fn where_little_is_left(stacks: &mut ThreadStacks) -> Captured {
        let registers = Registers::here();
        if registers.sp - stack::bounds(registers.sp).low < STACK_NEEDED {
            black_box(capture(registers, stacks, &tree()))
        } else {
            black_box(with_less(stacks))
        }
    }
    #[inline(never)]
    fn with_less(stacks: &mut ThreadStacks) -> Captured {
        let used = black_box([0_u8; 4096]);
        let captured = where_little_is_left(stacks);
        black_box(used);
        captured
    }
    tree();
    for _ in 0..20 {
        let mut thread = core::mem::MaybeUninit::uninit();
        // SAFETY: a valid function and attributes.
        let failed =
            unsafe { libc::pthread_create(thread.as_mut_ptr(), attributes.as_ptr(), body, core::ptr::null_mut()) };
        assert_eq!(failed, 0);
        // SAFETY: created above.
        let thread = unsafe { thread.assume_init() };
        // SAFETY: running, and joined once.
        unsafe { libc::pthread_join(thread, core::ptr::null_mut()) };
    }
    session.finish(2000);
}

/// A coroutine's stack: outside the thread's bounds, so walked on a private stack by probing.
#[test]
fn on_a_stack_that_nobody_knows() {
    struct Job<'s> {
        sink: &'s Sink,
        captured: Option<Captured>,
    }
    unsafe extern "C" fn on_it(data: *mut u8) {
        // SAFETY: the job below.
        let job = unsafe { &mut *data.cast::<Job<'_>>() };
        for _ in 0..3 {
            recurse(20, &mut |_| {
                let (captured, system) = sample_and_trace(job.sink);
                let found = frames(&captured);
                assert!(captured.frames > 2);
                let common = system.len().min(captured.frames as usize);
                assert_eq!(found[..common], system[..common]);
                job.captured = Some(captured);
            });
        }
    }
    let session = Session::start(128);
    for pages in [16, 64] {
        let pages = stack::map_pages(pages * 4096).map(|p| (p, pages * 4096)).unwrap();
        let mut job = Job { sink: &session.sink, captured: None };
        let top = pages.0.as_ptr().expose_provenance() as u64 + pages.1 as u64;
        // SAFETY: fresh pages, 64 KiB at least.
        unsafe { stack::call_on_stack(top, on_it, (&raw mut job).cast()) };
        assert!(job.captured.is_some());
        // SAFETY: mapped above, not used any more.
        unsafe { stack::unmap_pages(pages.0, pages.1) };
        // On the thread's own stack nothing is confused by it.
        let [(captured, system), _] = twice(&session.sink);
        assert_is(&captured, &system);
    }
    session.finish(100);
}

/// Stacks grown by `stacker`, nested, and back on the thread's own in between.
#[test]
fn stacks_grown_by_stacker() {
    #[inline(never)]
    fn deep(depth: usize, sink: &Sink) {
        if depth.is_multiple_of(4) {
            let (captured, system) = sample_and_trace(sink);
            assert!(captured.frames > 1);
            // Where the stack below lies at a lower address, framehop stops; what was found must be right.
            let found = frames(&captured);
            let common = system.len().min(captured.frames as usize);
            assert_eq!(found[..common], system[..common]);
            sample();
        }
        if depth > 0 {
            let grow = || deep(depth - 1, sink);
            if depth.is_multiple_of(7) { stacker::grow(128 * 1024, grow) } else { grow() }
        }
        black_box(sample());
    }
    let session = Session::start(128);
    for _ in 0..20 {
        deep(40, &session.sink);
        let [(captured, system), _] = twice(&session.sink);
        assert_is(&captured, &system);
    }
    session.finish(800);
}

/// The fallbacks: frame pointers find what there is and stay within the stack; the crate finds all.
#[test]
fn the_other_methods() {
    let session = Session::start(128);
    registry::choose(Method::FramePointers);
    recurse(200, &mut |_| {
        sample();
    });
    registry::choose(Method::Backtrace);
    recurse(20, &mut |_| {
        let (captured, system) = sample_and_trace(&session.sink);
        assert_is(&captured, &system);
    });
    recurse(200, &mut |depth| {
        let captured = sample();
        assert!(if depth < 70 { captured.truncated } else { depth < 100 || !captured.truncated }, "{depth}");
    });
    registry::choose(Method::Framehop);
    let [(captured, system), _] = twice(&session.sink);
    assert_is(&captured, &system);
    session.finish(220);
}

/// The method is the same however few frames are kept, and however deep the caller of `start` is.
#[test]
fn the_method_does_not_depend_on_depths() {
    for max_frames in [4, 8, 10, 128, 1024] {
        assert_eq!(Session::start(max_frames).method, "framehop + replay", "{max_frames} frames");
    }
    let mut method = "";
    recurse(700, &mut |depth| {
        if depth == 0 {
            method = Session::start(128).method;
        }
    });
    assert_eq!(method, "framehop + replay");
}
