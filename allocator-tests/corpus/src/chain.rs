//! Finding a case's functions in a call chain by their names.

use crate::case::Case;

/// Whose site a call chain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The culprit of this number.
    Culprit(usize),
    /// Belongs to the leak.
    Accomplice,
    /// Has nothing to do with it.
    Innocent,
}

/// Is the demangled name `name` that of `wanted`, a function or `Type::method`?
#[must_use]
pub fn is_called(name: &str, wanted: &str) -> bool {
    // The body of a closure counts as its function.
    let name = name.split("::{").next().unwrap_or(name);
    // Generic arguments at the end.
    let name = name.strip_suffix('>').and_then(|name| name.rsplit_once("::<")).map_or(name, |(name, _)| name);
    let (owner, function) = wanted.rsplit_once("::").map_or((None, wanted), |(owner, last)| (Some(owner), last));
    let Some(before) = name.strip_suffix(function) else { return false };
    before.ends_with("::") && owner.is_none_or(|owner| before.contains(owner))
}

/// Whose site is it? `names`: leaf first. `shared_only`: the names are just what several stacks share.
pub fn role<'a>(case: &Case, names: impl Iterator<Item = &'a str> + Clone, shared_only: bool) -> Role {
    for (number, chain) in case.culprits.iter().enumerate() {
        let mut wanted = chain.iter().peekable();
        for name in names.clone() {
            if wanted.peek().is_some_and(|wanted| is_called(name, wanted)) {
                wanted.next();
            }
        }
        // Stacks that were judged together share their innermost frames alone.
        if wanted.len() == 0 || shared_only && wanted.len() < chain.len() {
            return Role::Culprit(number);
        }
    }
    if names.clone().any(|name| case.accomplices.iter().any(|wanted| is_called(name, wanted))) {
        Role::Accomplice
    } else {
        Role::Innocent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases;

    #[test]
    fn functions_methods_and_closures_are_recognised() {
        assert!(is_called("corpus::cases::mail::parse_", "parse_"));
        assert!(!is_called("corpus::cases::mail::reparse_", "parse_"));
        assert!(is_called("<corpus::cases::mail::Email as core::convert::From<Fetch>>::from", "Email::from"));
        assert!(!is_called("<alloc::string::String as core::convert::From<&str>>::from", "Email::from"));
        assert!(is_called("corpus::cases::service::sample_loop::{{closure}}", "sample_loop"));
        assert!(is_called("corpus::cases::service::route::<7>", "route"));
    }

    #[test]
    fn a_chain_must_be_there_in_its_order() {
        let case = cases::find("base64_attach").expect("a case");
        let names = ["alloc::vec::from_elem", "a::decode_base64_mime", "a::parse_", "a::parse_mime_content"];
        assert_eq!(role(case, names.iter().copied(), false), Role::Accomplice);
        assert_eq!(role(case, names.iter().copied(), true), Role::Culprit(0));
        let whole: Vec<String> = case.culprits[0].iter().map(|name| format!("a::{name}")).collect();
        assert_eq!(role(case, whole.iter().map(String::as_str), false), Role::Culprit(0));
        assert_eq!(role(case, whole.iter().rev().map(String::as_str), false), Role::Accomplice);
        assert_eq!(role(case, ["a::main"].into_iter(), false), Role::Innocent);
    }
}
