//! The rules of the house, checked on the source: who may import whom, who may use `libc` and `unsafe`, how files begin
//! and how long they are, what is left undone, and what the default build depends on.
//!
//! Reads files alone, so it finds what a compiler does not mind. Rules and their reasons: `docs/ARCHITECTURE.md`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Module by module, what it may import of the crate. `units` is everybody's.
const MAY_USE: [(&str, &str); 18] = [
    ("units", ""),
    ("error", "config"),
    ("config", "error"),
    ("sys", "error"),
    ("hook", "sampler unwind tree ring slots live sys"),
    ("sampler", "sys"),
    ("unwind", "sys"),
    ("slots", "sys"),
    ("live", "sys"),
    ("tree", "sys"),
    ("ring", "sys"),
    ("store", "ring tree sys"),
    ("drain", "ring tree live store leak sys"),
    ("leak", ""),
    ("report", "store leak"),
    ("export", "report leak"),
    // A user of the handle, as a program is; it looks at pictures, round by round.
    ("testing", "profiler report error store"),
    // The other public handle: joined to the profile by `profiler`, it writes and prints in the dhat crate's ways.
    ("dhat", "profiler hook config error report export store sys"),
];

/// The modules that may use all others: the handle that joins the hot and the cold side, and the tests' window.
const MAY_USE_ALL: [&str; 3] = ["profiler", "lib", "internals"];

/// Beyond the table: the importer, what it imports, and why that is no breach of the layers.
const EXCEPTIONS: [(&str, &str, &str); 20] = [
    ("config", "leak::LeakConfig", "the judge's values are among the builder's"),
    ("config", "sys::process::is_privileged", "the environment is ignored in a process with raised privileges"),
    ("drain", "sampler::interval", "the worker writes down which interval held when"),
    ("drain", "sampler::weight", "the code of an interval is a unit"),
    ("error", "leak::LeakConfigError", "what is wrong with the judge's values is part of what the user is told"),
    ("error", "store::StoreError", "what went wrong with the store is part of what the user is told"),
    ("export", "hook::inside", "our own memory is not the program's"),
    ("export", "store::picture", "the stored form of what is written"),
    ("leak", "sampler::weight", "a weight is a unit"),
    ("live", "slots::entry::Identity", "what is known of a tracked block is the same in a slot and in the table"),
    ("report", "hook::inside", "our own memory is not the program's"),
    ("report", "sampler::weight", "a weight is a unit"),
    ("ring", "sampler::weight", "a record carries the code of its interval"),
    ("slots", "sampler::weight", "an entry carries the code of its interval"),
    ("store", "sampler::weight", "a weight is a unit"),
    ("testing", "hook::inside", "our own memory is not the program's"),
    ("unwind", "tree::Spare", "a capture numbers its stack on the way in, with a node kept in reserve"),
    ("unwind", "tree::Tree", "a capture numbers its stack on the way in"),
    ("unwind", "tree", "a capture numbers its stack on the way in"),
    ("drain", "config", "the judge is set by the builder's values"),
];

/// These must never know each other, whatever the tables above say.
const STRANGERS: [(&str, &str); 4] = [("hook", "drain"), ("drain", "hook"), ("ring", "hook"), ("ring", "drain")];

/// `unsafe` in whole modules, and in single files beside them with the reason.
const UNSAFE_MODULES: [&str; 7] = ["hook", "slots", "live", "ring", "store", "unwind", "sys"];
const UNSAFE_FILES: [(&str, &str); 5] = [
    ("drain/aggregator.rs", "one cell behind a lock that is not std's"),
    ("drain/watch/sites.rs", "moves the judge's figures to the thread that alone uses them"),
    ("profiler/running.rs", "one cell behind a lock that is not std's"),
    ("profiler/store.rs", "the store that it leaks and takes back"),
    ("profiler/link.rs", "the pointer to the store that is connected"),
];

/// Where two things begin to live in one file; and where a reader gives up.
const LONG_LINES: usize = 400;
const TOO_LONG_LINES: usize = 600;
/// Longer than that, for now. A file leaves this list by being cut, and none enters it.
const STILL_TOO_LONG: [&str; 0] = [];

