//! From code addresses to names: once a snapshot, each distinct address once.
//!
//! Addresses are sorted by module; a module's file is opened, asked and closed before the next, so that the memory
//! of one module's debug information is the most that is held. A lookup asks for the return address less one, which
//! lies in the call. Functions inlined there come first, the real function last. Names are shared between frames.
//!
//! A module whose file is gone or was replaced is not symbolized from the wrong file (`module_file`); what is not
//! known is shown as `???` with module and offset. Where the file is the right one and cannot be read, or where the
//! module has no file, a picture of our own process asks the `backtrace` crate.
//! Source: DWARF by `addr2line`, whose readers `backtrace` uses as well.

use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use super::frame::{Frame, Symbol};
use super::module_file;
use super::trim::{Role, role};
use crate::leak::pool::Whose;
use crate::store::picture::{Life, ModulePicture, Picture};
use crate::units::{FrameKey, ModuleId};

/// Functions inlined into one another at one address; compilers stop long before.
const INLINED_MAX: usize = 64;

/// Whose code these frames are, in order, and a number for the functions there. The standard library's, the runtime's and nobody's
/// are a library's.
pub(crate) fn owners(keys: &[FrameKey], picture: &Picture) -> Vec<(Whose, u64)> {
    let table = SymbolTable::of(keys.to_vec(), picture);
    let of_key = |&key: &FrameKey| {
        let frames = table.frames(key);
        (owner(frames), functions_number(key, frames))
    };
    keys.iter().map(of_key).collect()
}

/// Equal for two addresses where the same functions are inlined into one another; one without a name is its address.
fn functions_number(key: FrameKey, frames: &[Frame]) -> u64 {
    let mut hasher = DefaultHasher::new();
    match frames.iter().all(|frame| frame.name().is_some()) && !frames.is_empty() {
        true => frames.iter().for_each(|frame| frame.name().hash(&mut hasher)),
        false => key.hash(&mut hasher),
    }
    hasher.finish()
}

/// Whose code one address is, by the functions inlined there, innermost first.
fn owner(frames: &[Frame]) -> Whose {
    // What lies within the allocator's entry is the allocator's, whatever crate it is of; what that was inlined into is not.
    let shim = frames.iter().rposition(|frame| frame.symbol.role == Role::Shim);
    let outside = shim.map_or(frames, |shim| frames.get(shim + 1..).unwrap_or_default());
    let says_nothing = |frame: &Frame| frame.symbol.role != Role::Code || frame.is_std() || frame.name().is_none();
    match (shim.is_some(), outside.iter().all(says_nothing)) {
        (_, false) => Whose::Program,
        (true, true) if outside.is_empty() => Whose::Allocator,
        _ => Whose::Library,
    }
}

/// Every distinct frame of a picture, symbolized.
#[derive(Debug, Default)]
pub(crate) struct SymbolTable {
    /// Sorted.
    keys: Vec<FrameKey>,
    /// `keys[i]`'s symbols are `frames[starts[i]..starts[i + 1]]`, the innermost inlined function first.
    starts: Vec<usize>,
    frames: Vec<Frame>,
}

impl SymbolTable {
    /// Symbolizes every frame of every site.
    pub(crate) fn resolve(picture: &Picture) -> SymbolTable {
        SymbolTable::of(picture.sites.iter().flat_map(|site| site.frames.iter().copied()).collect(), picture)
    }

    /// Symbolizes these frames of a picture's modules.
    pub(crate) fn of(mut keys: Vec<FrameKey>, picture: &Picture) -> SymbolTable {
        keys.sort_unstable();
        keys.dedup();
        keys.shrink_to_fit();
        let mut names = Names::default();
        let mut table = SymbolTable { starts: Vec::with_capacity(keys.len() + 1), ..SymbolTable::default() };
        for of_module in keys.chunk_by(|a, b| row(*a, picture) == row(*b, picture)) {
            table.resolve_module(picture, of_module, &mut names);
        }
        table.starts.push(table.frames.len());
        table.keys = keys;
        table
    }

