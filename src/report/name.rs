//! Function names short enough for a line of text.
//!
//! Works on demangled names of either mangling, never fails, and is not meant to be unique: reports that need the
//! exact name have the frame.

/// A function's name without its modules, but with its type: `<mail::Email as From<imap::Fetch>>::from` is
/// `Email::from`, `mail::sync::run::{{closure}}` (the body of an async fn) is `run`. Control characters are taken out. `None` where
/// nothing is left: an inlined closure's bare `{closure#0}`.
pub(crate) fn short_name(name: &str) -> Option<String> {
    let (of_type, rest) = match name.strip_prefix('<').and_then(split_generic) {
        Some((inside, rest)) => {
            let of = split_top(inside, " as ").map_or(inside, |(of, _)| of);
            (Some(without_generics(of)), rest)
        }
        None => (None, name),
    };
    let path = without_generics(rest);
    let mut parts: Vec<&str> =
        path.split("::").filter(|part| !part.is_empty() && !part.starts_with('{') && *part != "closure").collect();
    let last = parts.pop()?;
    let owner = match (&of_type, parts.pop()) {
        (Some(of), _) => of.rsplit("::").next(),
        // Modules are lower case, types are not.
        (None, Some(parent)) if parent.starts_with(|c: char| c.is_uppercase()) => Some(parent),
        (None, _) => None,
    };
    let short = match owner {
        Some(owner) => format!("{owner}::{last}"),
        None => last.to_owned(),
    };
    Some(short.chars().filter(|c| !c.is_control()).collect())
}

/// Splits `…>rest` at the bracket that closes one opened before.
fn split_generic(text: &str) -> Option<(&str, &str)> {
    let mut depth = 1;
    let mut previous = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            // Not the arrow of a function's type.
            '>' if previous != '-' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((text.get(..at)?, text.get(at + 1..)?));
        }
        previous = c;
    }
    None
}

/// Splits at the first `separator` outside of brackets.
fn split_top<'a>(text: &'a str, separator: &str) -> Option<(&'a str, &'a str)> {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            _ if depth == 0 && text.get(at..)?.starts_with(separator) => {
                return Some((text.get(..at)?, text.get(at + separator.len()..)?));
            }
            _ => {}
        }
    }
    None
}

/// A function's whole path without generic arguments; of `<a::Type<T> as b::Trait>::f` both `a::Type` and `b::Trait` stay.
pub(crate) fn whole_path(name: &str) -> String {
    match name.strip_prefix('<').and_then(split_generic) {
        Some((inside, rest)) => format!("{}{}", without_generics(inside), without_generics(rest)),
        None => without_generics(name),
    }
}

fn without_generics(text: &str) -> String {
    let mut out = String::new();
    let mut depth = 0;
    let mut previous = ' ';
    for c in text.chars() {
        match c {
            '<' => depth += 1,
            '>' if previous != '-' => depth -= 1,
            _ if depth <= 0 => out.push(c),
            _ => {}
        }
        previous = c;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_to_what_tells_them_apart() {
        for (name, short) in [
            ("mail::sync::fetch_emails", "fetch_emails"),
            ("mail::sync::fetch_emails::{{closure}}", "fetch_emails"),
            ("mail::sync::run::{closure#0}::{closure#1}", "run"),
            ("mail::Email::parse_mime_content", "Email::parse_mime_content"),
            ("<mail::Email as core::convert::From<imap::Fetch>>::from", "Email::from"),
            ("<mail::Pool<T, alloc::vec::Vec<u8>>>::take", "Pool::take"),
            ("byte_pool::pool::BytePool<T>::alloc", "BytePool::alloc"),
            ("mail::visit::<fn(&mail::A) -> mail::B>", "visit"),
            ("main", "main"),
            ("app::odd\nname\u{1b}[31m", "oddname[31m"),
        ] {
            assert_eq!(short_name(name).as_deref(), Some(short), "{name}");
        }
        assert_eq!(short_name(""), None);
        assert_eq!(short_name("{closure#0}"), None);
    }
}
