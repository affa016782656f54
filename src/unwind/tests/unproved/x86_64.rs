//! x86-64's functions for the tests above, and the rows that are its own.

use core::arch::naked_asm;

use super::super::shapes::recurse;
use super::*;

/// A function that keeps a frame pointer, and a table that says so.
macro_rules! with_a_frame {
    ($call:literal $(, $operand:ident = sym $function:ident)?) => {
        naked_asm!(
            ".cfi_startproc",
            "push rbp",
            ".cfi_def_cfa_offset 16",
            ".cfi_offset rbp, -16",
            "mov rbp, rsp",
            ".cfi_def_cfa_register rbp",
            $call,
            "pop rbp",
            ".cfi_def_cfa rsp, 8",
            "ret",
            ".cfi_endproc",
            $($operand = sym $function,)?
        )
    };
}

#[unsafe(naked)]
pub(super) unsafe extern "C" fn without_a_table(data: *mut u8, work: Work) {
    naked_asm!("push rbp", "mov rbp, rsp", "call rsi", "pop rbp", "ret", ".p2align 4, 0xcc");
}

#[unsafe(naked)]
pub(super) unsafe extern "C" fn without_a_table_twice(data: *mut u8, work: Work) {
    naked_asm!("push rbp", "mov rbp, rsp", "call {inner}", "pop rbp", "ret", ".p2align 4, 0xcc", inner = sym without_a_table);
}

/// Its frame pointer is an outer frame's.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn without_a_frame(data: *mut u8, work: Work) {
    naked_asm!(".p2align 4, 0xcc", "sub rsp, 8", "call rsi", "add rsp, 8", "ret", ".p2align 4, 0xcc");
}

#[unsafe(naked)]
pub(super) unsafe extern "C" fn over_no_frame(data: *mut u8, work: Work) {
    with_a_frame!("call {inner}", inner = sym without_a_frame);
}

/// As the C library starts a program or a thread.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn starts(data: *mut u8, work: Work) {
    naked_asm!("push rbp", "xor ebp, ebp", "call rsi", "pop rbp", "ret", ".p2align 4, 0xcc");
}

/// `push rbp; mov rbp, rsp`.
pub(super) const KEEPS: &[u8] = &[0x55, 0x48, 0x89, 0xe5];
/// `call rsi`.
pub(super) const CALLS: &[u8] = &[0xff, 0xd6];
/// `pop rbp; ret`.
pub(super) const LEAVES: &[u8] = &[0x5d, 0xc3];

/// `push rbp; xor ebp, ebp; call rsi; pop rbp; ret`.
pub(super) const STARTS: &[&[u8]] = &[&[0x55, 0x31, 0xed], CALLS, LEAVES];
/// Calls the function behind it, which calls `rsi`.
pub(super) const TWICE: &[&[u8]] = &[KEEPS, &[0xe8, 2, 0, 0, 0], LEAVES, KEEPS, CALLS, LEAVES];

/// Its frame pointer points to its data: 0, and a function's address. With and without `KEEPS` before.
pub(super) fn points_to_data(function: u64) -> [Made; 2] {
    let data: [&[u8]; 6] = [
        // `sub rsp, 32; mov rax, function; mov [rsp + 8], rax; mov qword ptr [rsp], 0; mov rbp, rsp`.
        &[0x48, 0x83, 0xec, 0x20, 0x48, 0xb8],
        &function.to_le_bytes(),
        &[0x48, 0x89, 0x44, 0x24, 0x08, 0x48, 0xc7, 0x04, 0x24, 0, 0, 0, 0, 0x48, 0x89, 0xe5],
        CALLS,
        &[0x48, 0x83, 0xc4, 0x20],
        LEAVES,
    ];
    let data = data.concat();
    [Made::new(&[&[0x55], &data]), Made::new(&[KEEPS, &data])]
}

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
    with_a_frame!("call {inner}", inner = sym by_an_unknown_register);
}

#[test]
fn a_row_that_cannot_be_evaluated_breaks_the_stack_off() {
    let session = Session::start(128);
    assert_breaks(over_an_unknown_register, 1, &session);
    session.finish(2);
}

/// As musl's: what a signal handler returns to, without a table.
#[unsafe(naked)]
unsafe extern "C" fn returns_from_a_signal() {
    naked_asm!(".p2align 4, 0xcc", "mov rax, 15", "syscall", ".p2align 4, 0xcc");
}

