//! Files that are mapped: made privately, given space before they are touched, laid over reserved addresses.
//!
//! Promises: no call here raises a signal that kills (a file size limit is looked up before it is met), none follows a
//! symbolic link when it creates, no descriptor that is made here is one of the first three, which programs print to without
//! asking, and space that `allocate` granted can be touched without a bus error.

#![allow(unsafe_code, reason = "mmap, fallocate, fcntl, statfs, getrlimit, memfd_create")]

use std::ffi::CStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::ptr::NonNull;

/// Creates a file that only this user may open; fails if the name exists, be it as a dangling link.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)?;
    let raised = raise(file);
    if raised.is_err() {
        // Made just now, by us.
        let _ = std::fs::remove_file(path);
    }
    raised
}

/// Above the numbers that a program's own files soon get: one that closes 'all' descriptors, or all but the first few, has
/// its next file there, and shells and daemons use these numbers by name.
const RAISED: i32 = 64;

/// The same file at a higher descriptor, where the limit on their number allows it; at none of the first three in any case.
fn raise(file: File) -> io::Result<File> {
    let at_least = |lowest: i32| {
        // SAFETY: an open descriptor and plain numbers.
        let descriptor = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, lowest) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(unsafe { File::from_raw_fd(descriptor) })
    };
    match at_least(RAISED) {
        Err(_) if file.as_raw_fd() > libc::STDERR_FILENO => Ok(file),
        Err(_) => at_least(libc::STDERR_FILENO + 1),
        raised => raised,
    }
}

/// Which file it is, among all that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl From<&Metadata> for FileId {
    fn from(found: &Metadata) -> FileId {
        FileId { device: found.dev(), inode: found.ino() }
    }
}

/// Which file a descriptor leads to.
pub(crate) fn id(file: &File) -> io::Result<FileId> {
    file.metadata().map(|found| FileId::from(&found))
}

/// Which file has this name; a symbolic link is one itself.
pub(crate) fn id_at(path: &Path) -> io::Result<FileId> {
    std::fs::symlink_metadata(path).map(|found| FileId::from(&found))
}

/// The error of a descriptor that leads elsewhere.
pub(crate) fn lost() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADF)
}

/// Opens a file for reading; never waits (a FIFO would).
pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY).open(path)
}

/// Fills `buffer` from `offset` of `file`.
pub(crate) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    file.read_exact_at(buffer, offset)
}

/// Is the file whose metadata this is the effective user's?
pub(crate) fn is_own(found: &Metadata) -> bool {
    found.uid() == user()
}

/// The file's number in its file system; 0 where it has none.
pub(crate) fn inode(found: &Metadata) -> u64 {
    found.ino()
}

/// Gives the file at `from` the name `to`, in the same directory; fails if anything has that name already.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let text = |path: &Path| std::ffi::CString::new(path.as_os_str().as_bytes());
    let (old, new) = (text(from)?, text(to)?);
    let (here, flags) = (libc::AT_FDCWD, libc::RENAME_NOREPLACE);
    // SAFETY: plain numbers and two C strings that outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_renameat2, here, old.as_ptr(), here, new.as_ptr(), flags) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // The kernel or the file system does not know it; a filter of system calls.
        Some(libc::EINVAL | libc::ENOSYS | libc::EPERM) => rename_new_in_steps(from, to),
        _ => Err(error),
    }
}

/// The same by a second name for the file; where files have but one, by an empty file that holds the name until it is
/// replaced.
fn rename_new_in_steps(from: &Path, to: &Path) -> io::Result<()> {
    let undo = |_: &io::Error| {
        // Ours: made just now.
        let _ = std::fs::remove_file(to);
    };
    match std::fs::hard_link(from, to) {
        Ok(()) => std::fs::remove_file(from).inspect_err(undo),
        Err(error) => match error.raw_os_error() {
            Some(libc::EPERM | libc::EOPNOTSUPP | libc::ENOSYS | libc::EMLINK) => {
                // What is not there must not cost a name.
                id_at(from)?;
                drop(create_private(to)?);
                std::fs::rename(from, to).inspect_err(undo)
            }
            _ => Err(error),
        },
    }
}