    fn resolve_module(&mut self, picture: &Picture, keys: &[FrameKey], names: &mut Names) {
        let row = keys.first().map_or(0, |&key| row(key, picture));
        let module = if row == 0 { None } else { picture.modules.get(row) };
        let source = module.map_or(Source::Unknown, |module| Source::of(module, picture));
        let path = module.filter(|module| !module.path.is_empty()).map(|module| names.share(&module.path));
        let bias = module.map_or(0, |module| module.bias);
        for &key in keys {
            let first = self.frames.len();
            self.starts.push(first);
            if key == FrameKey::TRUNCATED {
                let symbol = Symbol { role: Role::Cut, ..Symbol::default() };
                self.frames.push(Frame { address: 0, symbol: Arc::new(symbol) });
                continue;
            }
            // A key of no module is an address.
            let (address, offset) = match key.module() {
                ModuleId(0) => (key.offset(), key.offset().wrapping_sub(bias)),
                _ => (bias.wrapping_add(key.offset()), key.offset()),
            };
            let push = |found: Found<'_>| {
                if self.frames.len() - first < INLINED_MAX {
                    let role = role(found.name.as_deref(), found.file.as_deref(), path.as_deref());
                    let symbol = Symbol {
                        name: found.name.map(|name| names.share(&name)),
                        file: found.file.map(|file| names.share(&file)),
                        line: found.line,
                        column: found.column,
                        inlined: true,
                        module: path.clone(),
                        offset,
                        role,
                    };
                    self.frames.push(Frame { address, symbol: Arc::new(symbol) });
                }
            };
            source.lookup(address, offset, push);
            match self.frames.get_mut(first..).unwrap_or_default() {
                [] => {
                    let role = role(None, None, path.as_deref());
                    let symbol = Symbol { module: path.clone(), offset, role, ..Symbol::default() };
                    self.frames.push(Frame { address, symbol: Arc::new(symbol) });
                }
                [.., outermost] => Arc::make_mut(&mut outermost.symbol).inlined = false,
            }
        }
    }

    /// The frames at one return address, the innermost inlined function first; never empty for a key of the
    /// picture.
    pub(crate) fn frames(&self, key: FrameKey) -> &[Frame] {
        let Ok(i) = self.keys.binary_search(&key) else { return &[] };
        match (self.starts.get(i), self.starts.get(i + 1)) {
            (Some(&start), Some(&end)) => self.frames.get(start..end).unwrap_or_default(),
            _ => &[],
        }
    }

    /// The index of a key among all; what `frames_at` takes.
    pub(crate) fn index(&self, key: FrameKey) -> Option<usize> {
        self.keys.binary_search(&key).ok()
    }

    /// All frames, and for each key the start of its own (one more than keys).
    pub(crate) fn all(&self) -> (&[Frame], &[usize]) {
        (&self.frames, &self.starts)
    }
}

/// The row of a frame's module, or 0. A library that was just opened is listed at the next tick; what was captured in it by then
/// is of no module, and an address. It is the library's that is there, if no other ever was.
fn row(key: FrameKey, picture: &Picture) -> usize {
    if key.module() != ModuleId(0) {
        return usize::from(key.module().0);
    }
    let call = key.offset().wrapping_sub(1);
    let mut there = picture.modules.iter().enumerate().filter(|(_, module)| (module.start..module.end).contains(&call));
    match (there.next(), there.next()) {
        (Some((row, module)), None) if module.loaded => row,
        _ => 0,
    }
}

/// Names and paths, each held once.
#[derive(Default)]
struct Names(HashSet<Arc<str>>);

impl Names {
    fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        let shared: Arc<str> = text.into();
        self.0.insert(Arc::clone(&shared));
        shared
    }
}

/// One function at an address.
#[derive(Default)]
struct Found<'a> {
    name: Option<Cow<'a, str>>,
    file: Option<Cow<'a, str>>,
    line: u32,
    column: u32,
}

/// Where a module's symbols come from.
enum Source {
    File(Box<addr2line::Loader>),
    /// The code lies in this process, and no other file can be taken for its own.
    OwnProcess,
    Unknown,
}

impl Source {
    fn of(module: &ModulePicture, picture: &Picture) -> Source {
        let file = module_file::find(module, picture.pid, picture.started_unix_ns);
        if let Some(loader) = file.as_ref().and_then(|path| addr2line::Loader::new(path).ok()) {
            return Source::File(Box::new(loader));
        }
        let is_own = picture.life == Life::Running && picture.pid == std::process::id() && module.loaded;
        // `backtrace` opens the path without looking at the build id: only where it would open the right file.
        if is_own && (file.is_some() || !Path::new(&module.path).exists()) {
            return Source::OwnProcess;
        }
        Source::Unknown
    }

