//! The loaded modules: the program, its shared libraries, the vdso.
//!
//! Promises: `visit` shows each module once, while the loader's lock keeps all of them loaded; the slices live only
//! during the visit of their module. `changes` is cheap (one call, no parsing). Both take the loader's lock: never
//! inside an allocation. Malformed headers make a module without unwind tables, never a wrong read: every address is
//! checked against the module's loaded segments.
//!
//! Source: `dl_iterate_phdr(3)`; the Linux Standard Base's `.eh_frame_hdr`.
#![allow(unsafe_code, reason = "the loader's callback and the headers that it points to")]

use core::ops::Range;
use std::ffi::{CStr, c_int, c_void};

/// How often modules were loaded and unloaded since the process began. Any change means: look again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Modules ever loaded.
    pub(crate) adds: u64,
    /// Modules ever unloaded.
    pub(crate) subs: u64,
}

/// One module, as seen during a visit.
#[derive(Clone, Debug)]
pub(crate) struct View<'a> {
    /// The path that it was loaded from; empty for the program itself, a bare name for the vdso.
    pub(crate) path: &'a [u8],
    /// Which module of the visit; the program is 0.
    pub(crate) index: usize,
    /// What is added to an address of the file to get an address in the process.
    pub(crate) bias: u64,
    /// The lowest loaded address in the process.
    pub(crate) base: u64,
    /// Executable addresses in the process, from the first to the last such segment's end.
    pub(crate) text: Range<u64>,
    /// `.eh_frame_hdr` and its address; empty where there is none.
    pub(crate) eh_frame_hdr: &'a [u8],
    pub(crate) eh_frame_hdr_address: u64,
    /// `.eh_frame` to the end of its segment, and its address; empty where there is none.
    pub(crate) eh_frame: &'a [u8],
    pub(crate) eh_frame_address: u64,
    /// The GNU build id, or empty.
    pub(crate) build_id: &'a [u8],
    /// The kernel's own module.
    pub(crate) vdso: bool,
}

impl<'a> View<'a> {
    /// `.eh_frame` alone, where its end can be told: for a copy.
    pub(crate) fn eh_frame_section(&self) -> &'a [u8] {
        let length = eh_frame_length(self.eh_frame);
        // A terminator in the middle (objects linked after crtend.o) is no end: the index names entries beyond it.
        let last = last_entry(self.eh_frame_hdr, self.eh_frame_hdr_address.wrapping_sub(self.eh_frame_address));
        if last.is_some_and(|last| last < length as u64) { &self.eh_frame[..length] } else { self.eh_frame }
    }
}

/// An address in libc: its module is never unloaded.
pub(crate) fn libc_address() -> u64 {
    libc::getauxval as unsafe extern "C" fn(libc::c_ulong) -> libc::c_ulong as usize as u64
}

/// Reads the counters. About 0.1 us and the loader's lock.
pub(crate) fn changes() -> Changes {
    unsafe extern "C" fn first(info: *mut libc::dl_phdr_info, _: usize, data: *mut c_void) -> c_int {
        // SAFETY: the loader passes a valid description.
        let info = unsafe { &*info };
        // SAFETY: `data` is the `Changes` below.
        unsafe { *data.cast::<Changes>() = Changes { adds: info.dlpi_adds, subs: info.dlpi_subs } };
        1
    }
    let mut changes = Changes::default();
    // SAFETY: the callback matches its data.
    unsafe { libc::dl_iterate_phdr(Some(first), (&raw mut changes).cast()) };
    changes
}

/// Shows every module to `see`, in loading order. `see` runs under the loader's lock: it may allocate, and must not
/// load, unload, or wait for anyone.
pub(crate) fn visit(mut see: impl FnMut(View<'_>)) -> Changes {
    struct Visit<'a> {
        see: &'a mut dyn FnMut(View<'_>),
        index: usize,
        vdso: u64,
        changes: Changes,
    }
    unsafe extern "C" fn each(info: *mut libc::dl_phdr_info, _: usize, data: *mut c_void) -> c_int {
        // SAFETY: the loader passes a valid description, alive during the call.
        let info = unsafe { &*info };
        // SAFETY: `data` is the `Visit` below.
        let visit = unsafe { &mut *data.cast::<Visit<'_>>() };
        visit.changes = Changes { adds: info.dlpi_adds, subs: info.dlpi_subs };
        // SAFETY: the loader vouches for its description.
        if let Some(view) = unsafe { describe(info, visit.index, visit.vdso) } {
            (visit.see)(view);
        }
        visit.index += 1;
        0
    }
    // SAFETY: no preconditions.
    let vdso = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
    let mut visit = Visit { see: &mut see, index: 0, vdso, changes: Changes::default() };
    // SAFETY: the callback matches its data.
    unsafe { libc::dl_iterate_phdr(Some(each), (&raw mut visit).cast()) };
    visit.changes
}