struct Source {
    /// Below `src/`, with slashes.
    name: String,
    module: String,
    text: String,
}

impl Source {
    /// Tests and what exists for them alone may know everything.
    fn is_test(&self) -> bool {
        self.name.split(['/', '.']).any(|part| matches!(part, "tests" | "simulation" | "synthetic"))
    }

    /// The lines of code with their numbers, without the tests at the end.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = self.text.find("\n#[cfg(test)]\nmod tests {").unwrap_or(self.text.len());
        let lines = self.text[..end].lines().enumerate();
        lines.map(|(n, line)| (n + 1, line.split("//").next().unwrap_or("")))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("allocator-tests lies in the workspace")
}

fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a readable directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    files.sort();
    assert!(files.len() > 50, "only {} files under src", files.len());
    let source = |path: &PathBuf| {
        let name = path.strip_prefix(&src).expect("below src").to_string_lossy().replace('\\', "/");
        let module = name.split(['/', '.']).next().unwrap_or("").to_owned();
        Source { module, text: fs::read_to_string(path).expect("UTF-8"), name }
    };
    files.iter().map(source).collect()
}

/// What follows each `crate::` in a line: `module::part::…`; of `crate::{a, b::c}` each part.
fn imports(line: &str) -> Vec<&str> {
    let path = |text: &str| text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len());
    let mut found = Vec::new();
    for (at, prefix) in line.match_indices("crate::").filter(|(at, _)| !line[..*at].ends_with('$')) {
        let rest = &line[at + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(group) => {
                let (group, _) = group.split_once('}').unwrap_or_else(|| panic!("a group over several lines: {line}"));
                found.extend(group.split(',').map(|one| one.trim()).map(|one| &one[..path(one)]));
            }
            None => found.push(&rest[..path(rest)]),
        }
    }
    found.into_iter().map(|path| path.trim_end_matches(':')).collect()
}

/// A name that the crate's root exports, as it is known in its module: `Error` is `error::Error`.
fn resolved(path: &str, lib: &str) -> String {
    let name = path.split("::").next().unwrap_or("");
    if !name.starts_with(char::is_uppercase) {
        // A macro of `dhat`, which lies at the root as all exported macros do.
        return if name.starts_with("__dhat_") { format!("dhat::{path}") } else { path.to_owned() };
    }
    let mut exports =
        lib.split(';').filter_map(|statement| statement.rsplit_once("pub use ").map(|(_, export)| export));
    let export = exports.find(|export| names(export, name)).unwrap_or_else(|| panic!("lib.rs does not export {name}"));
    let module = export.trim_start_matches("crate::").split("::").next().unwrap_or("");
    format!("{module}::{path}")
}

fn may(importer: &str, path: &str) -> bool {
    let module = path.split("::").next().unwrap_or("");
    if module == importer || module == "units" || MAY_USE_ALL.contains(&importer) {
        return true;
    }
    let row = MAY_USE.iter().find(|(name, _)| *name == importer);
    let (_, allowed) = row.unwrap_or_else(|| panic!("module '{importer}' is not in the table of imports"));
    allowed.split(' ').any(|name| name == module)
        || EXCEPTIONS.iter().any(|(who, what, _)| {
            *who == importer && path.strip_prefix(what).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        })
}

#[test]
fn modules_import_only_what_lies_below_them() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).expect("lib.rs");
    let mut faults = Vec::new();
    let mut seen = 0;
    for source in sources().iter().filter(|source| !source.is_test()) {
        for (line, code) in source.code() {
            for path in imports(code) {
                let path = &resolved(path, &lib);
                seen += 1;
                let module = path.split("::").next().unwrap_or("");
                let strangers = STRANGERS.contains(&(source.module.as_str(), module));
                if strangers || !may(&source.module, path) {
                    faults.push(format!("src/{}:{line}: {} may not use {path}", source.name, source.module));
                }
            }
        }
    }
    assert!(seen > 200, "only {seen} imports were found: is the reader blind?");
    assert!(faults.is_empty(), "{}\n(the table is in {})", faults.join("\n"), file!());
}