    fn lookup(&self, address: u64, offset: u64, push: impl FnMut(Found<'_>)) {
        match self {
            Source::File(loader) => lookup_in_file(loader, offset.saturating_sub(1), push),
            Source::OwnProcess => lookup_in_process(address, push),
            Source::Unknown => {}
        }
    }
}

fn lookup_in_file(loader: &addr2line::Loader, probe: u64, mut push: impl FnMut(Found<'_>)) {
    let linked = || loader.find_symbol(probe).map(|name| addr2line::demangle_auto(Cow::Borrowed(name), None));
    let mut innermost: Option<Found<'_>> = None;
    if let Ok(mut frames) = loader.find_frames(probe) {
        // One behind, since the last one is the real function.
        while let Ok(Some(frame)) = frames.next() {
            if let Some(inlined) = innermost.take() {
                push(inlined);
            }
            let mut found = Found::default();
            if let Some(location) = frame.location {
                found.file = location.file.map(|file| Cow::Owned(file.to_owned()));
                found.line = location.line.unwrap_or(0);
                found.column = location.column.unwrap_or(0);
            }
            found.name = frame.function.and_then(|name| name.demangle().ok().map(|name| Cow::Owned(name.into_owned())));
            innermost = Some(found);
        }
    }
    match innermost {
        Some(mut function) => {
            // Under `debug = "line-tables-only"` DWARF has bare names; the linker's symbol has the whole path.
            if function.name.as_deref().is_none_or(is_bare) {
                function.name = linked().or(function.name);
            }
            push(function);
        }
        None => {
            if let Some(name) = linked() {
                push(Found { name: Some(name), ..Found::default() });
            }
        }
    }
}

/// A name without the path to it, whatever its generic parameters are.
fn is_bare(name: &str) -> bool {
    !name.starts_with('<') && !name.split('<').next().is_some_and(|path| path.contains("::"))
}

fn lookup_in_process(address: u64, mut push: impl FnMut(Found<'_>)) {
    // It takes a return address, and subtracts the one itself.
    let Ok(address) = usize::try_from(address) else { return };
    backtrace::resolve(std::ptr::without_provenance_mut(address), |symbol| {
        push(Found {
            name: symbol.name().map(|name| Cow::Owned(format!("{name:#}"))),
            file: symbol.filename().map(|file| Cow::Owned(file.to_string_lossy().into_owned())),
            line: symbol.lineno().unwrap_or(0),
            column: symbol.colno().unwrap_or(0),
        });
    });
}

#[cfg(any(test, feature = "_synthetic"))]
impl SymbolTable {
    /// Every distinct frame of a picture, named by its offset alone.
    pub(crate) fn made_up(picture: &Picture, name: impl Fn(u64) -> Option<String>) -> SymbolTable {
        let mut table = SymbolTable::resolve(picture);
        for frame in &mut table.frames {
            let symbol = Arc::make_mut(&mut frame.symbol);
            symbol.name = name(symbol.offset).map(Arc::from);
            let is_std = symbol.name.as_ref().is_some_and(|name| name.starts_with("alloc::"));
            symbol.file =
                Some(if is_std { "/rustc/0/library/alloc/src/vec/mod.rs" } else { "/home/user/app/src/lib.rs" }.into());
            symbol.line = u32::try_from(symbol.offset & 0xfff).unwrap_or(0);
            symbol.column = 5;
            symbol.role = role(symbol.name.as_deref(), symbol.file.as_deref(), None);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Snapshot;
    use crate::report::synthetic::Builder;

    #[inline(always)]
    fn inlined_into_marked() -> Vec<u64> {
        let mut addresses = Vec::new();
        backtrace::trace(|frame| {
            addresses.push(frame.ip() as u64);
            addresses.len() < 64
        });
        std::hint::black_box(addresses)
    }

    #[inline(never)]
    fn marked_by_name() -> Vec<u64> {
        let addresses = inlined_into_marked();
        std::hint::black_box(addresses)
    }

    const CALL_LINE: u32 = line!() - 4;

    /// This program as the store would list it: by its own map.
    fn own_module(builder: &mut Builder, change: impl Fn(&mut ModulePicture)) -> (ModuleId, u64) {
        let exe = std::env::current_exe().expect("a program");
        let path = exe.to_str().expect("UTF-8");
        let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
        let first = maps.lines().find(|line| line.ends_with(path)).expect("the program's first mapping");
        let bias = u64::from_str_radix(first.split('-').next().expect("an address"), 16).expect("hexadecimal");
        let (build_id, code_end) = module_file::identity(&exe).expect("an ELF file");
        let row = builder.module(path, &build_id, bias, bias + code_end);
        builder.picture.pid = std::process::id();
        change(builder.picture.modules.last_mut().expect("just added"));
        (row, bias)
    }

    fn names(change: impl Fn(&mut ModulePicture), life: Life) -> Vec<Frame> {
        let mut builder = Builder::new(0);
        let (row, bias) = own_module(&mut builder, change);
        builder.picture.life = life;
        let keys: Vec<_> =
            marked_by_name().into_iter().map(|address| FrameKey::new(row, address.wrapping_sub(bias))).collect();
        builder.site(&keys, 100, 1, 0);
        let snapshot = Snapshot::trimmed(builder.picture, crate::report::trim::Trim::from_dhat(None));
        snapshot.site(0).frames().cloned().collect()
    }

    fn position(frames: &[Frame], name: &str) -> Option<usize> {
        frames.iter().position(|frame| frame.name().is_some_and(|found| found.ends_with(name)))
    }

    #[test]
    fn the_allocators_frames_are_told_from_libraries_and_the_programs() {
        let frame = |role| {
            let symbol = Symbol { name: Some("f".into()), role, ..Symbol::default() };
            Frame { address: 1, symbol: Arc::new(symbol) }
        };
        let whose = |roles: &[Role]| owner(&roles.iter().map(|&role| frame(role)).collect::<Vec<_>>());
        // The hook, and a program's own allocator around it, inlined into the entry.
        assert_eq!(whose(&[Role::Own, Role::Code, Role::Shim]), Whose::Allocator);
        assert_eq!(whose(&[Role::Own, Role::Shim, Role::Std]), Whose::Library);
        assert_eq!(whose(&[Role::Own, Role::Shim, Role::Std, Role::Code]), Whose::Program);
        assert_eq!((whose(&[Role::Std]), whose(&[])), (Whose::Library, Whose::Library));
        assert_eq!(whose(&[Role::Std, Role::Code]), Whose::Program);
    }

    #[test]
    fn our_own_frames_have_names_lines_and_inlining() {
        let frames = names(|_| {}, Life::Running);
        let inlined = position(&frames, "inlined_into_marked").unwrap_or_else(|| panic!("not found: {frames:#?}"));
        let marked = position(&frames, "marked_by_name").expect("the real function");
        assert_eq!(marked, inlined + 1);
        let (inner, outer) = (&frames[inlined], &frames[marked]);
        assert!(inner.is_inlined() && !outer.is_inlined());
        assert_eq!(inner.address(), outer.address());
        assert_eq!(outer.name(), Some("unfreed::report::symbolize::tests::marked_by_name"));
        assert!(outer.file().is_some_and(|file| file.ends_with("src/report/symbolize.rs")), "{outer:?}");
        assert_eq!(outer.line(), Some(CALL_LINE));
        assert!(outer.column().is_some());
        let text = outer.to_string();
        let place = format!("(src/report/symbolize.rs:{CALL_LINE}:");
        assert!(text.starts_with(&format!("{:#x}: unfreed::", outer.address())) && text.contains(&place), "{text}");
        let hash = |name: &str| name.rsplit("::h").next().is_some_and(|end| end.len() == 16);
        assert!(!frames.iter().filter_map(|frame| frame.name()).any(hash), "a name kept its hash");
    }

    #[test]
    fn a_replaced_file_gives_no_names() {
        let frames = names(|module| module.build_id = vec![1; 20], Life::Running);
        let in_program = frames.iter().filter(|frame| frame.module().is_some()).count();
        assert!(in_program > 0);
        assert!(frames.iter().all(|frame| frame.name().is_none() && frame.file().is_none()), "{frames:#?}");
        let text = frames[0].to_string();
        assert!(text.contains(": ??? (unfreed-") && text.contains("+0x"), "{text}");
    }

    /// The path is gone and nothing tells the file: the running process still knows itself, and only it does.
    #[test]
    fn our_own_process_helps_where_there_is_no_file() {
        let gone = |module: &mut ModulePicture| {
            module.path = "/nowhere/program".into();
            module.build_id.clear();
        };
        assert!(position(&names(gone, Life::Running), "marked_by_name").is_some());
        assert_eq!(position(&names(gone, Life::Killed), "marked_by_name"), None);
        let unloaded = |module: &mut ModulePicture| {
            gone(module);
            module.loaded = false;
        };
        assert_eq!(position(&names(unloaded, Life::Running), "marked_by_name"), None);
    }

    #[test]
    fn no_module_and_a_cut_stack_are_shown_as_such() {
        let mut builder = Builder::new(0);
        let bare = FrameKey::new(ModuleId(0), 0x1234);
        let unlisted = FrameKey::new(ModuleId(77), 0x99);
        builder.site(&[bare, unlisted, FrameKey::TRUNCATED], 100, 1, 0);
        let snapshot = Snapshot::from_picture(builder.picture);
        let texts: Vec<_> = snapshot.site(0).frames().map(Frame::to_string).collect();
        assert_eq!(texts, ["0x1234: ??? (???:0:0)", "0x99: ??? (???:0:0)", "[callers not captured]"]);
    }

    /// What was captured in a library before it was listed has its names, unless another library was there too.
    #[test]
    fn what_was_captured_before_its_library_was_listed_has_names() {
        let found = |change: fn(&mut ModulePicture), others: usize| {
            let mut builder = Builder::new(0);
            let (_, bias) = own_module(&mut builder, change);
            for _ in 0..others {
                builder.module("/nowhere/other.so", &[], bias, bias + (1 << 40));
            }
            let keys: Vec<_> =
                marked_by_name().into_iter().map(|address| FrameKey::new(ModuleId(0), address)).collect();
            builder.site(&keys, 100, 1, 0);
            let snapshot = Snapshot::trimmed(builder.picture, crate::report::trim::Trim::from_dhat(None));
            let frames: Vec<_> = snapshot.site(0).frames().cloned().collect();
            let at = position(&frames, "marked_by_name")?;
            assert!(keys.iter().any(|key| key.offset() == frames[at].address()));
            frames[at].line()
        };
        assert_eq!(found(|_| {}, 0), Some(CALL_LINE));
        assert_eq!(found(|_| {}, 1), None);
        assert_eq!(found(|module| module.loaded = false, 0), None);
    }

    /// Not a check: times the symbols of `UNFREED_BENCH_FILE` at so many addresses spread over its code.
    #[test]
    #[ignore = "a measurement"]
    fn measure_a_large_file() {
        let path = std::env::var("UNFREED_BENCH_FILE").expect("UNFREED_BENCH_FILE names a file");
        let count: u64 = std::env::var("UNFREED_BENCH_ADDRESSES").map_or(20_000, |n| n.parse().expect("a number"));
        let (build_id, code_end) = module_file::identity(Path::new(&path)).expect("an ELF file");
        let mut builder = Builder::new(0);
        let row = builder.module(&path, &build_id, 0, code_end);
        for i in 0..count {
            builder.site(&[FrameKey::new(row, code_end / 4 + code_end / 4 * 3 * i / count)], 100, 1, 0);
        }
        let status = |key: &str| {
            let status = std::fs::read_to_string("/proc/self/status").expect("status");
            status.lines().find(|line| line.starts_with(key)).map(str::to_owned).unwrap_or_default()
        };
        println!("before: {} {}", status("VmRSS"), status("RssAnon"));
        let start = std::time::Instant::now();
        let table = SymbolTable::resolve(&builder.picture);
        let took = start.elapsed();
        let named = table.frames.iter().filter(|frame| frame.name().is_some()).count();
        println!("{count} addresses, {} frames, {named} named, {took:?}", table.frames.len());
        println!("after: {} {} peak {}", status("VmRSS"), status("RssAnon"), status("VmHWM"));
    }
}
