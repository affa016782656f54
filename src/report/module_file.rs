//! The file on disk that a module was loaded from, or nothing: never a file that only has its name.
//!
//! A program is often rebuilt, upgraded or deleted while it runs, and a container's paths mean nothing outside it.
//! So a file counts as a module's only if it carries the same GNU build id; where the module has none, if the file
//! has none either, its executable segment ends on the same page, and it has not been changed since the profile began: a program
//! that was built anew ends on the same page more often than not. Tried in order: separate debug information by
//! build id, the path itself, the process's own links to what it runs (`/proc/PID/exe`, `/proc/PID/root`).
//! Format: System V ABI, 'Program Loading'; GNU notes as in `elf.h`.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::store::picture::ModulePicture;

/// The file to read a module's symbols from, of a profile that began so many nanoseconds after 1970.
pub(super) fn find(module: &ModulePicture, pid: u32, started_unix_ns: u64) -> Option<PathBuf> {
    let is_of = |path: &PathBuf| {
        let is_of = Identity::read(path).is_some_and(|file| file.is_of(module));
        is_of && (!module.build_id.is_empty() || is_unchanged(path, started_unix_ns))
    };
    candidates(module, pid).into_iter().find(is_of)
}

/// Was neither the file's content written nor the file put in its place since then?
fn is_unchanged(path: &Path, since_unix_ns: u64) -> bool {
    let ns = |seconds: i64, part: i64| i128::from(seconds) * 1_000_000_000 + i128::from(part);
    path.metadata().is_ok_and(|file| {
        let changed = ns(file.mtime(), file.mtime_nsec()).max(ns(file.ctime(), file.ctime_nsec()));
        changed <= i128::from(since_unix_ns)
    })
}

fn candidates(module: &ModulePicture, pid: u32) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    let hex: String = module.build_id.iter().map(|byte| format!("{byte:02x}")).collect();
    if let Some((directory, file)) = hex.split_at_checked(2).filter(|(_, file)| !file.is_empty()) {
        paths.push(PathBuf::from(format!("/usr/lib/debug/.build-id/{directory}/{file}.debug")));
    }
    if module.path.starts_with('/') {
        paths.push(PathBuf::from(&module.path));
    }
    // A number that went to another process is no danger when the build id decides.
    if !module.build_id.is_empty() {
        paths.push(PathBuf::from(format!("/proc/{pid}/exe")));
        if module.path.starts_with('/') {
            paths.push(PathBuf::from(format!("/proc/{pid}/root{}", module.path)));
        }
    }
    paths
}

/// What tells one build of a module from another.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    build_id: Vec<u8>,
    /// The highest end of an executable segment, as a virtual address of the file.
    code_end: u64,
}

const PAGE_BYTES: u64 = 4096;
/// Far above what any linker writes; bounds what a damaged file can make us read.
const PROGRAM_HEADERS_MAX: u16 = 256;
const NOTE_BYTES_MAX: u64 = 64 * 1024;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const PF_X: u32 = 1;
const NT_GNU_BUILD_ID: u32 = 3;

impl Identity {
    /// Reads the headers of a 64-bit little-endian ELF file; `None` where it is none, or cannot be read.
    fn read(path: &Path) -> Option<Identity> {
        // A fifo of that name would block the open for ever.
        if !path.metadata().ok()?.is_file() {
            return None;
        }
        let mut file = File::open(path).ok()?;
        let mut header = [0; 64];
        read_at(&mut file, &mut header, 0)?;
        if header.get(..6)? != b"\x7fELF\x02\x01" {
            return None;
        }
        let table = u64_at(&header, 32)?;
        let entry_bytes = u64::from(u16_at(&header, 54)?);
        let count = u16_at(&header, 56)?.min(PROGRAM_HEADERS_MAX);
        let mut identity = Identity { build_id: Vec::new(), code_end: 0 };
        for i in 0..u64::from(count) {
            let mut entry = [0; 56];
            read_at(&mut file, &mut entry, table.checked_add(i * entry_bytes)?)?;
            let (offset, address) = (u64_at(&entry, 8)?, u64_at(&entry, 16)?);
            let (file_bytes, memory_bytes) = (u64_at(&entry, 32)?, u64_at(&entry, 40)?);
            match u32_at(&entry, 0)? {
                PT_LOAD if u32_at(&entry, 4)? & PF_X != 0 => {
                    identity.code_end = identity.code_end.max(address.saturating_add(memory_bytes));
                }
                PT_NOTE if identity.build_id.is_empty() && file_bytes <= NOTE_BYTES_MAX => {
                    let mut notes = vec![0; usize::try_from(file_bytes).ok()?];
                    // A file of debug information alone has headers of segments whose bytes it lacks.
                    if read_at(&mut file, &mut notes, offset).is_some() {
                        identity.build_id = build_id(&notes).unwrap_or_default().to_vec();
                    }
                }
                _ => {}
            }
        }
        Some(identity)
    }

