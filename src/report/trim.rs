//! Which frames of a captured stack are worth showing.
//!
//! A stack begins, at its leaf, with our own hook, the compiler's allocator shims and the standard library's
//! containers, and ends with the runtime that called `main` or started the thread. With trimming on both ends are
//! hidden; the middle never is. Frames are told by source path, as names lose theirs under
//! `debug = "line-tables-only"`, and by name only where there is no path. A stack that would be left with nothing
//! keeps its standard-library frames.
//!
//! Without trimming only our own capture frames go. (The dhat crate shows its own in that case, so a comparison
//! with it has to skip those.)

/// What a frame is, as far as hiding goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Role {
    /// The program, or a library that is not the standard one.
    #[default]
    Code,
    /// Our own way from `GlobalAlloc` to the capture.
    Own,
    /// The compiler's symbols between `alloc` and the global allocator.
    Shim,
    /// The standard library (and the hashbrown that is built into it).
    Std,
    /// Code that only ever runs before `main` or a thread's function.
    Start,
    /// Not a frame: the captured stack was cut here.
    Cut,
}

/// How much of a stack to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trim {
    /// Hide allocator frames at the leaf and the runtime's at the root.
    pub(crate) ends: bool,
    /// At most so many return addresses (functions inlined there come with them), counted from the leaf.
    pub(crate) max_frames: usize,
}

impl Default for Trim {
    fn default() -> Trim {
        Trim { ends: true, max_frames: usize::MAX }
    }
}

impl Trim {
    /// The dhat crate's `trim_backtraces`: `None` is no trimming, a limit below four is four.
    pub(crate) fn from_dhat(trim_backtraces: Option<usize>) -> Trim {
        match trim_backtraces {
            None => Trim { ends: false, max_frames: usize::MAX },
            Some(n) => Trim { ends: true, max_frames: n.max(4) },
        }
    }

    /// The range of `frames` (leaf first, inlined ones expanded) to show; each frame's role and return address.
    pub(crate) fn shown(self, frames: &[(Role, u64)]) -> std::ops::Range<usize> {
        // Ours may have the standard library's between them: cut after the last of them.
        let own_end = frames.iter().rposition(|&(role, _)| role == Role::Own).map_or(0, |last| last + 1);
        let own_end = if own_end == frames.len() { 0 } else { own_end };
        let (mut start, mut end) = (own_end, frames.len());
        if self.ends {
            let is_root = |&(role, _): &(Role, u64)| matches!(role, Role::Std | Role::Start);
            let is_leaf = |&(role, _): &(Role, u64)| matches!(role, Role::Std | Role::Shim);
            let shown = frames.get(own_end..).unwrap_or_default();
            let leaf = shown.iter().take_while(|frame| is_leaf(frame)).count();
            let root = shown.iter().rev().take_while(|frame| is_root(frame)).count();
            if leaf + root < shown.len() {
                (start, end) = (own_end + leaf, frames.len() - root);
            }
        }
        if self.max_frames < usize::MAX {
            let mut addresses = 0;
            let mut previous = None;
            for (i, &(_, address)) in frames.iter().enumerate().take(end).skip(start) {
                if previous != Some(address) {
                    addresses += 1;
                    previous = Some(address);
                }
                if addresses > self.max_frames {
                    end = i;
                    break;
                }
            }
        }
        start..end
    }
}

/// The role of a function by its source path, its name and its module's path.
pub(crate) fn role(name: Option<&str>, file: Option<&str>, module: Option<&str>) -> Role {
    if let Some(name) = name {
        if is_own_name(name) {
            return Role::Own;
        }
        if is_shim_name(name) {
            return Role::Shim;
        }
        if is_start_name(name) {
            return Role::Start;
        }
    }
    match (name, file) {
        (_, Some(file)) if is_own_file(file) => Role::Own,
        (_, Some(file)) if is_std_file(file) => Role::Std,
        (Some(name), None) if is_std_name(name) => Role::Std,
        (_, None) if module.is_some_and(is_libc) => Role::Start,
        _ => Role::Code,
    }
}