/// # Safety
/// - `info` describes a module that stays loaded for `'a`.
unsafe fn describe<'a>(info: &'a libc::dl_phdr_info, index: usize, vdso: u64) -> Option<View<'a>> {
    if info.dlpi_phdr.is_null() {
        return None;
    }
    // SAFETY: the loader's own table of this many headers.
    let headers = unsafe { core::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let bias = info.dlpi_addr;
    let path = if info.dlpi_name.is_null() {
        &[][..]
    } else {
        // SAFETY: a C string that lives as long as the module.
        unsafe { CStr::from_ptr(info.dlpi_name) }.to_bytes()
    };
    let segments = Segments { headers, bias };
    let mut view = View {
        path,
        index,
        bias,
        base: u64::MAX,
        text: Range { start: u64::MAX, end: 0 },
        eh_frame_hdr: &[],
        eh_frame_hdr_address: 0,
        eh_frame: &[],
        eh_frame_address: 0,
        build_id: &[],
        vdso: false,
    };
    for header in headers {
        let start = bias.wrapping_add(header.p_vaddr);
        match header.p_type {
            libc::PT_LOAD => {
                view.base = view.base.min(start);
                view.vdso |= vdso != 0 && start == vdso;
                if header.p_flags & libc::PF_X != 0 {
                    view.text.start = view.text.start.min(start);
                    view.text.end = view.text.end.max(start.wrapping_add(header.p_memsz));
                }
            }
            libc::PT_GNU_EH_FRAME => {
                if let Some(bytes) = segments.bytes(start, Some(header.p_memsz)) {
                    view.eh_frame_hdr = bytes;
                    view.eh_frame_hdr_address = start;
                }
            }
            libc::PT_NOTE if view.build_id.is_empty() => {
                if let Some(notes) = segments.bytes(start, Some(header.p_memsz)) {
                    view.build_id = build_id(notes).unwrap_or_default();
                }
            }
            _ => {}
        }
    }
    if view.text.is_empty() {
        return None;
    }
    if let Some(address) = eh_frame_address(view.eh_frame_hdr, view.eh_frame_hdr_address)
        && let Some(bytes) = segments.bytes(address, None)
    {
        view.eh_frame = bytes;
        view.eh_frame_address = address;
    }
    Some(view)
}

/// The loaded segments: what may be read.
struct Segments<'a> {
    headers: &'a [libc::Elf64_Phdr],
    bias: u64,
}

impl<'a> Segments<'a> {
    /// `length` bytes at `address` (to the segment's end without a length), if one readable segment holds them all.
    fn bytes(&self, address: u64, length: Option<u64>) -> Option<&'a [u8]> {
        self.headers.iter().find_map(|header| {
            if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_R == 0 {
                return None;
            }
            let offset = address.checked_sub(self.bias.wrapping_add(header.p_vaddr))?;
            // Bytes beyond the file's part are zeros; tables never lie there.
            let room = header.p_filesz.checked_sub(offset)?;
            let length = usize::try_from(length.unwrap_or(room)).ok()?;
            if length as u64 > room {
                return None;
            }
            let start = core::ptr::with_exposed_provenance::<u8>(usize::try_from(address).ok()?);
            // SAFETY: inside one loaded readable segment, which stays loaded for 'a.
            Some(unsafe { core::slice::from_raw_parts(start, length) })
        })
    }
}

/// The address of `.eh_frame` that the header points to. Linkers write one form: a 32-bit offset from the field.
fn eh_frame_address(hdr: &[u8], hdr_address: u64) -> Option<u64> {
    const PC_RELATIVE_I32: u8 = 0x1b;
    let (&[1, PC_RELATIVE_I32, _, _], rest) = hdr.split_first_chunk::<4>()? else { return None };
    let offset = i32::from_le_bytes(*rest.first_chunk::<4>()?);
    hdr_address.checked_add(4)?.checked_add_signed(i64::from(offset))
}

