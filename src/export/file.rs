//! A file that is there as a whole or not at all, with one exception that is said when it matters.
//!
//! What is written goes to a new file beside the named one, which then takes its name: a crash leaves the old file,
//! or none. A symbolic link keeps its place and its target is replaced, or made; the old file's permissions are the new
//! one's. A pipe or device (`/dev/stdout`) is written to as it is.
//!
//! The exception: where the directory takes no new file, or the name or the permissions cannot be taken over (a file
//! mounted on its own), an existing file is rewritten in place as the last resort. What fails then, as on a full disk,
//! leaves neither the old file nor the whole new one, and the error says so.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::{error, fmt};

/// A file could not be written.
#[derive(Debug)]
pub struct FileError {
    path: PathBuf,
    what: What,
}

#[derive(Debug)]
enum What {
    NoName,
    IsDirectory,
    NoParent(PathBuf),
    Create(io::Error),
    Write(io::Error),
    /// In place, so that the old file is gone.
    Rewrite(io::Error),
}

impl FileError {
    /// The path that was asked for.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.what {
            What::NoName => write!(f, "cannot write '{path}': it names no file"),
            What::IsDirectory => write!(f, "cannot write '{path}': it is a directory; name a file in it"),
            What::NoParent(parent) => {
                write!(f, "cannot write '{path}': there is no directory '{}'; make it first", parent.display())
            }
            What::Create(error) => write!(f, "cannot create '{path}': {error}"),
            What::Write(error) => write!(f, "cannot write '{path}': {error}"),
            What::Rewrite(error) => write!(
                f,
                "cannot write '{path}': {error}; it was rewritten in place, since its directory takes no new file, and \
                 is not whole: remove it"
            ),
        }
    }
}

impl error::Error for FileError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match &self.what {
            What::Create(error) | What::Write(error) | What::Rewrite(error) => Some(error),
            What::NoName | What::IsDirectory | What::NoParent(_) => None,
        }
    }
}

/// Names tried beside the file before giving up; another writer of the same process number is rare already.
const NAMES_MAX: u32 = 16;

/// Symbolic links followed to a file that is not there yet: as many as Linux follows.
const LINKS_MAX: u32 = 40;

/// Puts what `write` writes at `path`.
pub(crate) fn replace(path: &Path, write: impl Fn(&mut File) -> io::Result<()>) -> Result<(), FileError> {
    let fail = |what| FileError { path: path.to_owned(), what };
    let (target, permissions) = match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Err(fail(What::IsDirectory)),
        Ok(found) if !found.is_file() => return write_into(path, write).map_err(fail),
        // Through symbolic links, to where the bytes are.
        Ok(found) => (fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()), Some(found.permissions())),
        // The same, to where they are to be.
        Err(error) => match end_of_links(path) {
            Some(target) => (target, None),
            None => return Err(fail(What::Create(error))),
        },
    };
    if target.file_name().is_none() {
        return Err(fail(What::NoName));
    }
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        return Err(fail(What::NoParent(parent.to_owned())));
    }
    let (mut file, new) = match create_beside(parent) {
        Ok(created) => created,
        Err(_) if target.is_file() => return rewrite(&target, write).map_err(fail),
        Err(error) => return Err(fail(What::Create(error))),
    };
    // Before it holds anything: who may not read the old file may not read this.
    let is_as_open = permissions.is_none_or(|old| file.set_permissions(old).is_ok());
    let mut written = if is_as_open {
        write(&mut file).and_then(|()| file.sync_data()).map_err(What::Write)
    } else {
        rewrite(&target, &write)
    };
    drop(file);
    if written.is_ok() && is_as_open {
        match fs::rename(&new, &target) {
            Ok(()) => return Ok(()),
            Err(_) if target.is_file() => written = rewrite(&target, write),
            Err(error) => written = Err(What::Create(error)),
        }
    }
    // It holds nothing that anybody was promised.
    let _ = fs::remove_file(&new);
    written.map_err(fail)
}

/// Where a file is made that `path` is a name of, or a symbolic link to. `None`: they lead nowhere.
fn end_of_links(path: &Path) -> Option<PathBuf> {
    let mut target = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&target) {
            // From the link's own directory on.
            Ok(next) => target = target.parent().unwrap_or(Path::new("")).join(next),
            Err(_) => return Some(target),
        }
    }
    None
}

/// In place of a file's old bytes.
fn rewrite(path: &Path, write: impl Fn(&mut File) -> io::Result<()>) -> Result<(), What> {
    write_into(path, write).map_err(|what| match what {
        What::Write(error) => What::Rewrite(error),
        before => before,
    })
}

fn write_into(path: &Path, write: impl Fn(&mut File) -> io::Result<()>) -> Result<(), What> {
    let mut file = OpenOptions::new().write(true).truncate(true).open(path).map_err(What::Create)?;
    write(&mut file).map_err(What::Write)
}