/// The modules of this crate that run inside an allocation.
const OWN_MODULES: [&str; 8] = ["hook", "sampler", "slots", "live", "tree", "ring", "unwind", "sys"];

fn is_own_name(name: &str) -> bool {
    if name.starts_with("<unfreed::") && name.contains("GlobalAlloc>::") {
        return true;
    }
    let path = name.trim_start_matches(['<', '&', '*']).strip_prefix("unfreed::");
    path.is_some_and(|path| OWN_MODULES.iter().any(|module| path.split("::").next() == Some(module)))
}

/// Sources of this crate, as Cargo lays it out under any root; a user's `src/hook.rs` does not lie in
/// `unfreed-<version>/` (the registry) nor in the directory that this very crate was built in.
fn is_own_file(file: &str) -> bool {
    let in_crate = match file.strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/src/")) {
        Some(path) => path,
        None => match file.split_once("/unfreed-").and_then(|(_, rest)| rest.split_once("/src/")) {
            Some((version, path)) if version.starts_with(|c: char| c.is_ascii_digit()) => path,
            _ => return false,
        },
    };
    OWN_MODULES.iter().any(|module| in_crate.split(['/', '.']).next() == Some(module))
}

fn is_shim_name(name: &str) -> bool {
    const SHIMS: [&str; 3] = ["__rust_", "__rg_", "__rdl_"];
    let bare = name.strip_prefix("__rustc::").unwrap_or(name);
    let in_rustc = bare.len() < name.len();
    let is_alloc = |rest: &str| rest.contains("alloc");
    in_rustc && is_alloc(bare) || SHIMS.iter().any(|shim| bare.strip_prefix(shim).is_some_and(is_alloc))
}

fn is_start_name(name: &str) -> bool {
    const NAMES: [&str; 8] =
        ["main", "_start", "start_thread", "thread_start", "clone", "__clone", "clone3", "__clone3"];
    NAMES.contains(&name) || name.starts_with("__libc_start") || name.starts_with("std::rt::lang_start")
}

/// The standard library's own sources: as it was built (remapped to `/rustc/<hash>/`), the crates vendored into it,
/// and where generic code was built with the toolchain's `rust-src` at hand.
fn is_std_file(file: &str) -> bool {
    let library = match file.strip_prefix("/rustc/") {
        Some(rest) => rest.split_once("/library/").map(|(_, path)| path),
        None => file.split_once("/lib/rustlib/src/rust/library/").map(|(_, path)| path),
    };
    const CRATES: [&str; 5] = ["alloc", "core", "std", "panic_unwind", "backtrace"];
    library.is_some_and(|path| CRATES.iter().any(|name| path.split('/').next() == Some(name)))
        || file.starts_with("/rust/deps/")
}

/// By name, for binaries without debug information: the first path in it is the standard library's. `<T as
/// alloc::slice::…>` (a generic parameter) counts by its trait.
fn is_std_name(name: &str) -> bool {
    let is_std_path = |path: &str| {
        let path = path.trim_start_matches(['<', '&', '*', '[', '(']);
        ["alloc::", "core::", "std::", "hashbrown::"].iter().any(|root| path.starts_with(root))
    };
    let inside = name.trim_start_matches(['<', '&', '*', '[', '(']);
    match inside.split_once(" as ") {
        Some((of, by)) if !of.contains("::") => is_std_path(by),
        _ => is_std_path(inside),
    }
}