/// Takes the file's lock, for as long as it is open; false where another has it. Granted where there are no locks.
pub(crate) fn try_lock(file: &File) -> bool {
    // SAFETY: plain numbers and an open descriptor.
    let result = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    result == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EWOULDBLOCK)
}

/// Does this process have the file open or mapped? `None`: that cannot be seen. Some file systems show mappings under another device:
/// there an open descriptor tells alone.
pub(crate) fn has_open(found: &Metadata) -> Option<bool> {
    // A program may have closed our descriptor. Lines: addresses, rights, offset, device, inode, name.
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let (major, minor) = (libc::major(found.dev()), libc::minor(found.dev()));
    let shown = format!(" {major:02x}:{minor:02x} {} ", found.ino());
    if maps.lines().any(|line| line.contains(&shown)) {
        return Some(true);
    }
    for entry in std::fs::read_dir("/proc/self/fd").ok()? {
        // Some lead nowhere: the one of this listing, and those of files that are gone.
        if let Ok(open) = std::fs::metadata(entry.ok()?.path())
            && (open.dev(), open.ino()) == (found.dev(), found.ino())
        {
            return Some(true);
        }
    }
    Some(false)
}

/// A file without a name, in memory; `/proc/PID/fd` shows it to other processes.
pub(crate) fn memory_file(name: &CStr) -> io::Result<File> {
    // SAFETY: `name` is a C string that outlives the call.
    let descriptor = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    raise(unsafe { File::from_raw_fd(descriptor) })
}

/// Does `path` lie on a tmpfs? On anything else write-back stalls stores into a shared mapping.
pub(crate) fn is_tmpfs(path: &Path) -> bool {
    let mut name = path.as_os_str().as_bytes().to_vec();
    name.push(0);
    let Ok(name) = CStr::from_bytes_with_nul(&name) else { return false };
    let mut found = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: a C string and room for one `statfs`.
    let result = unsafe { libc::statfs(name.as_ptr(), found.as_mut_ptr()) };
    // SAFETY: all zero bytes are a valid `statfs`, and the call wrote over them.
    let found = unsafe { found.assume_init() };
    // C libraries disagree on the type of both.
    result == 0 && i128::from(found.f_type) == i128::from(libc::TMPFS_MAGIC)
}

/// The effective user.
pub(crate) fn user() -> u32 {
    // SAFETY: has no preconditions and always succeeds.
    unsafe { libc::geteuid() }
}

/// The process's limit on file sizes in bytes: passing it raises SIGXFSZ, which kills by default.
pub(crate) fn size_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: room for one `rlimit`.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) };
    if result == 0 { limit.rlim_cur } else { 0 }
}

/// Gives `bytes` from `offset` of a file their space, so that touching them cannot fail later. New space reads zero;
/// what was there stays, but on file systems without `fallocate` the range must be unused: zeros are written over it.
/// `file` is asked before each use, and says where the descriptor is no longer the file's.
pub(crate) fn allocate<'a>(file: impl Fn() -> io::Result<&'a File>, offset: u64, bytes: u64) -> io::Result<()> {
    let end = offset.checked_add(bytes).ok_or(io::ErrorKind::InvalidInput)?;
    if end > size_limit() {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    let (from, length) = (signed(offset)?, signed(bytes)?);
    loop {
        let descriptor = file()?.as_raw_fd();
        // SAFETY: plain numbers and an open descriptor.
        let result = unsafe { libc::fallocate(descriptor, 0, from, length) };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            // EPERM: a filter of system calls.
            Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EPERM) => break,
            _ => return Err(error),
        }
    }
    // Not on the stack: this may be a program's thread, on a small one.
    static ZEROS: [u8; 4096] = [0; 4096];
    let mut at = offset;
    while at < end {
        let length = usize::try_from(end - at).unwrap_or(ZEROS.len()).min(ZEROS.len());
        file()?.write_all_at(&ZEROS[..length], at)?;
        at += length as u64;
    }
    Ok(())
}

fn signed(value: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(value).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Is the error one of 'no room', rather than 'cannot be'?
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG | libc::ENOMEM))
}

