//! Which modules are loaded, told to the unwinder and to the store: at start and at every tick of the drain thread.
//!
//! Promises: `start` ends with a published set whose method passed the self-test; `refresh` costs one call of the
//! loader when nothing changed, and keeps workspaces in stock. A module that may be unloaded has its unwind tables
//! copied under the loader's lock, so that no walk ever reads unmapped tables; sets that went out of force are freed
//! when no walk uses them. A module that is unloaded and loaded again is another module, unless all of it is the same
//! (path, place, build id, tables).
//!
//! Both allocate; neither is ever called inside an allocation. One caller at a time; a second waits, except in a
//! forked child whose parent was busy here: that starts afresh.
#![allow(unsafe_code, reason = "slices into loaded modules and owned copies, with the lifetime of their set")]

use core::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use framehop::{ExplicitModuleSectionInfo, Module, Unwinder as _};

use super::selftest;
use super::set::{self, Loaded, Sections, Set, Span, Tables, Unwinder};
use super::step::Method;
use super::{CAPACITY, METHOD, workspace};
use crate::sys::modules::{self, Changes, View};
use crate::sys::stack;
use crate::units::ModuleId;

/// A module as the store wants to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LoadedModule {
    /// The path it was loaded from (the program's own is looked up); a bare name for the vdso.
    pub(crate) path: String,
    /// The GNU build id, or empty.
    pub(crate) build_id: Vec<u8>,
    /// What is added to an address of its file to get an address in the process.
    pub(crate) bias: u64,
    /// Its executable addresses in the process.
    pub(crate) text: Range<u64>,
    /// The kernel's own module.
    pub(crate) vdso: bool,
}

/// Where modules are listed: the store.
pub(crate) trait ModuleSink {
    /// A module was found; its row, or `ModuleId(0)` where there is none left (its frames are then bare addresses).
    fn add(&mut self, module: &LoadedModule) -> ModuleId;
    /// The module in this row is not loaded any more.
    fn unload(&mut self, id: ModuleId);
}

/// Workspaces to be kept free; 45 kB each.
static FEWEST_WORKSPACES: AtomicUsize = AtomicUsize::new(8);

/// Sets how many workspaces `start` and `refresh` keep free, beyond twice as many as are in use. Exact mode, where
/// threads are often preempted in the middle of a capture, wants about as many as there are busy threads.
pub(crate) fn keep_free(workspaces: usize) {
    FEWEST_WORKSPACES.store(workspaces.clamp(8, 512), Ordering::Relaxed);
}

struct Listed {
    /// What the loader calls it.
    name: Box<[u8]>,
    module: LoadedModule,
    id: ModuleId,
    base: u64,
    /// Our own copy of the tables, if it may be unloaded.
    copy: Option<Arc<Tables>>,
    sections: Sections,
}

struct Registry {
    listed: Vec<Listed>,
    changes: Changes,
    unwinder: Unwinder,
    generation: u64,
    /// Our count of framehop's module generations: one a new unwinder, one a module added or removed.
    rules_generation: u64,
    retired: Vec<*mut Set>,
    /// Every workspace is at least this large and this young (a capacity, and a count of rules' generations).
    renewed: (usize, u64),
}

/// The registry when nobody works on it; else null.
static REGISTRY: AtomicPtr<Registry> = AtomicPtr::new(core::ptr::null_mut());
/// The process whose registry that is.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// Takes the registry, or makes the process's first. Waits for another user.
fn take() -> Box<Registry> {
    let pid = std::process::id();
    loop {
        // Acquire: partner of `put`.
        let taken = REGISTRY.swap(core::ptr::null_mut(), Ordering::Acquire);
        if !taken.is_null() {
            // SAFETY: put there by `Box::into_raw` below, and taken out by us alone.
            return unsafe { Box::from_raw(taken) };
        }
        let owner = OWNER.load(Ordering::Relaxed);
        if owner != pid && OWNER.compare_exchange(owner, pid, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            // The first in this process, or the parent was at work when it forked: what it held is left alone.
            return Box::new(Registry {
                listed: Vec::new(),
                changes: Changes::default(),
                unwinder: Unwinder::new(),
                generation: set::generation(),
                rules_generation: 0,
                retired: Vec::new(),
                renewed: (0, 0),
            });
        }
        std::thread::yield_now();
    }
}

fn put(registry: Box<Registry>) {
    OWNER.store(std::process::id(), Ordering::Relaxed);
    // Release: partner of `take`.
    REGISTRY.store(Box::into_raw(registry), Ordering::Release);
}

fn with_registry<T>(work: impl FnOnce(&mut Registry) -> T) -> T {
    let mut registry = take();
    let answer = work(&mut registry);
    put(registry);
    answer
}

/// Held over a fork, by `before_fork`.
static HELD: AtomicPtr<Registry> = AtomicPtr::new(core::ptr::null_mut());