fn is_libc(module: &str) -> bool {
    let name = super::frame::file_name(module);
    ["libc.so", "libc-", "libpthread", "ld-linux", "libc.musl", "ld-musl"].iter().any(|libc| name.starts_with(libc))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUSTC: &str = "/rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library";

    #[test]
    fn roles_by_path_and_by_name() {
        let std_file = format!("{RUSTC}/alloc/src/raw_vec/mod.rs");
        for (name, file, expected) in [
            (Some("finish_grow"), Some(std_file.as_str()), Role::Std),
            (Some("alloc::raw_vec::finish_grow"), None, Role::Std),
            (Some("<alloc::vec::Vec<T> as core::clone::Clone>::clone"), None, Role::Std),
            (Some("<T as alloc::slice::hack::ConvertVec>::to_vec"), None, Role::Std),
            (Some("<mail::Email as core::convert::From<mail::Fetch>>::from"), None, Role::Code),
            (Some("insert"), Some("/rust/deps/hashbrown-0.16.1/src/raw/mod.rs"), Role::Std),
            (
                Some("hashbrown::map::insert"),
                Some("/home/u/.cargo/registry/src/x/hashbrown-0.15.0/src/map.rs"),
                Role::Code,
            ),
            (Some("__rustc::__rust_alloc"), None, Role::Shim),
            (Some("__rustc::__rust_no_alloc_shim_is_unstable_v2"), None, Role::Shim),
            (Some("__rg_realloc"), None, Role::Shim),
            (Some("std::sys::backtrace::__rust_begin_short_backtrace"), None, Role::Std),
            (Some("<unfreed::hook::Alloc<A> as core::alloc::global::GlobalAlloc>::alloc"), None, Role::Own),
            (Some("<unfreed::dhat::Alloc as core::alloc::global::GlobalAlloc>::alloc"), None, Role::Own),
            (Some("unfreed::hook::cold::capture"), None, Role::Own),
            (Some("unfreed::report::snapshot::of"), None, Role::Code),
            (Some("alloc"), Some("/home/u/.cargo/registry/src/x/unfreed-0.1.0/src/hook.rs"), Role::Own),
            (Some("alloc"), Some("/home/u/mine/src/hook.rs"), Role::Code),
            (Some("main"), None, Role::Start),
            (Some("mail::main"), Some("/home/u/mail/src/main.rs"), Role::Code),
            (Some("__libc_start_main_impl"), None, Role::Start),
            (None, None, Role::Code),
        ] {
            assert_eq!(role(name, file, Some("/usr/bin/mail")), expected, "{name:?} {file:?}");
        }
        assert_eq!(role(None, None, Some("/lib/x86_64-linux-gnu/libc.so.6")), Role::Start);
    }

    fn stack(roles: &[Role]) -> Vec<(Role, u64)> {
        roles.iter().zip(1..).map(|(&role, address)| (role, address)).collect()
    }

    #[test]
    fn both_ends_go_and_the_middle_stays() {
        use Role::{Code, Own, Shim, Start, Std};
        let frames = stack(&[Own, Std, Own, Shim, Std, Std, Code, Std, Code, Std, Std, Start, Start]);
        assert_eq!(Trim::default().shown(&frames), 6..9);
        assert_eq!(Trim::from_dhat(None).shown(&frames), 3..13);
        assert_eq!(Trim::from_dhat(Some(usize::MAX)).shown(&frames), 6..9);
    }

    #[test]
    fn a_stack_of_the_library_alone_is_kept() {
        use Role::{Cut, Own, Shim, Start, Std};
        assert_eq!(Trim::default().shown(&stack(&[Own, Shim, Std, Std, Start])), 1..5);
        assert_eq!(Trim::default().shown(&stack(&[Own, Own])), 0..2);
        assert_eq!(Trim::default().shown(&[]), 0..0);
        // A stack cut short has no runtime at its root: its library frames are the outermost known.
        assert_eq!(Trim::default().shown(&stack(&[Own, Std, Role::Code, Std, Cut])), 2..5);
    }

    #[test]
    fn a_limit_counts_return_addresses() {
        let frames: Vec<_> = [1, 1, 2, 3, 3, 4, 5, 6].into_iter().map(|address| (Role::Code, address)).collect();
        assert_eq!(Trim::from_dhat(Some(4)).shown(&frames), 0..6);
        assert_eq!(Trim::from_dhat(Some(1)).shown(&frames), 0..6);
        assert_eq!(Trim::from_dhat(Some(5)).shown(&frames), 0..7);
    }
}