/// An address range of our own, reserved for the process's life: inaccessible until something is laid over it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reserved {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: an address and a length; what lies there is shared memory, accessed by atomics alone.
unsafe impl Send for Reserved {}
// SAFETY: as above.
unsafe impl Sync for Reserved {}

impl Reserved {
    /// Reserves `bytes` (a multiple of the page size). Costs no memory, and no commit charge.
    pub(crate) fn new(bytes: usize) -> io::Result<Reserved> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping wherever the kernel likes; nothing is replaced.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0) };
        match NonNull::new(address.cast::<u8>()) {
            Some(base) if address != libc::MAP_FAILED => Ok(Reserved { base, bytes }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The first address.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The length.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lays the first `bytes` of `file` over the range, shared and writable; without a file, fresh zero memory.
    /// Replaces what was there in one step.
    ///
    /// # Safety
    /// - Whoever still holds references into the range accesses it by atomics alone and bears any value there.
    pub(crate) unsafe fn lay_over(&self, bytes: usize, file: Option<&File>) -> io::Result<()> {
        if bytes > self.bytes {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (flags, descriptor) = match file {
            Some(file) => (libc::MAP_SHARED | libc::MAP_FIXED, file.as_raw_fd()),
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED, -1),
        };
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the range is ours alone (`new`), so MAP_FIXED replaces no one else's memory; the caller vouches for
        // references into it.
        let address = unsafe { libc::mmap(self.base.as_ptr().cast(), bytes, access, flags, descriptor, 0) };
        if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn memory_files_hold_what_was_allocated_and_laid_over() {
        let file = memory_file(c"unfreed-test").expect("memfd");
        file.set_len(1 << 20).expect("a length");
        allocate(|| Ok(&file), 4096, 8192).expect("space");
        let range = Reserved::new(1 << 20).expect("addresses");
        // SAFETY: nobody has references into the range.
        unsafe { range.lay_over(1 << 20, Some(&file)) }.expect("a mapping");
        // SAFETY: inside the range.
        let place = unsafe { range.base().add(4096) };
        // SAFETY: mapped and allocated above, and nobody else's.
        unsafe { place.write(7) };
        let mut byte = [0];
        file.read_exact_at(&mut byte, 4096).expect("within the file");
        assert_eq!(byte, [7]);
        // SAFETY: as above.
        unsafe { range.lay_over(1 << 20, None) }.expect("fresh memory");
        // SAFETY: mapped just now.
        assert_eq!(unsafe { place.read() }, 0);
    }

    #[test]
    fn a_new_name_replaces_nothing() {
        let directory = std::env::temp_dir().join(format!("unfreed-names-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let (from, to) = (directory.join("from"), directory.join("to"));
        for rename in [rename_new, rename_new_in_steps] {
            assert_eq!(rename(&from, &to).expect_err("nothing").kind(), io::ErrorKind::NotFound);
            assert!(!to.exists());
            std::fs::write(&from, "new").expect("written");
            std::fs::write(&to, "old").expect("written");
            assert_eq!(rename(&from, &to).expect_err("taken").kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(std::fs::read(&to).expect("there"), b"old");
            std::fs::remove_file(&to).expect("ours");
            rename(&from, &to).expect("free");
            assert!(!from.exists());
            assert_eq!(std::fs::read(&to).expect("there"), b"new");
            std::fs::remove_file(&to).expect("ours");
        }
        std::fs::remove_dir_all(directory).expect("ours");
    }

    #[test]
    fn a_file_is_created_once_and_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("unfreed-file-{}", std::process::id()));
        let file = create_private(&path).expect("a new file");
        assert_eq!(file.metadata().expect("metadata").permissions().mode() & 0o777, 0o600);
        assert!(file.as_raw_fd() >= RAISED, "{file:?}");
        assert!(create_private(&path).is_err(), "exists");
        std::fs::remove_file(&path).expect("ours");
        std::os::unix::fs::symlink("/nonexistent", &path).expect("a link");
        assert!(create_private(&path).is_err(), "a dangling link");
        std::fs::remove_file(&path).expect("ours");
    }
}