    fn is_of(&self, module: &ModulePicture) -> bool {
        if !self.build_id.is_empty() || !module.build_id.is_empty() {
            return self.build_id == module.build_id;
        }
        let page_end = |address: u64| address.div_ceil(PAGE_BYTES);
        page_end(self.code_end) == page_end(module.end.wrapping_sub(module.bias))
    }
}

/// The build id among a segment's notes: name and descriptor are padded to four bytes.
fn build_id(mut notes: &[u8]) -> Option<&[u8]> {
    loop {
        let name_bytes = usize::try_from(u32_at(notes, 0)?).ok()?;
        let id_bytes = usize::try_from(u32_at(notes, 4)?).ok()?;
        let kind = u32_at(notes, 8)?;
        let name = notes.get(12..)?.get(..name_bytes)?;
        let after_name = notes.get(12..)?.get(name_bytes.checked_next_multiple_of(4)?..)?;
        let id = after_name.get(..id_bytes)?;
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" {
            return Some(id);
        }
        notes = after_name.get(id_bytes.checked_next_multiple_of(4)?..)?;
    }
}

fn read_at(file: &mut File, bytes: &mut [u8], offset: u64) -> Option<()> {
    file.seek(SeekFrom::Start(offset)).ok()?;
    file.read_exact(bytes).ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

/// The build id and the end of the code of a file, for pictures of the running test program.
#[cfg(test)]
pub(super) fn identity(path: &Path) -> Option<(Vec<u8>, u64)> {
    Identity::read(path).map(|file| (file.build_id, file.code_end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_id_among_other_notes() {
        let note = |name: &[u8], kind: u32, body: &[u8]| {
            let mut bytes = Vec::new();
            bytes.extend(u32::try_from(name.len()).unwrap().to_le_bytes());
            bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
            bytes.extend(kind.to_le_bytes());
            bytes.extend(name);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes.extend(body);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let mut notes = note(b"GNU\0", 5, &[1; 7]);
        notes.extend(note(b"stapsdt\0", 3, b"probe"));
        notes.extend(note(b"GNU\0", 3, &[9; 20]));
        assert_eq!(build_id(&notes), Some(&[9; 20][..]));
        assert_eq!(build_id(&notes[..notes.len() - 1]), None, "cut short");
        assert_eq!(build_id(&[0xff; 64]), None);
    }

    fn now() -> u64 {
        crate::sys::clock::wall_ns()
    }

    /// A program without a build id, in eight lines of headers: its code ends on the same page as before when it is built anew.
    #[test]
    fn a_file_without_a_build_id_is_refused_once_it_was_changed() {
        let path = std::env::temp_dir().join(format!("unfreed-module-{}", std::process::id()));
        let mut file = [0; 64 + 56];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        // One program header, right after this one: code of 100 bytes.
        for (at, byte) in [(32, 64), (54, 56), (56, 1), (64, 1), (68, 1), (64 + 40, 100)] {
            file[at] = byte;
        }
        std::fs::write(&path, file).unwrap();
        let built = now() + 1_000_000_000;
        let name = path.to_str().unwrap().to_owned();
        let module = ModulePicture { path: name, end: 100, ..ModulePicture::default() };
        assert_eq!(find(&module, 0, built), Some(path.clone()));
        assert_eq!(find(&module, 0, built - 3_600_000_000_000), None, "changed an hour after the start");
        // Built before, put there afterwards.
        let older = std::time::SystemTime::now() - std::time::Duration::from_secs(7_200);
        File::options().write(true).open(&path).unwrap().set_modified(older).unwrap();
        assert_eq!(find(&module, 0, built - 3_600_000_000_000), None);
        assert_eq!(find(&module, 0, built), Some(path.clone()));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_file_of_another_build_is_refused() {
        let exe = std::env::current_exe().unwrap();
        let (build_id, code_end) = identity(&exe).unwrap();
        let path = exe.to_str().unwrap().to_owned();
        let module = ModulePicture { path, build_id: build_id.clone(), end: code_end, ..ModulePicture::default() };
        assert_eq!(find(&module, std::process::id(), now()), Some(exe));
        let mut other = build_id;
        if other.is_empty() {
            let moved = ModulePicture { end: code_end + PAGE_BYTES, ..module };
            assert_eq!(find(&moved, std::process::id(), now()), None);
        } else {
            other[0] ^= 1;
            assert_eq!(find(&ModulePicture { build_id: other, ..module }, std::process::id(), now()), None);
        }
    }

    #[test]
    fn a_deleted_program_is_found_through_its_process() {
        let exe = std::env::current_exe().unwrap();
        let (build_id, end) = identity(&exe).unwrap();
        let gone = ModulePicture { path: "/nowhere/deleted".into(), build_id, end, ..ModulePicture::default() };
        let found = find(&gone, std::process::id(), now());
        assert_eq!(found.is_some(), !gone.build_id.is_empty());
    }

    #[test]
    fn no_elf_no_identity() {
        assert_eq!(Identity::read(Path::new("/proc/self/status")), None);
        assert_eq!(Identity::read(Path::new("/")), None);
    }
}
