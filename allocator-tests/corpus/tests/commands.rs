//! The command line of `corpus`: what it refuses before it runs anything, and that it tells what there is.

use std::process::{Command, Output};

fn corpus(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_corpus")).args(arguments).output().expect("built with the tests")
}

#[test]
fn help_is_no_error() {
    for arguments in [["--help"].as_slice(), &["-h"], &["--seeds", "2", "--help"]] {
        let output = corpus(arguments);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{output:?}");
        assert!(text.contains("--cases a,b") && text.contains("base64_attach"), "{text}");
    }
}

#[test]
fn a_part_is_not_written_as_the_whole() {
    for (part, named) in [
        (["--cases", "base64_attach"].as_slice(), "--cases"),
        (&["--modes", "exact"], "--modes"),
        (&["--seeds", "2"], "--seeds"),
        (&["--short"], "--short"),
        (&["--no-rivals"], "--no-rivals"),
    ] {
        for arguments in [[part, &["--write"]].concat(), [&["--write"], part].concat()] {
            let output = corpus(&arguments);
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{output:?}");
            assert!(text.contains("--write is for a whole run") && text.contains(named), "{text}");
        }
    }
}