/// The check must be able to fail.
#[test]
fn a_forbidden_import_is_found() {
    assert_eq!(imports("use crate::drain::orders::{Order, ask};"), ["drain::orders"]);
    assert_eq!(imports("    crate::hook::inside();"), ["hook::inside"]);
    assert_eq!(imports("use crate::{Error, hook::session};"), ["Error", "hook::session"]);
    assert_eq!(resolved("Error", "mod x;\nmod public {\n    pub use crate::error::Error;\n}"), "error::Error");
    assert!(!may("hook", "drain::orders") && !may("ring", "hook::HOT") && !may("report", "hook::thread"));
    assert!(!may("report", "hook") && may("report", "hook::inside") && may("hook", "ring::record::Record"));
}

#[test]
fn libc_is_sys_alone() {
    for source in sources().iter().filter(|source| source.module != "sys" && !source.is_test()) {
        for (line, code) in source.code() {
            assert!(
                !code.contains("libc::") && !code.contains("use libc"),
                "src/{}:{line}: libc outside sys: {code}",
                source.name
            );
        }
    }
}

/// Is `word` in `code` as a word of its own, outside texts?
fn names(code: &str, word: &str) -> bool {
    let outside: String = code.split('"').step_by(2).collect::<Vec<_>>().join("\"\"");
    outside.match_indices(word).any(|(at, _)| {
        let part = |c: char| c.is_alphanumeric() || c == '_';
        !outside[..at].ends_with(part) && !outside[at + word.len()..].starts_with(part)
    })
}

#[test]
fn unsafe_keeps_to_its_modules() {
    for source in &sources() {
        let allowed = UNSAFE_MODULES.contains(&source.module.as_str())
            || UNSAFE_FILES.iter().any(|(name, _)| *name == source.name)
            || source.is_test();
        if !allowed {
            for (line, code) in source.code() {
                assert!(!names(code, "unsafe"), "src/{}:{line}: unsafe here: {code}", source.name);
            }
        }
    }
    let lib = fs::read_to_string(root().join("src/lib.rs")).expect("lib.rs");
    assert!(lib.contains("#![deny(unsafe_code)]"), "the crate no longer denies unsafe code");
}

#[test]
fn files_open_with_their_contract_and_end_in_time() {
    for source in &sources() {
        if !source.name.ends_with("tests.rs") {
            assert!(source.text.starts_with("//! "), "src/{} does not open with its contract", source.name);
        }
        if source.is_test() {
            continue;
        }
        let lines = source.code().count();
        if STILL_TOO_LONG.contains(&source.name.as_str()) {
            assert!(lines > TOO_LONG_LINES, "src/{} has {lines} lines: take it off the list", source.name);
        } else {
            assert!(lines <= TOO_LONG_LINES, "src/{} has {lines} lines, over {TOO_LONG_LINES}", source.name);
        }
        if lines > LONG_LINES {
            println!("src/{} has {lines} lines without its tests: do two things live there?", source.name);
        }
    }
}

/// Reasons for which a test may be left to be called by name.
const IGNORED_BECAUSE: [&str; 4] = ["a measurement", "a benchmark", "prints figures", "the child of"];

#[test]
fn nothing_is_left_undone() {
    let mut files = Vec::new();
    for directory in ["src", "allocator-tests/src", "allocator-tests/tests", "allocator-tests/corpus", "examples"] {
        rust_files(&root().join(directory), &mut files);
    }
    for path in files.iter().filter(|path| !path.ends_with("tests/house.rs")) {
        let text = fs::read_to_string(path).expect("UTF-8");
        for (n, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            for left in ["todo!", "unimplemented!"] {
                assert!(!code.contains(left), "{}:{}: {left}", path.display(), n + 1);
            }
            if let Some(reason) = code.trim().strip_prefix("#[ignore") {
                let reason = reason.trim_start_matches([' ', '=', '"']);
                let known = IGNORED_BECAUSE.iter().any(|because| reason.starts_with(because));
                assert!(known, "{}:{}: a test is left out: {line}", path.display(), n + 1);
            }
        }
        let placeholder = text.lines().count() < 3 && text.contains("placeholder");
        assert!(!placeholder, "{} is a placeholder", path.display());
    }
}