/// The kernel's `struct sigaction`.
#[repr(C)]
struct Action {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

#[test]
fn a_stack_goes_on_below_a_signal_handler_that_no_table_tells_of() {
    const SA_RESTORER: u64 = 0x0400_0000;
    let session = Session::start(128);
    let captured = interrupted(&session.sink, libc::SIGURG, |signal| {
        let (mut action, null) =
            (Action { handler: 0, flags: 0, restorer: 0, mask: 0 }, core::ptr::null_mut::<Action>());
        // SAFETY: the kernel's own structure, read into.
        assert_eq!(unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, null, &raw mut action, 8) }, 0);
        action.flags |= SA_RESTORER;
        action.restorer = returns_from_a_signal as unsafe extern "C" fn() as *const () as usize;
        // SAFETY: the handler that was set, and a restorer that does what glibc's does.
        assert_eq!(unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, &raw const action, null, 8) }, 0);
        // SAFETY: the signal has a handler.
        assert_eq!(unsafe { libc::raise(signal) }, 0);
    });
    assert_goes_on(&captured);
    session.finish(2);
}

/// Calls through with a signal's handler in place of `work`: the function traps by itself.
fn trapped_in(through: Through, sink: &Sink) -> Captured {
    let captured = interrupted(sink, libc::SIGTRAP, |_| {
        // SAFETY: takes nothing of either.
        unsafe { through(core::ptr::null_mut(), work) };
    });
    captured.0
}

/// Traps at its `ret`: the frame pointer is its caller's already.
#[unsafe(naked)]
unsafe extern "C" fn traps_at_its_end() {
    naked_asm!(".p2align 4, 0xcc", "push rbp", "mov rbp, rsp", "pop rbp", "int3", "ret", ".p2align 4, 0xcc");
}

#[unsafe(naked)]
unsafe extern "C" fn calls_what_traps(data: *mut u8, work: Work) {
    naked_asm!("push rbp", "mov rbp, rsp", "call {inner}", "pop rbp", "ret", ".p2align 4, 0xcc", inner = sym traps_at_its_end);
}

/// Traps without a frame.
#[unsafe(naked)]
unsafe extern "C" fn traps() {
    naked_asm!(".p2align 4, 0xcc", "nop", "int3", "nop", "ret", ".p2align 4, 0xcc");
}

/// Its frame pointer register holds 0.
#[unsafe(naked)]
unsafe extern "C" fn calls_with_zero(data: *mut u8, work: Work) {
    naked_asm!(
        ".cfi_startproc",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "xor ebp, ebp",
        "call {inner}",
        "pop rbp",
        ".cfi_def_cfa_offset 8",
        ".cfi_restore rbp",
        "ret",
        ".cfi_endproc",
        inner = sym traps,
    );
}

#[test]
fn code_proves_nothing_of_an_interrupted_instruction() {
    let session = Session::start(128);
    // `int3` between `pop rbp` and `ret`.
    let made = Made::new(&[KEEPS, &[0xe8, 2, 0, 0, 0], LEAVES, KEEPS, &[0x5d, 0xcc, 0xc3]]);
    for through in [made.through(), calls_what_traps, calls_with_zero] {
        let captured = trapped_in(through, &session.sink);
        let found = frames(&captured);
        assert!(captured.truncated, "{found:x?}");
        // `work`, the handler, what it returns to, and what was interrupted.
        assert!(found.len() <= 6, "{found:x?}");
    }
    session.finish(2);
}

/// The caller's rbp is where `cfa - 16` is: an expression finds the cfa on its stack (DWARF 5, 6.4.2.3).
#[unsafe(naked)]
unsafe extern "C" fn saved_by_an_expression(data: *mut u8, work: Work) {
    naked_asm!(
        ".cfi_startproc",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        // DW_OP_lit16, DW_OP_minus.
        ".cfi_escape 0x10, 0x06, 0x02, 0x40, 0x1c",
        "mov ebp, 7",
        "call rsi",
        "pop rbp",
        ".cfi_def_cfa_offset 8",
        ".cfi_restore rbp",
        "ret",
        ".cfi_endproc",
    );
}

#[test]
fn an_expression_finds_the_cfa_on_its_stack() {
    let session = Session::start(128);
    assert_passes(saved_by_an_expression, 1, &session);
    session.finish(2);
}

/// Calls the made function, and keeps a frame pointer meanwhile.
#[unsafe(naked)]
unsafe extern "C" fn over_made(data: *mut u8, work: Work, made: Through) {
    with_a_frame!("call rdx");
}

#[test]
fn code_that_was_made_anew_is_looked_at_anew() {
    let session = Session::start(128);
    let made = Made::new(&[]);
    let truncated = [&[KEEPS, CALLS, LEAVES][..], &[&[0x50, 0x90, 0x90, 0x90], CALLS, &[0x58, 0xc3]]].map(|code| {
        made.make(code);
        let mut call = Call { sink: &session.sink, captured: None };
        // SAFETY: the page holds a function that calls back with the data.
        unsafe { over_made((&raw mut call).cast(), work, made.through()) };
        call.captured.unwrap().0.truncated
    });
    assert_eq!(truncated, [false, true]);
    session.finish(4);
}
