//! aarch64's functions for the tests above, and the rows that are its own.

use core::arch::naked_asm;

use super::super::shapes::recurse;
use super::*;

#[unsafe(naked)]
pub(super) unsafe extern "C" fn without_a_table(data: *mut u8, work: Work) {
    naked_asm!("stp x29, x30, [sp, #-16]!", "mov x29, sp", "blr x1", "ldp x29, x30, [sp], #16", "ret");
}

#[unsafe(naked)]
pub(super) unsafe extern "C" fn without_a_table_twice(data: *mut u8, work: Work) {
    naked_asm!(
        "stp x29, x30, [sp, #-16]!",
        "mov x29, sp",
        "bl {inner}",
        "ldp x29, x30, [sp], #16",
        "ret",
        inner = sym without_a_table,
    );
}

/// Its frame pointer is an outer frame's.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn without_a_frame(data: *mut u8, work: Work) {
    naked_asm!("str x30, [sp, #-16]!", "blr x1", "ldr x30, [sp], #16", "ret");
}

#[unsafe(naked)]
pub(super) unsafe extern "C" fn over_no_frame(data: *mut u8, work: Work) {
    naked_asm!(
        ".cfi_startproc",
        "stp x29, x30, [sp, #-16]!",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset x29, -16",
        ".cfi_offset x30, -8",
        "mov x29, sp",
        ".cfi_def_cfa x29, 16",
        "bl {inner}",
        "ldp x29, x30, [sp], #16",
        ".cfi_def_cfa sp, 0",
        ".cfi_restore x29",
        ".cfi_restore x30",
        "ret",
        ".cfi_endproc",
        inner = sym without_a_frame,
    );
}

/// As the C library starts a program or a thread.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn starts(data: *mut u8, work: Work) {
    naked_asm!("stp x29, x30, [sp, #-16]!", "mov x29, #0", "blr x1", "ldp x29, x30, [sp], #16", "ret");
}

/// `stp x29, x30, [sp, #-16]!; mov x29, sp`.
pub(super) const KEEPS: &[u8] = &[0xfd, 0x7b, 0xbf, 0xa9, 0xfd, 0x03, 0x00, 0x91];
/// `blr x1`.
pub(super) const CALLS: &[u8] = &[0x20, 0x00, 0x3f, 0xd6];
/// `ldp x29, x30, [sp], #16; ret`.
pub(super) const LEAVES: &[u8] = &[0xfd, 0x7b, 0xc1, 0xa8, 0xc0, 0x03, 0x5f, 0xd6];
/// `stp x29, x30, [sp, #-16]!; mov x29, #0; blr x1; ldp x29, x30, [sp], #16; ret`.
pub(super) const STARTS: &[&[u8]] = &[&[0xfd, 0x7b, 0xbf, 0xa9, 0x1d, 0x00, 0x80, 0xd2], CALLS, LEAVES];
/// Calls the function behind it (`bl`, three instructions on), which calls `x1`.
pub(super) const TWICE: &[&[u8]] = &[KEEPS, &[0x03, 0x00, 0x00, 0x94], LEAVES, KEEPS, CALLS, LEAVES];

/// Its frame pointer points to its data: 0, and a function's address. With and without `KEEPS` before.
pub(super) fn points_to_data(function: u64) -> [Made; 2] {
    let data: [&[u8]; 6] = [
        // `ldr x9, function; stp xzr, x9, [sp, #-16]!; mov x9, sp; orr x29, x9, x9; b` over the function's address.
        &[0xa9, 0x00, 0x00, 0x58, 0xff, 0x27, 0xbf, 0xa9, 0xe9, 0x03, 0x00, 0x91, 0x3d, 0x01, 0x09, 0xaa],
        &[0x03, 0x00, 0x00, 0x14],
        &function.to_le_bytes(),
        CALLS,
        // `add sp, sp, #16`.
        &[0xff, 0x43, 0x00, 0x91],
        LEAVES,
    ];
    let data = data.concat();
    // `stp x29, x30, [sp, #-16]!`.
    [Made::new(&[&KEEPS[..4], &data]), Made::new(&[KEEPS, &data])]
}

