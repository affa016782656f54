//! Where the calling thread's words are.
//!
//! Promises: [`HOT`] is there at any moment of a thread's life, from its first instruction to its last, and takes no memory and no call.
//!
//! By glibc on x86-64 the words are a thread-local symbol of our own, defined in assembly, since a name is what `asm!` asks for: one
//! instruction finds them, where a `thread_local!` takes two, and `fs` does the rest (the 'initial-exec' model: Drepper, 'ELF Handling For
//! Thread-Local Storage', 2013, 4.3.6). The linker makes the load a constant in executables; in a library that is opened later they take 128 bytes of the
//! space that glibc keeps for such. Other C libraries keep none, and refuse it: there, and on other processors, it is a `thread_local!`.

use super::Hot;

/// The symbol's name. Of this version, so that two of them can be in one program.
#[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
macro_rules! symbol {
    () => {
        concat!(
            "unfreed_hot_",
            env!("CARGO_PKG_VERSION_MAJOR"),
            "_",
            env!("CARGO_PKG_VERSION_MINOR"),
            "_",
            env!("CARGO_PKG_VERSION_PATCH")
        )
    };
}
#[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
pub(super) use symbol;

/// The calling thread's words.
#[derive(Debug)]
pub(crate) struct HotKey;

/// The calling thread's words.
pub(crate) static HOT: HotKey = HotKey;

#[cfg(not(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu")))]
impl HotKey {
    /// Calls `f` with the words.
    #[inline(always)]
    pub(crate) fn with<T>(&self, f: impl FnOnce(&Hot) -> T) -> T {
        thread_local! {
            // `const` and without `Drop`: one fs-relative address in executables, usable at any moment of a thread's life.
            static WORDS: Hot = const { Hot::new() };
        }
        WORDS.with(f)
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
impl HotKey {
    /// Calls `f` with the words.
    #[inline(always)]
    pub(crate) fn with<T>(&self, f: impl FnOnce(&Hot) -> T) -> T {
        let hot: *const Hot;
        // SAFETY: reads two constants of the thread, its own address, which the ABI keeps at fs:0, and the words' distance from it.
        unsafe {
            core::arch::asm!(
                "mov {hot}, qword ptr fs:[0]",
                concat!("add {hot}, qword ptr [rip + ", symbol!(), "@GOTTPOFF]"),
                hot = out(reg) hot,
                options(pure, nomem, nostack),
            );
        }
        // SAFETY: this thread's copy of the symbol, which exists as long as the thread; the reference does not leave `f`'s call.
        f(unsafe { &*hot })
    }
}

// What a thread's words are at first: as `Hot::new` has it.
#[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
core::arch::global_asm!(
    ".pushsection .tdata.unfreed,\"awT\",@progbits",
    ".p2align 6",
    concat!(".globl ", symbol!()),
    concat!(".hidden ", symbol!()),
    concat!(".type ", symbol!(), ", @object"),
    concat!(".size ", symbol!(), ", 128"),
    concat!(symbol!(), ":"),
    ".zero 40",
    ".quad -1",
    ".zero 80",
    ".popsection",
);

#[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
const _: () = {
    assert!(size_of::<Hot>() == 128 && align_of::<Hot>() == 64, "the assembly's object");
    assert!(std::mem::offset_of!(Hot, range_span) == 40, "the one word that is not 0 at first");
};

/// `asm!` on the words: [`word`] names one by its offset.
#[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
macro_rules! on_words {
    ($($line:expr),+; $($operands:tt)*) => {
        core::arch::asm!(
            concat!("mov {hot}, qword ptr [rip + ", super::place::symbol!(), "@GOTTPOFF]"),
            $($line),+,
            hot = out(reg) _,
            $($operands)*
        )
    };
}

#[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
macro_rules! word {
    ($offset:literal) => {
        concat!("qword ptr fs:[{hot} + ", $offset, "]")
    };
}

#[cfg(all(target_arch = "x86_64", not(all(target_os = "linux", target_env = "gnu"))))]
macro_rules! on_words {
    ($($line:expr),+; $($operands:tt)*) => {
        let words = HOT.with(std::ptr::from_ref);
        core::arch::asm!($($line),+, hot = in(reg) words, $($operands)*)
    };
}

#[cfg(all(target_arch = "x86_64", not(all(target_os = "linux", target_env = "gnu"))))]
macro_rules! word {
    ($offset:literal) => {
        concat!("qword ptr [{hot} + ", $offset, "]")
    };
}

#[cfg(target_arch = "x86_64")]
pub(super) use {on_words, word};

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    fn words(hot: &Hot) -> [u64; 13] {
        let counters =
            [&hot.alloc_blocks, &hot.free_bytes, &hot.free_blocks, &hot.granted, &hot.kept_bytes, &hot.reallocs];
        let [a, b, c, d, e, f] = counters.map(|counter| counter.load(Ordering::Relaxed));
        let looks = [&hot.range_base, &hot.range_span, &hot.look_above];
        let [g, h, i] = looks.map(|look| look.load(Ordering::Relaxed) as u64);
        let budget = hot.budget.load(Ordering::Relaxed).cast_unsigned();
        let block = hot.block.load(Ordering::Relaxed).addr() as u64;
        [budget, a, b, c, d, e, f, g, h, i, hot.depth.get(), u64::from(hot.sequence.load(Ordering::Relaxed)), block]
    }

    /// The assembly's object is what `Hot::new` would have made of it. This binary has no `Alloc` that had changed it.
    #[test]
    fn a_thread_begins_with_all_events_cold() {
        let fresh = std::thread::spawn(|| HOT.with(words)).join();
        assert_eq!(fresh.ok(), Some(words(&Hot::new())));
    }

    #[test]
    fn each_thread_has_words_of_its_own() {
        let address = || HOT.with(|hot| std::ptr::from_ref(hot).addr());
        let there = std::thread::spawn(address).join().unwrap_or(address());
        assert!(address() != there && there.is_multiple_of(64), "{there:x}");
    }
}
