//! Libraries that come and go, while another thread captures all the time.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::*;

type Through = unsafe extern "C" fn(unsafe extern "C" fn(*mut c_void), *mut c_void) -> c_int;

/// Where the libraries lie; gone when the test has ended, however it did.
struct Place(PathBuf);

impl Place {
    /// Of one test; they run side by side.
    fn new(test: &str) -> Place {
        let place = Place(std::env::temp_dir().join(format!("unfreed-unwind-{}-{test}", std::process::id())));
        std::fs::create_dir_all(&place.0).unwrap();
        place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Two libraries whose functions have the same code size and frames of different size, without frame pointers: the
/// tables of one are wrong for the other.
fn build(Place(directory): &Place, name: &str, words: usize) -> PathBuf {
    let source = directory.join(format!("{name}.c"));
    let library = directory.join(format!("lib{name}.so"));
    let text = format!(
        "__attribute__((noinline)) static int inner(void (*f)(void *), void *d) {{\n\
         volatile long big[{words}]; big[0] = 1; f(d); return (int)big[0]; }}\n\
         int through(void (*f)(void *), void *d) {{ volatile int one = inner(f, d); return one + 1; }}\n"
    );
    std::fs::write(&source, text).unwrap();
    let done = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-fomit-frame-pointer", "-o"])
        .args([&library, &source])
        .status()
        .expect("cc builds the test's library");
    assert!(done.success());
    library
}

struct Library(*mut c_void);

impl Library {
    fn open(path: &Path) -> Library {
        let path = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: a C string; the library has no constructors.
        let handle = unsafe { libc::dlopen(path.as_ptr().cast::<c_char>(), libc::RTLD_NOW) };
        assert!(!handle.is_null());
        Library(handle)
    }

    fn through(&self) -> Through {
        let name: &CStr = c"through";
        // SAFETY: an open library and a C string.
        let symbol = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!symbol.is_null());
        // SAFETY: that is its type.
        unsafe { core::mem::transmute::<*mut c_void, Through>(symbol) }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: open, and none of its functions is running.
        unsafe { libc::dlclose(self.0) };
    }
}

struct Call<'s> {
    sink: &'s Sink,
    captured: Option<(Captured, Vec<FrameKey>)>,
}

unsafe extern "C" fn callback(data: *mut c_void) {
    // SAFETY: the call below.
    let call = unsafe { &mut *data.cast::<Call<'_>>() };
    sample();
    call.captured = Some(sample_and_trace(call.sink));
}

#[inline(never)]
fn call(library: &Library, sink: &Sink) -> (Captured, Vec<FrameKey>) {
    let mut call = Call { sink, captured: None };
    // SAFETY: the library's function calls back with the data.
    let two = unsafe { library.through()(callback, (&raw mut call).cast()) };
    assert_eq!(two, 2);
    call.captured.unwrap()
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn a_thousand_loads_and_unloads() {
    let place = Place::new("changes");
    let libraries = [build(&place, "small", 5), build(&place, "large", 500)];
    // Loaded before the start, unloaded after it: its tables must have been copied.
    let early = Library::open(&libraries[0]);
    let mut session = Session::start(128);
    let (captured, system) = call(&early, &session.sink);
    assert_is(&captured, &system);
    drop(early);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut count = 0_u64;
            let first = sample();
            while !stop.load(Ordering::Relaxed) {
                let captured = sample();
                assert_eq!(captured.frames, first.frames);
                count += 1;
            }
            assert!(count > 1_000);
        });
        let mut early_resident = 0;
        for round in 0..1_000 {
            let library = Library::open(&libraries[round % 2]);
            if round % 7 == 0 {
                // Not yet known: any answer but a crash or a difference between replay and steps.
                call(&library, &session.sink);
            }
            session.refresh();
            let (captured, system) = call(&library, &session.sink);
            assert_is(&captured, &system);
            let (again, _) = call(&library, &session.sink);
            assert_eq!(again.frames, captured.frames);
            drop(library);
            if round % 3 != 0 {
                session.refresh();
            }
            if round == 200 {
                early_resident = resident_bytes();
            }
        }
        let grown = resident_bytes().saturating_sub(early_resident);
        assert!(grown < 8 << 20, "{grown} bytes more after 800 rounds");
        stop.store(true, Ordering::Relaxed);
    });
    session.refresh();
    assert!(registry::retired() <= 1, "{}", registry::retired());
    let loaded = session.sink.rows.iter().filter(|(_, loaded)| *loaded).count();
    assert!(loaded < 12, "{loaded}");
    assert!(session.sink.rows.len() > 500);
    session.finish(3_000);
}

/// `dlopen("./plugin.so")`: its symbols are looked for later, perhaps from another directory.
#[test]
fn a_library_of_a_relative_path_has_an_absolute_one() {
    let place = Place::new("relative");
    let library = std::path::absolute(build(&place, "relative", 5)).unwrap();
    let up = std::env::current_dir().unwrap().components().count() - 1;
    let relative = std::path::PathBuf::from("../".repeat(up)).join(library.strip_prefix("/").unwrap());
    let opened = Library::open(&relative);
    let mut session = Session::start(128);
    let paths = |session: &Session| -> Vec<_> {
        let modules = session.sink.rows.iter().map(|(module, _)| module.path.clone());
        modules.filter(|path| path.contains("librelative.so")).collect()
    };
    let found = paths(&session);
    assert!(matches!(&found[..], [path] if path.starts_with('/') && Path::new(path).exists()), "{found:?}");
    session.refresh();
    assert_eq!(paths(&session), found, "known again");
    drop(opened);
    session.finish(0);
}