/// The offset in `.eh_frame` of the last entry that the header's index names; `hdr_offset` is the header's own.
fn last_entry(hdr: &[u8], hdr_offset: u64) -> Option<u64> {
    const U32: u8 = 0x03;
    const HDR_RELATIVE_I32: u8 = 0x3b;
    let (&[1, _, U32, HDR_RELATIVE_I32], rest) = hdr.split_first_chunk::<4>()? else { return None };
    let rows = rest.get(8..)?.chunks_exact(8);
    let entries = rows.map(|row| {
        let offset = i32::from_le_bytes([row[4], row[5], row[6], row[7]]);
        hdr_offset.wrapping_add_signed(i64::from(offset))
    });
    entries.max()
}

/// How many of these bytes `.eh_frame` is: up to and with its terminator, or all.
fn eh_frame_length(bytes: &[u8]) -> usize {
    let mut at = 0_usize;
    while let Some(length) = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()) {
        match u32::from_le_bytes(*length) {
            0 => return at + 4,
            // A 64-bit length: no linker writes one; keep everything.
            u32::MAX => return bytes.len(),
            length => at = at.saturating_add(4 + length as usize),
        }
    }
    bytes.len()
}

/// The GNU build id among these notes.
fn build_id(mut notes: &[u8]) -> Option<&[u8]> {
    const GNU_BUILD_ID: u32 = 3;
    let word = |bytes: &[u8], at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk::<4>()?));
    loop {
        let name_length = word(notes, 0)? as usize;
        let length = word(notes, 4)? as usize;
        let kind = word(notes, 8)?;
        let start = 12 + name_length.checked_next_multiple_of(4)?;
        let end = start.checked_add(length)?;
        let found = notes.get(start..end)?;
        if kind == GNU_BUILD_ID && notes.get(12..16) == Some(b"GNU\0") {
            return Some(found);
        }
        notes = notes.get(end.checked_next_multiple_of(4)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_is_found_with_its_tables() {
        let here = this_program_is_found_with_its_tables as fn() as usize as u64;
        let mut found = false;
        let mut vdsos = 0;
        let seen = visit(|view| {
            vdsos += usize::from(view.vdso);
            if view.text.contains(&here) {
                found = true;
                assert_eq!(view.index, 0);
                assert!(view.base <= view.text.start);
                assert!(view.eh_frame_hdr.len() > 100 && view.eh_frame.len() > 100);
                assert!(view.eh_frame_section().ends_with(&[0; 4]));
                assert!(view.eh_frame_section().len() <= view.eh_frame.len());
            }
        });
        assert!(found && vdsos <= 1);
        assert_eq!(seen, changes());
        assert!(seen.adds >= 2);
    }

    #[test]
    fn notes_are_searched_and_malformed_ones_refused() {
        let mut notes = Vec::new();
        notes.extend([4_u32, 3, 1].iter().flat_map(|w| w.to_le_bytes()));
        notes.extend(b"GNU\0abc\0");
        notes.extend([4_u32, 5, 3].iter().flat_map(|w| w.to_le_bytes()));
        notes.extend(b"GNU\0HELLO\0\0\0");
        assert_eq!(build_id(&notes), Some(&b"HELLO"[..]));
        for cut in 0..37 {
            assert_eq!(build_id(&notes[..cut]), None);
        }
        assert_eq!(build_id(&[0xff; 64]), None);
    }

    #[test]
    fn the_frame_table_ends_at_its_terminator() {
        assert_eq!(eh_frame_length(&[4, 0, 0, 0, 9, 9, 9, 9, 0, 0, 0, 0, 7, 7]), 12);
        assert_eq!(eh_frame_length(&[4, 0, 0, 0, 9, 9, 9, 9]), 8);
        assert_eq!(eh_frame_length(&[0xff; 8]), 8);
        assert_eq!(eh_frame_length(&[]), 0);
        assert_eq!(eh_frame_address(&[1, 0x1b, 3, 0x3b, 0xfc, 0xff, 0xff, 0xff], 0x1000), Some(0x1000));
        assert_eq!(eh_frame_address(&[1, 0x50, 3, 0x3b, 0, 0, 0, 0], 0x1000), None);
        assert_eq!(eh_frame_address(&[1], 0x1000), None);
    }
}
