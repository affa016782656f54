//! A frame of a call chain, as users read it.
//!
//! Printed as the dhat crate prints it, `0xADDR: name (file:line:col)`, the address being the return address (all
//! functions inlined into one another share it), the file cut to its last three components. Frames are cheap to
//! clone: the names are shared.

use std::fmt;
use std::iter::FusedIterator;
use std::ops::Deref;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::trim::Role;

/// What is known of one function at one code address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Symbol {
    pub(crate) name: Option<Arc<str>>,
    pub(crate) file: Option<Arc<str>>,
    pub(crate) line: u32,
    pub(crate) column: u32,
    /// Inlined into the next frame.
    pub(crate) inlined: bool,
    /// The path of the object that the address lies in.
    pub(crate) module: Option<Arc<str>>,
    /// The return address less the module's load bias.
    pub(crate) offset: u64,
    pub(crate) role: Role,
}

/// One frame of a call chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub(crate) address: u64,
    pub(crate) symbol: Arc<Symbol>,
}

impl Frame {
    /// The demangled name of the function, without the compiler's hash; `None` where it is not known.
    pub fn name(&self) -> Option<&str> {
        self.symbol.name.as_deref()
    }

    /// The whole path of the source file, as the debug information has it.
    pub fn file(&self) -> Option<&str> {
        self.symbol.file.as_deref()
    }

    /// The line, from 1; `None` where it is not known.
    pub fn line(&self) -> Option<u32> {
        (self.symbol.line > 0).then_some(self.symbol.line)
    }

    /// The column, from 1; `None` where it is not known.
    pub fn column(&self) -> Option<u32> {
        (self.symbol.column > 0).then_some(self.symbol.column)
    }

    /// The return address in the profiled process.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Whether the compiler inlined this function into that of the next frame.
    pub fn is_inlined(&self) -> bool {
        self.symbol.inlined
    }

    /// The path of the program or library that the address lies in.
    pub fn module(&self) -> Option<&str> {
        self.symbol.module.as_deref()
    }

    /// What stands for its name where it has none: `module+0xOFFSET`, or the address, which means nothing after the run.
    pub(crate) fn nameless(&self) -> String {
        let mut text = String::new();
        match self.module() {
            // writing to a String cannot fail
            Some(module) => _ = write_offset(&mut text, module, &self.symbol),
            None => text = format!("{:#x}", self.address),
        }
        text
    }

    /// The pseudo-frame `[scope: name]`.
    pub(crate) fn of_scope(name: &str) -> Frame {
        let symbol = Symbol { name: Some(format!("[scope: {name}]").into()), role: Role::Scope, ..Symbol::default() };
        Frame { address: 0, symbol: Arc::new(symbol) }
    }

    /// The pseudo-frame `[24 ways]`, for what differs between so many call chains.
    pub(crate) fn of_ways(ways: usize) -> Frame {
        let symbol = Symbol { name: Some(format!("[{ways} ways]").into()), role: Role::Ways, ..Symbol::default() };
        Frame { address: 0, symbol: Arc::new(symbol) }
    }

    /// Whether the function belongs to the Rust standard library, by its source path (by its name where there is
    /// none).
    pub fn is_std(&self) -> bool {
        self.symbol.role == Role::Std
    }
}

/// The last part of a path.
pub(crate) fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The last three components of a path (`/aa/bb/cc/dd.rs`: `bb/cc/dd.rs`), as the dhat crate shows files.
pub(crate) fn short_path(path: &str) -> &str {
    let mut kept = path.len();
    for _ in 0..3 {
        match path.get(..kept).and_then(|head| head.rfind('/')) {
            // A slash in front of the third component alone is the root's: such a path has no more than three.
            Some(slash) if slash > 0 => kept = slash,
            _ => return path,
        }
    }
    path.get(kept + 1..).unwrap_or(path)
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_frame(f, self.address, &self.symbol)
    }
}

