//! Replayed stacks are fully unwound ones, through the real hook: a million captures, or ten with
//! `UNFREED_LONG_TESTS=1`.

use std::path::{Path, PathBuf};
use std::process::Command;

use allocator_tests::runner::{directory, run};

/// A library of this name, whose frames are of this size: two of them at one address tell a stale cache from a good one.
fn library(place: &Path, name: &str, words: u32) -> PathBuf {
    let source = place.join(format!("{name}.c"));
    let text = format!(
        "int through_{name}(void (*f)(void *), void *p, int depth) {{\n\
         volatile long local[{words}];\n\
         local[depth % {words}] = depth;\n\
         if (depth > 0) through_{name}(f, p, depth - 1); else f(p);\n\
         return (int) local[depth % {words}];\n}}\n"
    );
    std::fs::write(&source, text).expect("written");
    let path = place.join(format!("lib{name}.so"));
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-fomit-frame-pointer", "-shared", "-fPIC", "-g", "-o"]).arg(&path).arg(&source);
    run(&mut compiler, 30).expect_success();
    path
}

#[test]
fn replayed_is_fully_unwound() {
    let place = directory(env!("CARGO_TARGET_TMPDIR"), "stacks_program");
    let (first, second) = (library(&place, "first", 5), library(&place, "second", 41));
    let long = std::env::var_os("UNFREED_LONG_TESTS").is_some();
    let (captures, seconds) = if long { ("10000000", 1600) } else { ("1000000", 90) };
    let mut command = Command::new(env!("CARGO_BIN_EXE_stacks_program"));
    command.arg(captures).args([&first, &second]).current_dir(&place);
    let outcome = run(&mut command, seconds).expect_success();
    println!("{} in {:?}", outcome.stdout, outcome.took);
}
