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
    /// Not a frame: what differs between call chains that are shown as one.
    Ways,
    /// Not a frame: the scope that the block was allocated in. Beyond the root, never trimmed.
    Scope,
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

    /// The range of `frames` (leaf first, inlined ones expanded) to show; each frame's role and the number of the
    /// stack's return address that it came from (in recursion the same address comes again under another number).
    pub(crate) fn shown(self, frames: &[(Role, u64)]) -> std::ops::Range<usize> {
        let after_last = |wanted| frames.iter().rposition(|&(role, _)| role == wanted).map_or(0, |last| last + 1);
        // Ours may have the standard library's between them: cut after the last of them. Whatever a shim called is
        // the allocator's too, even where a build without paths does not tell.
        let first_shim = || frames.iter().position(|&(role, _)| role == Role::Shim).unwrap_or(0);
        let own_end = match after_last(Role::Own) {
            0 => first_shim(),
            all if all == frames.len() => 0,
            end => end,
        };
        let (mut start, mut end) = (own_end, frames.len());
        if self.ends {
            let is_std = |&&(role, _): &&(Role, u64)| role == Role::Std;
            let is_root = |&&(role, _): &&(Role, u64)| matches!(role, Role::Std | Role::Start);
            let leaf_end = own_end.max(after_last(Role::Shim));
            let shown = frames.get(leaf_end..).unwrap_or_default();
            let leaf = shown.iter().take_while(is_std).count();
            let root = shown.iter().rev().take_while(is_root).count();
            if leaf + root < shown.len() {
                (start, end) = (leaf_end + leaf, frames.len() - root);
            }
        }
        if self.max_frames < usize::MAX {
            let mut addresses = 0;
            let mut previous = None;
            for (i, &(_, number)) in frames.iter().enumerate().take(end).skip(start) {
                if previous != Some(number) {
                    addresses += 1;
                    previous = Some(number);
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
        if is_compiler_name(name) {
            return Role::Std;
        }
    }
    match (name, file) {
        // What starts a program or a thread has no name in a stripped library; what has another name was called.
        _ if module.is_some_and(is_libc) && name.is_none_or(is_libc_start_name) => Role::Start,
        (_, Some(file)) if is_own_file(file) => Role::Own,
        (_, Some(file)) if is_std_file(file) => Role::Std,
        (Some(name), None) if is_std_name(name) => Role::Std,
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

/// Sources of this crate: in the directory that it was built in, or under any root as Cargo lays out the registry
/// (`unfreed-<version>/`) and git checkouts (`unfreed-<hash>/<revision>/`). A user's `src/hook.rs` is in none of them.
fn is_own_file(file: &str) -> bool {
    let in_crate = match file.strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/src/")) {
        Some(path) => path,
        None => {
            let package = file.strip_prefix("unfreed-").or_else(|| Some(file.split_once("/unfreed-")?.1));
            let Some((directory, path)) = package.and_then(|rest| rest.split_once("/src/")) else { return false };
            let mark = directory.split('/').next().unwrap_or(directory);
            let is_version = mark.starts_with(|c: char| c.is_ascii_digit()) && mark.contains('.');
            let is_hash = mark.len() == 16 && mark.chars().all(|c| c.is_ascii_hexdigit());
            if !is_version && !is_hash {
                return false;
            }
            path
        }
    };
    OWN_MODULES.iter().any(|module| in_crate.split(['/', '.']).next() == Some(module))
}

fn is_shim_name(name: &str) -> bool {
    let (bare, in_rustc) = name.strip_prefix("__rustc::").map_or((name, false), |bare| (bare, true));
    // Not `__rust_begin_short_backtrace<…, alloc::vec::Vec<…>>`.
    let bare = bare.split(['<', ':']).next().unwrap_or(bare);
    let is_prefixed = || ["__rust_", "__rg_", "__rdl_"].iter().any(|prefix| bare.starts_with(prefix));
    bare.contains("alloc") && (in_rustc || is_prefixed())
}

/// What the compiler makes for the standard library, as the frame of `catch_unwind`: it has neither a path nor a source file, and in
/// builds without optimisation it is a frame of its own.
fn is_compiler_name(name: &str) -> bool {
    ["__rust_", "__rustc::", "rust_eh_personality"].iter().any(|prefix| name.starts_with(prefix))
}

fn is_start_name(name: &str) -> bool {
    const NAMES: [&str; 9] =
        ["main", "_start", "_start_c", "start_thread", "thread_start", "clone", "__clone", "clone3", "__clone3"];
    NAMES.contains(&name) || name.contains("libc_start") || name.starts_with("std::rt::lang_start")
}

/// Of the C library's or the loader's own: glibc's names within it, and what runs constructors.
fn is_libc_start_name(name: &str) -> bool {
    const NAMES: [&str; 5] = ["start", "_dl_start_user", "_dl_init", "call_init", "__pthread_start"];
    is_start_name(name.strip_prefix("__GI_").unwrap_or(name)) || NAMES.contains(&name)
}

/// The standard library's own sources: as it was built by the project (remapped to `/rustc/<hash>/`) or by a distribution (in
/// `rustc-<version>/` or `rustc-<version>-src/` anywhere), the crates vendored into it, and where generic code was built with the
/// toolchain's `rust-src` at hand.
fn is_std_file(file: &str) -> bool {
    let is_version = |name: &str| {
        name.strip_prefix("rustc-").is_some_and(|rest| {
            rest.starts_with(|c: char| c.is_ascii_digit()) || ["beta", "nightly"].iter().any(|it| rest.starts_with(it))
        })
    };
    let library = match file.strip_prefix("/rustc/") {
        Some(rest) => rest.split_once("/library/").map(|(_, path)| path),
        None => file.match_indices("/library/").find_map(|(at, between)| {
            let (root, path) = (&file[..at], &file[at + between.len()..]);
            let is_its = root.ends_with("/lib/rustlib/src/rust") || root.rsplit('/').next().is_some_and(is_version);
            is_its.then_some(path)
        }),
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
            (Some("push"), Some("/usr/src/rustc-1.96.0/library/alloc/src/vec/mod.rs"), Role::Std),
            (Some("push"), Some("/builddir/build/BUILD/rustc-1.85.0-src/library/alloc/src/vec/mod.rs"), Role::Std),
            (
                Some("push"),
                Some("/home/library/.rustup/toolchains/t/lib/rustlib/src/rust/library/alloc/src/vec/mod.rs"),
                Role::Std,
            ),
            (Some("push"), Some("/home/u/rustc-tools/library/alloc/src/vec.rs"), Role::Code),
            (Some("push"), Some("/home/u/library/alloc/src/vec.rs"), Role::Code),
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
            (Some("__rust_try"), None, Role::Std),
            (Some("__rust_try.llvm.1234"), None, Role::Std),
            (Some("__rustc::rust_begin_unwind"), None, Role::Std),
            (Some("rust_eh_personality"), None, Role::Std),
            (Some("app::__rust_try"), None, Role::Code),
            (Some("<unfreed::hook::Alloc<A> as core::alloc::global::GlobalAlloc>::alloc"), None, Role::Own),
            (Some("<unfreed::dhat::Alloc as core::alloc::global::GlobalAlloc>::alloc"), None, Role::Own),
            (Some("unfreed::hook::cold::capture"), None, Role::Own),
            (Some("unfreed::report::snapshot::of"), None, Role::Code),
            (Some("alloc"), Some("/home/u/.cargo/registry/src/x/unfreed-0.1.0/src/hook.rs"), Role::Own),
            (Some("alloc"), Some("/home/u/mine/src/hook.rs"), Role::Code),
            (Some("alloc"), Some("/cargo/git/checkouts/unfreed-0123456789abcdef/1a2b3c4/src/slots/page.rs"), Role::Own),
            (Some("alloc"), Some("/home/u/unfreed-demo/src/hook.rs"), Role::Code),
            (Some("__rust_begin_short_backtrace<app::f, alloc::vec::Vec<u8>>"), Some(&std_file), Role::Std),
            (Some("main"), None, Role::Start),
            (Some("mail::main"), Some("/home/u/mail/src/main.rs"), Role::Code),
            (Some("__libc_start_main_impl"), None, Role::Start),
            (None, None, Role::Code),
        ] {
            assert_eq!(role(name, file, Some("/usr/bin/mail")), expected, "{name:?} {file:?}");
        }
        let libc = Some("/lib/x86_64-linux-gnu/libc.so.6");
        assert_eq!(role(None, None, libc), Role::Start);
        assert_eq!(role(Some("getppid"), None, libc), Role::Code, "not a start, at whichever end");
        assert_eq!(role(Some("qsort_r"), Some("stdlib/msort.c"), libc), Role::Code);
        assert_eq!(role(Some("start"), None, Some("/lib/ld-musl-x86_64.so.1")), Role::Start);
        assert_eq!(role(Some("start"), None, Some("/usr/bin/mail")), Role::Code);
        assert_eq!(role(Some("__GI___clone3"), Some("../sysdeps/unix/sysv/linux/x86_64/clone3.S"), libc), Role::Start);
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
        // A hook that lost its path, inlined into the shim.
        let frames = stack(&[Code, Std, Code, Shim, Std, Code, Start]);
        assert_eq!(Trim::default().shown(&frames), 5..6);
        assert_eq!(Trim::from_dhat(None).shown(&frames), 3..7);
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