/// What stands between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// `docs/ARCHITECTURE.md` names the file that keeps each invariant and the tests that show it: all of them are there.
#[test]
fn the_architecture_page_tells_the_truth() {
    let page = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("the page");
    let mut files = 0;
    for line in page.lines() {
        for name in quoted(line).filter(|name| name.ends_with(".rs")) {
            assert!(root().join(name).is_file(), "docs/ARCHITECTURE.md names {name}, which is not there");
            files += 1;
        }
    }
    assert!(files > 60, "only {files} files are named: is the reader blind?");

    let table = page.split("\n## Invariants\n").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a table");
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() >= 12, "only {} invariants", rows.len());
    for row in rows {
        let [invariant, kept, shown] = row.trim_matches(['|', ' ']).split(" | ").collect::<Vec<_>>()[..] else {
            panic!("not three columns: {row}");
        };
        assert!(quoted(kept).any(|name| name.ends_with(".rs")), "who keeps it? {invariant}");
        let (mut file, mut tests) = (String::new(), 0);
        for name in quoted(shown) {
            if name.ends_with(".rs") {
                file = fs::read_to_string(root().join(name)).expect("a test file");
            } else {
                assert!(file.contains(&format!("fn {name}(")), "docs/ARCHITECTURE.md: no test {name} for: {invariant}");
                tests += 1;
            }
        }
        assert!(tests > 0, "docs/ARCHITECTURE.md: no test shows: {invariant}");
    }
}

/// The golden file: a line of `cargo tree` each, and after '#' why it is there.
const DEPENDENCIES: &str = "allocator-tests/golden/dependencies.txt";

/// `cargo tree` of the default build, without paths.
fn tree() -> Vec<String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root()).args(["tree", "--package", "unfreed", "--edges", "normal", "--locked"]);
    cargo.args(["--target", "x86_64-unknown-linux-gnu", "--charset", "utf8", "--color", "never"]);
    let output = cargo.output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let without_path = |line: &str| line.split(" (/").next().unwrap_or(line).trim_end().to_owned();
    text.lines().map(without_path).filter(|line| !line.is_empty()).collect()
}

#[test]
fn the_default_build_depends_on_what_is_justified() {
    let path = root().join(DEPENDENCIES);
    let golden = fs::read_to_string(&path).unwrap_or_default();
    let rows: Vec<(&str, &str)> = golden
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| line.split_once('#').map_or((line.trim_end(), ""), |(tree, why)| (tree.trim_end(), why.trim())))
        .collect();
    let now = tree();
    if std::env::var_os("UPDATE").is_some() {
        let name = |line: &str| {
            let words = line.trim_start_matches(|c: char| !c.is_alphanumeric()).split(' ');
            (words.clone().next().unwrap_or("").to_owned(), line.ends_with("(*)"))
        };
        let mut text: String =
            golden.lines().take_while(|line| line.starts_with('#')).map(|line| format!("{line}\n")).collect();
        for line in &now {
            let why = rows.iter().find(|(old, _)| name(old) == name(line)).map_or("", |(_, why)| why);
            let width = 60usize.saturating_sub(line.chars().count());
            text.push_str(&format!("{line}{} # {why}\n", " ".repeat(width)));
        }
        fs::write(&path, text).expect("a written golden file");
        panic!("{DEPENDENCIES} is written anew: give each new line its reason, and run again without UPDATE");
    }
    let how = "to accept: UPDATE=1 cargo test -p allocator-tests --test house the_default_build, then give reasons";
    let kept: Vec<&str> = rows.iter().map(|(tree, _)| *tree).collect();
    let new: Vec<&String> = now.iter().filter(|line| !kept.contains(&line.as_str())).collect();
    let gone: Vec<&&str> = kept.iter().filter(|line| !now.iter().any(|other| other == **line)).collect();
    assert!(now == kept, "the default build's dependencies changed.\nnew: {new:#?}\ngone: {gone:#?}\n{how}");
    for (tree, why) in rows {
        assert!(why.len() >= 10, "{DEPENDENCIES}: '{tree}' has no reason");
    }
}