/// For `pthread_atfork`: waits until `start` and `refresh` are not at work, and keeps them from it. A child forked
/// while another thread is inside the loader's list of modules could never read that list (its lock stays taken).
pub(crate) fn before_fork() {
    if OWNER.load(Ordering::Relaxed) != 0 {
        HELD.store(Box::into_raw(take()), Ordering::Relaxed);
    }
}

/// For `pthread_atfork`, in parent and child.
pub(crate) fn after_fork() {
    let held = HELD.swap(core::ptr::null_mut(), Ordering::Relaxed);
    if !held.is_null() {
        // SAFETY: made by `before_fork` on this thread (or its copy in the parent).
        put(unsafe { Box::from_raw(held) });
    }
}

/// Lists all modules in `sink`, stocks the pools for stacks of up to `max_frames` (4..=1024) frames, tests on known
/// calls which method unwinds this program right, and returns its name. May be called again.
pub(crate) fn start(max_frames: usize, sink: &mut dyn ModuleSink) -> &'static str {
    let capacity = max_frames.clamp(4, 1024) + 1;
    stack::start();
    with_registry(|registry| {
        registry.listed.clear();
        registry.unwinder = Unwinder::new();
        registry.rules_generation += 1;
        registry.look(sink);
        registry.publish();
        CAPACITY.store(capacity, Ordering::Relaxed);
        registry.stock();
    });
    let (method, name) = [(Method::Framehop, "framehop + replay"), (Method::FramePointers, "frame pointers")]
        .into_iter()
        .find(|(method, _)| selftest::passes(*method))
        .unwrap_or((Method::Backtrace, "backtrace"));
    choose(method);
    name
}

/// Looks whether modules came or went, and keeps the pools in stock. The drain thread calls it at every tick.
pub(crate) fn refresh(sink: &mut dyn ModuleSink) {
    with_registry(|registry| {
        if modules::changes() != registry.changes {
            registry.look(sink);
            registry.publish();
        }
        set::reap(&mut registry.retired);
        registry.stock();
    });
}

/// Puts `method` in force. What threads remember was found by another: it is forgotten by a new generation.
pub(super) fn choose(method: Method) {
    with_registry(|registry| {
        if METHOD.swap(method as u8, Ordering::Relaxed) != method as u8 {
            registry.publish();
        }
    });
}

/// As if so many modules had come and gone.
#[cfg(test)]
pub(super) fn age(generations: u64) {
    with_registry(|registry| {
        registry.rules_generation += generations;
        registry.publish();
    });
}

/// Sets that wait for a walk to end.
#[cfg(test)]
pub(super) fn retired() -> usize {
    with_registry(|registry| registry.retired.len())
}

impl Registry {
    /// Compares what is loaded with what is listed, and changes the list, the sink and the unwinder accordingly.
    fn look(&mut self, sink: &mut dyn ModuleSink) {
        let mut seen = vec![false; self.listed.len()];
        let mut fresh = Vec::new();
        self.changes = modules::visit(|view| match self.listed.iter().position(|listed| listed.is(&view)) {
            Some(at) => seen[at] = true,
            None => fresh.push(Listed::new(&view)),
        });
        let mut seen = seen.into_iter();
        let mut gone = 0;
        self.listed.retain(|listed| {
            let stays = seen.next().unwrap_or(true);
            if !stays {
                sink.unload(listed.id);
                self.unwinder.remove_module(listed.module.text.start);
                gone += 1;
            }
            stays
        });
        self.rules_generation += gone + fresh.len() as u64;
        for mut listed in fresh {
            listed.id = sink.add(&listed.module);
            self.unwinder.add_module(listed.unwinder_module());
            self.listed.push(listed);
        }
    }

    /// Keeps the workspaces in number and in shape.
    fn stock(&mut self) {
        let (capacity, rules) = (CAPACITY.load(Ordering::Relaxed), self.rules_generation);
        let (renewed_capacity, renewed_rules) = self.renewed;
        let old = rules - renewed_rules > workspace::OLD_RULES;
        if (old || renewed_capacity < capacity) && workspace::renew(capacity, rules) {
            self.renewed = (capacity, rules);
        }
        workspace::stock(FEWEST_WORKSPACES.load(Ordering::Relaxed), capacity, rules);
    }

