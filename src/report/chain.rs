//! A call chain in lines, for messages: the program's own functions with their places, libraries folded.

use super::frame::{Frame, short_path};
use super::name::{short_name, whole_path};
use super::snapshot::Snapshot;
use super::summary::is_library;
use super::trim::Role;
use crate::leak::clues::Function;
use crate::units::FrameKey;

/// The functions of a chain, the standard library's left out.
pub(crate) fn functions(frames: &[Frame]) -> Vec<Function> {
    let of_code = frames.iter().filter(|frame| frame.symbol.role == Role::Code);
    let function = |frame: &Frame| {
        let name = frame.name()?;
        let short = short_name(name)?;
        let at = (frame.symbol.line, frame.symbol.column);
        Some(Function { short, path: whole_path(name), is_own: !is_library(frame), at })
    };
    of_code.filter_map(function).collect()
}

/// Is a block of this chain that of an `Arc` or `Rc`? By the names of the standard library's functions nearest to the
/// allocation, inlined ones too; `None` where none of these is known.
pub(crate) fn is_shared_pointer(snapshot: &Snapshot, keys: &[FrameKey]) -> Option<bool> {
    let symbols = snapshot.symbols();
    let mut is_any_known = false;
    for frame in keys.iter().flat_map(|&key| symbols.frames(key)) {
        match (frame.symbol.role, frame.name()) {
            (Role::Std, Some(name)) => {
                is_any_known = true;
                let name = name.trim_start_matches('<');
                if name.starts_with("alloc::sync::Arc") || name.starts_with("alloc::rc::Rc") {
                    return Some(true);
                }
            }
            (Role::Code, Some(_)) => break,
            _ => {}
        }
    }
    is_any_known.then_some(false)
}

/// A chain in lines, the program's own functions one each, with their places; what lies between them folded into one.
pub(crate) fn short_chain(frames: &[Frame]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut folded: Vec<&Frame> = Vec::new();
    let is_own = |frame: &&Frame| frame.symbol.role == Role::Code && !is_library(frame) && frame.name().is_some();
    // A chain of libraries alone is shown as it is.
    let any_own = frames.iter().any(|frame| is_own(&frame));
    for frame in frames {
        if any_own && !is_own(&frame) {
            folded.push(frame);
            continue;
        }
        lines.extend(fold(&mut folded));
        let at = match (frame.file(), frame.line()) {
            (Some(file), Some(line)) => format!(" ({}:{line})", short_path(file)),
            _ => String::new(),
        };
        lines.push(format!("at {}{at}", frame.name().unwrap_or("???")));
    }
    lines.extend(fold(&mut folded));
    if lines.is_empty() {
        lines.push("[no stack]".into());
    }
    lines
}

/// `… through 3 library functions, of alloc and serde`.
fn fold(frames: &mut Vec<&Frame>) -> Option<String> {
    let first = frames.first()?;
    let outer = first.name().and_then(short_name).unwrap_or_else(|| "???".into());
    let line = match frames.len() {
        1 => format!("… in the library function {outer}"),
        count => format!("… in {count} library functions, the innermost {outer}"),
    };
    frames.clear();
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::super::frame::Symbol;
    use super::*;
    use std::sync::Arc;

    fn frame(name: &str, file: &str, role: Role) -> Frame {
        let symbol = Symbol { name: Some(name.into()), file: Some(file.into()), line: 7, role, ..Symbol::default() };
        Frame { address: 1, symbol: Arc::new(symbol) }
    }

    #[test]
    fn libraries_are_folded_where_there_is_anything_else() {
        let library = |name| frame(name, "/home/u/.cargo/registry/src/x/serde-1.0.0/src/de.rs", Role::Code);
        let own = |name| frame(name, "/home/u/app/src/mail.rs", Role::Code);
        let std = |name| frame(name, "/rustc/1/library/alloc/src/vec.rs", Role::Std);
        let chain =
            [library("serde::de::visit"), std("alloc::vec::push"), own("app::parse"), std("std::f"), own("app::run")];
        assert_eq!(
            short_chain(&chain),
            [
                "… in 2 library functions, the innermost visit",
                "at app::parse (app/src/mail.rs:7)",
                "… in the library function f",
                "at app::run (app/src/mail.rs:7)"
            ]
        );
        assert_eq!(short_chain(&chain[..1]), ["at serde::de::visit (serde-1.0.0/src/de.rs:7)"]);
        assert_eq!(short_chain(&[]), ["[no stack]"]);
    }
}