/// `0xADDR: name (file:line:col)`. Without a file the module stands for it, and without a name its offset too.
pub(crate) fn write_frame(out: &mut impl fmt::Write, address: u64, symbol: &Symbol) -> fmt::Result {
    if symbol.role == Role::Cut {
        return out.write_str("[callers not captured]");
    }
    if matches!(symbol.role, Role::Scope | Role::Ways) {
        return out.write_str(symbol.name.as_deref().unwrap_or("[scope]"));
    }
    write!(out, "{address:#x}: {} (", symbol.name.as_deref().unwrap_or("???"))?;
    match (&symbol.file, &symbol.module) {
        (Some(file), _) => out.write_str(short_path(file))?,
        (None, Some(module)) if symbol.name.is_none() => write_offset(out, module, symbol)?,
        (None, Some(module)) => out.write_str(file_name(module))?,
        (None, None) => out.write_str("???")?,
    }
    write!(out, ":{}:{})", symbol.line, symbol.column)
}

/// `module+0xOFFSET`: where a function is that has no name, for whoever has its debug information elsewhere.
fn write_offset(out: &mut impl fmt::Write, module: &str, symbol: &Symbol) -> fmt::Result {
    write!(out, "{}+{:#x}", file_name(module), symbol.offset)
}

impl Serialize for Frame {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Frame", 7)?;
        out.serialize_field("address", &self.address)?;
        out.serialize_field("name", &self.name())?;
        out.serialize_field("file", &self.file())?;
        out.serialize_field("line", &self.line())?;
        out.serialize_field("column", &self.column())?;
        out.serialize_field("inlined", &self.is_inlined())?;
        out.serialize_field("module", &self.module())?;
        out.end()
    }
}

/// The frames of a call chain, the allocating function first: a slice of [`Frame`]s, and an iterator over them.
#[derive(Clone, Debug)]
pub struct Frames<'a>(std::slice::Iter<'a, Frame>);

impl<'a> Frames<'a> {
    pub(crate) fn new(frames: &'a [Frame]) -> Frames<'a> {
        Frames(frames.iter())
    }

    /// The frames that were not yet iterated over, for as long as the snapshot lives.
    pub fn as_slice(&self) -> &'a [Frame] {
        self.0.as_slice()
    }
}

impl Deref for Frames<'_> {
    type Target = [Frame];

    fn deref(&self) -> &[Frame] {
        self.0.as_slice()
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = &'a Frame;

    fn next(&mut self) -> Option<&'a Frame> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl DoubleEndedIterator for Frames<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back()
    }
}

impl ExactSizeIterator for Frames<'_> {}
impl FusedIterator for Frames<'_> {}

impl Serialize for Frames<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cut_as_dhat_cuts_them() {
        for (path, short) in [
            ("", ""),
            ("/", "/"),
            ("aa.rs", "aa.rs"),
            ("/aa.rs", "/aa.rs"),
            ("bb/aa.rs", "bb/aa.rs"),
            ("/bb/aa.rs", "/bb/aa.rs"),
            ("cc/bb/aa.rs", "cc/bb/aa.rs"),
            ("dd/cc/bb/aa.rs", "cc/bb/aa.rs"),
            ("/dd/cc/bb/aa.rs", "cc/bb/aa.rs"),
        ] {
            assert_eq!(short_path(path), short, "{path}");
        }
    }

    #[test]
    fn a_frame_prints_as_in_dhat() {
        let known = Symbol {
            name: Some("a::b".into()),
            file: Some("/x/y/src/a.rs".into()),
            line: 3,
            column: 7,
            ..Symbol::default()
        };
        let frame = Frame { address: 0x1234, symbol: Arc::new(known) };
        assert_eq!(frame.to_string(), "0x1234: a::b (y/src/a.rs:3:7)");
        let unknown = Symbol { module: Some("/lib/libc.so.6".into()), offset: 0x89, ..Symbol::default() };
        let frame = Frame { address: 0x7f00_0089, symbol: Arc::new(unknown) };
        assert_eq!(frame.to_string(), "0x7f000089: ??? (libc.so.6+0x89:0:0)");
        assert_eq!((frame.name(), frame.line()), (None, None));
    }
}