    fn publish(&mut self) {
        self.generation += 1;
        let mut spans: Vec<Span> = self
            .listed
            .iter()
            .filter(|listed| listed.id != ModuleId(0))
            .map(|listed| Span {
                start: listed.module.text.start,
                end: listed.module.text.end,
                bias: listed.module.bias,
                module: listed.id,
            })
            .collect();
        spans.sort_by_key(|span| span.start);
        let loaded = |listed: &Listed| Loaded {
            start: listed.module.text.start,
            end: listed.module.text.end,
            bias: listed.module.bias,
            sections: listed.sections,
        };
        let mut modules: Vec<Loaded> = self.listed.iter().map(loaded).collect();
        modules.sort_by_key(|module| module.start);
        let highest = self.unwinder.max_known_code_address().max(1 << 47);
        let set = Set {
            unwinder: self.unwinder.clone(),
            spans: spans.into(),
            modules: modules.into(),
            generation: self.generation,
            rules_generation: self.rules_generation,
            address_mask: u64::MAX >> highest.leading_zeros(),
            tables: self.listed.iter().filter_map(|listed| listed.copy.clone()).collect(),
        };
        let old = set::publish(Box::new(set));
        if !old.is_null() {
            self.retired.push(old);
        }
        set::reap(&mut self.retired);
    }
}

impl Listed {
    fn new(view: &View<'_>) -> Listed {
        let path = if view.index == 0 && view.path.is_empty() {
            std::fs::read_link("/proc/self/exe").map_or_else(|_| String::new(), |p| p.to_string_lossy().into_owned())
        } else {
            lasting_path(view.path)
        };
        let copy = may_be_unloaded(view).then(|| {
            Arc::new(Tables { eh_frame_hdr: view.eh_frame_hdr.into(), eh_frame: view.eh_frame_section().into() })
        });
        let (eh_frame_hdr, eh_frame) = match &copy {
            Some(tables) => (&*tables.eh_frame_hdr, &*tables.eh_frame),
            None => (view.eh_frame_hdr, view.eh_frame),
        };
        Listed {
            name: view.path.into(),
            module: LoadedModule {
                path,
                build_id: view.build_id.to_vec(),
                bias: view.bias,
                text: view.text.clone(),
                vdso: view.vdso,
            },
            id: ModuleId(0),
            base: view.base,
            sections: Sections {
                eh_frame_hdr: for_ever(eh_frame_hdr),
                eh_frame_hdr_address: view.eh_frame_hdr_address,
                eh_frame: for_ever(eh_frame),
                eh_frame_address: view.eh_frame_address,
            },
            copy,
        }
    }

    /// The same module, loaded at the same place ever since or again.
    fn is(&self, view: &View<'_>) -> bool {
        self.module.text == view.text
            && self.module.bias == view.bias
            && self.module.build_id == view.build_id
            && *self.name == *view.path
            && self.copy.as_ref().is_none_or(|tables| {
                *tables.eh_frame_hdr == *view.eh_frame_hdr && *tables.eh_frame == *view.eh_frame_section()
            })
    }

    fn unwinder_module(&self) -> Module<&'static [u8]> {
        let Sections { eh_frame_hdr, eh_frame_hdr_address, eh_frame, eh_frame_address } = self.sections;
        let bias = self.module.bias;
        let file = |address: u64, bytes: &[u8]| {
            let start = address.wrapping_sub(bias);
            start..start.saturating_add(bytes.len() as u64)
        };
        let text = self.module.text.start.wrapping_sub(bias)..self.module.text.end.wrapping_sub(bias);
        let present = !eh_frame_hdr.is_empty() && !eh_frame.is_empty();
        Module::new(
            String::new(),
            self.module.text.clone(),
            self.base,
            ExplicitModuleSectionInfo {
                base_svma: self.base.wrapping_sub(bias),
                text_svma: Some(text),
                eh_frame_svma: present.then(|| file(eh_frame_address, eh_frame)),
                eh_frame: present.then_some(eh_frame),
                eh_frame_hdr_svma: present.then(|| file(eh_frame_hdr_address, eh_frame_hdr)),
                eh_frame_hdr: present.then_some(eh_frame_hdr),
                ..ExplicitModuleSectionInfo::default()
            },
        )
    }
}

/// A library opened by `./plugin.so` is found again when the program, or whoever reads its profile, is in another directory.
fn lasting_path(name: &[u8]) -> String {
    let path = String::from_utf8_lossy(name);
    if path.starts_with('/') || !path.contains('/') {
        return path.into_owned();
    }
    std::path::absolute(&*path).map_or_else(|_| path.to_string(), |path| path.to_string_lossy().into_owned())
}

/// All but the program, the kernel's module, libc, and the module that this code is in: those stay while we run.
fn may_be_unloaded(view: &View<'_>) -> bool {
    let here = (may_be_unloaded as fn(&View<'_>) -> bool) as usize as u64;
    let stays = view.index == 0 || view.vdso || [here, modules::libc_address()].iter().any(|a| view.text.contains(a));
    !stays
}

/// The lifetime that framehop's modules want. What keeps the promise: the module stays loaded (`may_be_unloaded`), or
/// the bytes are a copy that every set with this module owns (`Set::tables`).
fn for_ever(bytes: &[u8]) -> &'static [u8] {
    // SAFETY: see above; no slice outlives the set (or the registry) that holds its owner.
    unsafe { core::slice::from_raw_parts(bytes.as_ptr(), bytes.len()) }
}