/// As compilers write it to protect return addresses: what is on the stack has a signature in its upper bits (on processors
/// that have no such instructions they do nothing).
#[unsafe(naked)]
unsafe extern "C" fn signed(data: *mut u8, work: Work) {
    naked_asm!(
        ".cfi_startproc",
        // `paciasp`.
        "hint #25",
        ".cfi_negate_ra_state",
        "stp x29, x30, [sp, #-16]!",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset x29, -16",
        ".cfi_offset x30, -8",
        "mov x29, sp",
        "blr x1",
        "ldp x29, x30, [sp], #16",
        ".cfi_def_cfa_offset 0",
        ".cfi_restore x29",
        ".cfi_restore x30",
        // `autiasp`.
        "hint #29",
        ".cfi_negate_ra_state",
        "ret",
        ".cfi_endproc",
    );
}

#[test]
fn return_addresses_that_are_signed_are_found() {
    let session = Session::start(128);
    recurse(12, &mut |_| {
        let (captured, system, _) = call(signed, &session.sink);
        assert_is(&captured, &system);
        assert_passes(signed, 1, &session);
    });
    session.finish(20);
}

/// A function that uses the frame pointer register for something else, as C compilers may.
macro_rules! with_frame_pointer {
    ($name:ident, $value:literal) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name(data: *mut u8, work: Work) {
            naked_asm!(
                ".cfi_startproc",
                "stp x29, x30, [sp, #-16]!",
                ".cfi_def_cfa_offset 16",
                ".cfi_offset x29, -16",
                ".cfi_offset x30, -8",
                $value,
                "blr x1",
                "ldp x29, x30, [sp], #16",
                ".cfi_def_cfa_offset 0",
                ".cfi_restore x29",
                ".cfi_restore x30",
                "ret",
                ".cfi_endproc",
            );
        }
    };
}

with_frame_pointer!(of_zero, "mov x29, #0");
with_frame_pointer!(of_seven, "mov x29, #7");
with_frame_pointer!(of_ones, "mov x29, #-1");

#[test]
fn a_frame_pointer_register_that_holds_something_else_is_no_end() {
    let session = Session::start(128);
    for through in [of_zero as Through, of_seven, of_ones] {
        let (captured, system, _) = call(through, &session.sink);
        assert_is(&captured, &system);
        assert_passes(through, 1, &session);
    }
    session.finish(6);
}

/// Signs by the other key, which gimli does not know; its frame pointer register holds 0.
#[unsafe(naked)]
unsafe extern "C" fn signed_by_the_other_key(data: *mut u8, work: Work) {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_b_key_frame",
        // `pacibsp`.
        "hint #27",
        ".cfi_negate_ra_state",
        "stp x29, x30, [sp, #-16]!",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset x29, -16",
        ".cfi_offset x30, -8",
        "mov x29, #0",
        "blr x1",
        "ldp x29, x30, [sp], #16",
        ".cfi_def_cfa_offset 0",
        ".cfi_restore x29",
        ".cfi_restore x30",
        // `autibsp`.
        "hint #31",
        ".cfi_negate_ra_state",
        "ret",
        ".cfi_endproc",
    );
}

#[test]
fn a_table_that_cannot_be_read_is_no_end() {
    let session = Session::start(128);
    assert_breaks(signed_by_the_other_key, 1, &session);
    session.finish(2);
}

#[test]
fn a_link_register_matters_where_it_was_the_return_address() {
    use super::super::super::frame::{Frame, State};
    // SAFETY: numbers alone.
    let mut frame: Frame = unsafe { core::mem::zeroed() };
    let state = State { sp: 4096, address: 4096, fp: 0 };
    frame.begin(&state, true);
    // Another register's.
    frame.note(4096, 17);
    assert!(frame.is_first(&state, 1, 2));
    frame.link();
    assert!(!frame.is_first(&state, 1, 2) && frame.is_first(&state, 2, 2));
}
