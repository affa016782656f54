//! Frames that framehop would leave by a guess: rows that it can't evaluate, code that no table tells of.

use core::arch::naked_asm;
use std::sync::atomic::AtomicPtr;

use super::shapes::recurse;
use super::*;

type Work = unsafe extern "C" fn(*mut u8);
/// Calls `work(data)`.
type Through = unsafe extern "C" fn(*mut u8, Work);

struct Call<'s> {
    sink: &'s Sink,
    captured: Option<(Captured, Vec<FrameKey>)>,
}

unsafe extern "C" fn work(data: *mut u8) {
    // SAFETY: the call below.
    let call = unsafe { &mut *data.cast::<Call<'_>>() };
    // Twice, so that the second is replayed.
    for _ in 0..2 {
        call.captured = Some(sample_and_trace(call.sink));
    }
}

/// The stack as captured in `work`, called by `through`; what the system found; the same stack as captured here: from the second
/// frame on it is that of our caller.
#[inline(never)]
fn call(through: Through, sink: &Sink) -> (Captured, Vec<FrameKey>, Vec<FrameKey>) {
    let mut call = Call { sink, captured: None };
    // SAFETY: calls back with the data.
    unsafe { through((&raw mut call).cast(), work) };
    let here = sample();
    assert!(!here.truncated);
    let (captured, system) = call.captured.unwrap();
    (captured, system, frames(&here))
}

/// The stack has `between` frames between `work` and `call`, and goes on from there.
#[track_caller]
fn assert_passes(through: Through, between: usize, session: &Session) {
    let (captured, _, here) = call(through, &session.sink);
    let found = frames(&captured);
    assert!(!captured.truncated, "{found:x?}");
    assert_eq!(found[between + 2..], here[1..], "{found:x?}");
}

/// The stack has `between` frames below `work`, and says that there are more.
#[track_caller]
fn assert_breaks(through: Through, between: usize, session: &Session) {
    let (captured, ..) = call(through, &session.sink);
    let found = frames(&captured);
    assert!(captured.truncated, "{found:x?}");
    assert_eq!(found.len(), between + 2, "{found:x?}");
    assert_eq!(found.last(), Some(&FrameKey::TRUNCATED));
}

// ---- rows -----------------------------------------------------------------------------------------------------------

/// As gcc compiles a function with an aligned local and one of variable size: where the caller's sp is says a word on the stack.
#[unsafe(naked)]
unsafe extern "C" fn aligned_and_varying(data: *mut u8, work: Work) {
    naked_asm!(
        ".cfi_startproc",
        "lea r10, [rsp + 8]",
        ".cfi_def_cfa r10, 0",
        "and rsp, -64",
        "push qword ptr [r10 - 8]",
        "push rbp",
        "mov rbp, rsp",
        // The caller's rbp is where rbp points to.
        ".cfi_escape 0x10, 0x06, 0x02, 0x76, 0x00",
        "push r10",
        // The caller's sp is the word 8 below that.
        ".cfi_escape 0x0f, 0x03, 0x76, 0x78, 0x06",
        "sub rsp, 104",
        "call rsi",
        "add rsp, 104",
        "pop r10",
        ".cfi_def_cfa r10, 0",
        "pop rbp",
        "lea rsp, [r10 - 8]",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_endproc",
    );
}

#[test]
fn an_aligned_frame_of_variable_size_is_left_by_its_row() {
    let session = Session::start(128);
    // Each depth has another alignment.
    recurse(12, &mut |_| {
        let (captured, system, _) = call(aligned_and_varying, &session.sink);
        assert_is(&captured, &system);
        assert_passes(aligned_and_varying, 1, &session);
    });
    session.finish(20);
}

/// Its table remembers more states at a time than framehop has room for.
#[unsafe(naked)]
unsafe extern "C" fn of_many_states(data: *mut u8, work: Work) {
    naked_asm!(
        ".cfi_startproc",
        "sub rsp, 40",
        ".cfi_def_cfa_offset 48",
        ".cfi_remember_state",
        ".cfi_remember_state",
        ".cfi_remember_state",
        ".cfi_remember_state",
        ".cfi_restore_state",
        ".cfi_restore_state",
        ".cfi_restore_state",
        ".cfi_restore_state",
        "call rsi",
        "add rsp, 40",
        ".cfi_def_cfa_offset 8",
        "ret",
        ".cfi_endproc",
    );
}

#[test]
fn a_row_behind_many_remembered_states_is_read() {
    let session = Session::start(128);
    let (captured, system, _) = call(of_many_states, &session.sink);
    assert_is(&captured, &system);
    assert_passes(of_many_states, 1, &session);
    session.finish(4);
}

/// Its row is about a register that nobody knows. Its frame pointer is an outer frame's.
#[unsafe(naked)]
unsafe extern "C" fn by_an_unknown_register(data: *mut u8, work: Work) {
    naked_asm!(
        ".cfi_startproc",
        "push r12",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset r12, -16",
        "lea r12, [rsp + 16]",
        ".cfi_def_cfa r12, 0",
        "call rsi",
        ".cfi_def_cfa rsp, 16",
        "pop r12",
        ".cfi_def_cfa_offset 8",
        ".cfi_restore r12",
        "ret",
        ".cfi_endproc",
    );
}

/// Keeps a frame pointer for what it calls.
#[unsafe(naked)]
unsafe extern "C" fn over_an_unknown_register(data: *mut u8, work: Work) {
    naked_asm!(
        ".cfi_startproc",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "call {inner}",
        "pop rbp",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_endproc",
        inner = sym by_an_unknown_register,
    );
}

#[test]
fn a_row_that_cannot_be_evaluated_breaks_the_stack_off() {
    let session = Session::start(128);
    assert_breaks(over_an_unknown_register, 1, &session);
    session.finish(2);
}

static INTERRUPTED: AtomicPtr<Call<'static>> = AtomicPtr::new(core::ptr::null_mut());

extern "C" fn on_signal(_: libc::c_int) {
    // SAFETY: the call of the test that raised the signal.
    unsafe { work(INTERRUPTED.load(Ordering::SeqCst).cast()) };
}

#[test]
fn a_stack_goes_on_below_a_signal_handler() {
    let session = Session::start(128);
    let mut call = Call { sink: &session.sink, captured: None };
    INTERRUPTED.store((&raw mut call).cast(), Ordering::SeqCst);
    let handler = on_signal as extern "C" fn(libc::c_int) as *const () as usize;
    // SAFETY: the handler may do what it does: it interrupts `raise`.
    let old = unsafe { libc::signal(libc::SIGURG, handler) };
    // SAFETY: no preconditions.
    unsafe { libc::raise(libc::SIGURG) };
    // SAFETY: what was before.
    unsafe { libc::signal(libc::SIGURG, old) };
    let (captured, system) = call.captured.unwrap();
    let found = frames(&captured);
    assert!(!captured.truncated, "{found:x?}");
    // The interrupted instruction's is the address after its first byte.
    let interrupted = found.iter().zip(&system).filter(|(found, system)| found != system).count();
    assert_eq!(interrupted, 1, "{found:x?} {system:x?}");
    assert!(found.len().abs_diff(system.len()) <= 1);
    session.finish(2);
}

// ---- code without tables --------------------------------------------------------------------------------------------

#[unsafe(naked)]
unsafe extern "C" fn without_a_table(data: *mut u8, work: Work) {
    naked_asm!("push rbp", "mov rbp, rsp", "call rsi", "pop rbp", "ret", ".p2align 4, 0xcc");
}

#[unsafe(naked)]
unsafe extern "C" fn without_a_table_twice(data: *mut u8, work: Work) {
    naked_asm!("push rbp", "mov rbp, rsp", "call {inner}", "pop rbp", "ret", ".p2align 4, 0xcc", inner = sym without_a_table);
}

/// Its frame pointer is an outer frame's.
#[unsafe(naked)]
unsafe extern "C" fn without_a_frame(data: *mut u8, work: Work) {
    naked_asm!(".p2align 4, 0xcc", "sub rsp, 8", "call rsi", "add rsp, 8", "ret", ".p2align 4, 0xcc");
}

#[unsafe(naked)]
unsafe extern "C" fn over_no_frame(data: *mut u8, work: Work) {
    naked_asm!(
        ".cfi_startproc",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "call {inner}",
        "pop rbp",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_endproc",
        inner = sym without_a_frame,
    );
}

/// As the C library starts a program or a thread.
#[unsafe(naked)]
unsafe extern "C" fn starts(data: *mut u8, work: Work) {
    naked_asm!("push rbp", "xor ebp, ebp", "call rsi", "pop rbp", "ret", ".p2align 4, 0xcc");
}

#[test]
fn assembly_with_frame_pointers_is_passed_and_other_breaks_the_stack_off() {
    let session = Session::start(128);
    assert_passes(without_a_table, 1, &session);
    assert_passes(without_a_table_twice, 2, &session);
    assert_breaks(over_no_frame, 1, &session);
    let (captured, ..) = call(starts, &session.sink);
    assert_eq!((captured.truncated, captured.frames), (false, 2), "{:x?}", frames(&captured));
    session.finish(8);
}

/// Code that no module knows, as a just-in-time compiler makes it.
struct Made(core::ptr::NonNull<u8>);

impl Made {
    fn new(code: &[&[u8]]) -> Made {
        let page = stack::map_pages(4096).unwrap();
        let code = code.concat();
        // SAFETY: less than the fresh page.
        unsafe { core::ptr::copy_nonoverlapping(code.as_ptr(), page.as_ptr(), code.len()) };
        // SAFETY: our own page.
        let failed = unsafe { libc::mprotect(page.as_ptr().cast(), 4096, libc::PROT_READ | libc::PROT_EXEC) };
        assert_eq!(failed, 0);
        Made(page)
    }

    fn through(&self) -> Through {
        // SAFETY: the page begins with a function of this type.
        unsafe { core::mem::transmute::<*mut u8, Through>(self.0.as_ptr()) }
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // SAFETY: made above, and none of its functions runs.
        unsafe { stack::unmap_pages(self.0, 4096) };
    }
}

/// `push rbp; mov rbp, rsp`.
const KEEPS: &[u8] = &[0x55, 0x48, 0x89, 0xe5];
/// `call rsi`.
const CALLS: &[u8] = &[0xff, 0xd6];
/// `pop rbp; ret`.
const LEAVES: &[u8] = &[0x5d, 0xc3];

#[test]
fn made_code_with_frame_pointers_is_passed() {
    let session = Session::start(128);
    assert_passes(Made::new(&[KEEPS, CALLS, LEAVES]).through(), 1, &session);
    // Calls the function behind it.
    let twice = Made::new(&[KEEPS, &[0xe8, 2, 0, 0, 0], LEAVES, KEEPS, CALLS, LEAVES]);
    assert_passes(twice.through(), 2, &session);
    session.finish(4);
}

#[test]
fn made_code_without_frame_pointers_breaks_the_stack_off() {
    let session = Session::start(128);
    // `push rbp; xor ebp, ebp`: in a module's code it would be the start.
    assert_breaks(Made::new(&[&[0x55, 0x31, 0xed], CALLS, LEAVES]).through(), 1, &session);
    // Its frame pointer points to its data: 0, and a function's address.
    let function = (libc::getppid as unsafe extern "C" fn() -> libc::pid_t as usize as u64 + 5).to_le_bytes();
    let data: [&[u8]; 6] = [
        // `sub rsp, 32; mov rax, function; mov [rsp + 8], rax; mov qword ptr [rsp], 0; mov rbp, rsp`.
        &[0x48, 0x83, 0xec, 0x20, 0x48, 0xb8],
        &function,
        &[0x48, 0x89, 0x44, 0x24, 0x08, 0x48, 0xc7, 0x04, 0x24, 0, 0, 0, 0, 0x48, 0x89, 0xe5],
        CALLS,
        &[0x48, 0x83, 0xc4, 0x20],
        LEAVES,
    ];
    let data = data.concat();
    assert_breaks(Made::new(&[&[0x55], &data]).through(), 1, &session);
    assert_breaks(Made::new(&[KEEPS, &data]).through(), 1, &session);
    session.finish(6);
}