fn create_beside(parent: &Path) -> io::Result<(File, PathBuf)> {
    let mut attempt = 0;
    loop {
        let path = parent.join(format!(".unfreed.{}.{attempt}.new", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < NAMES_MAX => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// An empty directory of this test's own.
    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("unfreed-file-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a directory");
        path
    }

    fn put(path: &Path, text: &str) -> Result<(), FileError> {
        replace(path, |file| file.write_all(text.as_bytes()))
    }

    #[test]
    fn a_file_is_made_and_replaced() {
        let directory = directory("replace");
        let path = directory.join("out.json");
        put(&path, "a long first text").expect("written");
        put(&path, "second").expect("replaced");
        assert_eq!(fs::read_to_string(&path).expect("read"), "second");
        assert_eq!(fs::read_dir(&directory).expect("listed").count(), 1, "nothing is left beside it");
        let _ = fs::remove_dir_all(directory);
    }

    #[test]
    fn a_failure_leaves_the_old_file() {
        let directory = directory("failure");
        let path = directory.join("out.json");
        put(&path, "old").expect("written");
        let error = replace(&path, |file| {
            file.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        let text = error.expect_err("full").to_string();
        assert!(text.starts_with(&format!("cannot write '{}': ", path.display())), "{text}");
        assert_eq!(fs::read_to_string(&path).expect("read"), "old");
        assert_eq!(fs::read_dir(&directory).expect("listed").count(), 1);
        let _ = fs::remove_dir_all(directory);
    }

    #[test]
    fn errors_say_what_to_do() {
        let directory = directory("errors");
        for (path, expected) in [
            (directory.join("no/such/out.json"), "make it first"),
            (directory.clone(), "it is a directory; name a file in it"),
            (PathBuf::from(""), "names no file"),
            (PathBuf::from("/proc/self/out.json"), "cannot create '/proc/self/out.json': "),
        ] {
            let error = put(&path, "x").expect_err("not writable");
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.path(), path);
        }
        let _ = fs::remove_dir_all(directory);
    }

    #[test]
    fn links_keep_their_place_and_devices_are_not_replaced() {
        let directory = directory("links");
        let (target, link) = (directory.join("target.json"), directory.join("link.json"));
        fs::write(&target, "old").expect("written");
        std::os::unix::fs::symlink(&target, &link).expect("linked");
        put(&link, "new").expect("written");
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(fs::read_to_string(&target).expect("read"), "new");
        // A link of our own to the null device, so that a fault here can only replace the link.
        let null = directory.join("null");
        std::os::unix::fs::symlink("/dev/null", &null).expect("linked");
        put(&null, "gone").expect("swallowed");
        assert!(fs::symlink_metadata(&null).expect("there").is_symlink());
        let _ = fs::remove_dir_all(directory);
    }

    #[test]
    fn a_link_to_nothing_keeps_its_place() {
        let directory = directory("dangling");
        let (first, second, target) = (directory.join("a"), directory.join("b"), directory.join("target.json"));
        // One by a path of its own directory, one by a whole path.
        std::os::unix::fs::symlink("b", &first).expect("linked");
        std::os::unix::fs::symlink(&target, &second).expect("linked");
        put(&first, "new").expect("written");
        assert!([&first, &second].iter().all(|link| fs::symlink_metadata(link).expect("there").is_symlink()));
        assert_eq!(fs::read_to_string(&target).expect("read"), "new");
        let round = directory.join("round");
        std::os::unix::fs::symlink("round", &round).expect("linked");
        let text = put(&round, "x").expect_err("a loop").to_string();
        assert!(text.starts_with(&format!("cannot create '{}': ", round.display())), "{text}");
        assert!(fs::symlink_metadata(&round).expect("there").is_symlink());
        let _ = fs::remove_dir_all(directory);
    }

    #[test]
    fn the_old_files_permissions_stay() {
        use std::os::unix::fs::PermissionsExt;
        let directory = directory("mode");
        let path = directory.join("out.json");
        for mode in [0o600, 0o640, 0o604] {
            fs::write(&path, "old").expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
            // Before a byte of the new one is there.
            let while_written = |file: &mut File| {
                assert_eq!(file.metadata()?.permissions().mode() & 0o777, mode);
                file.write_all(b"new")
            };
            replace(&path, while_written).expect("replaced");
            assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, mode);
            assert_eq!(fs::read_to_string(&path).expect("read"), "new");
        }
        let _ = fs::remove_dir_all(directory);
    }

    /// No new file can be made beside it, since all names are taken.
    #[test]
    fn what_is_broken_in_place_is_said_to_be() {
        let directory = directory("in-place");
        let path = directory.join("out.json");
        fs::write(&path, "a long old text").expect("written");
        for attempt in 0..=NAMES_MAX {
            fs::write(directory.join(format!(".unfreed.{}.{attempt}.new", std::process::id())), "").expect("taken");
        }
        put(&path, "new").expect("rewritten");
        assert_eq!(fs::read_to_string(&path).expect("read"), "new");
        let error = replace(&path, |file| {
            file.write_all(b"ha")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        let text = error.expect_err("full").to_string();
        assert!(text.contains("rewritten in place") && text.contains("not whole"), "{text}");
        let _ = fs::remove_dir_all(directory);
    }

    #[test]
    fn a_bare_name_goes_to_the_current_directory() {
        let name = format!("unfreed-bare-{}.json", std::process::id());
        put(Path::new(&name), "here").expect("written");
        assert_eq!(fs::read_to_string(&name).expect("read"), "here");
        fs::remove_file(&name).expect("removed");
    }
}
