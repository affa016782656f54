//! The registry: every case once, leaks first.

mod healthy_caches;
mod healthy_load;
mod healthy_memory;
mod leaks_collections;
mod leaks_mail;
mod leaks_network;
mod leaks_service;

use crate::case::Case;

/// Keeps a value for ever. One name for all tables of what leaked: compilers merge functions of equal code, and the name of such
/// a function is that of any of them.
#[inline(never)]
fn keep<T>(kept: &mut Vec<T>, value: T) {
    kept.push(value);
}

/// All cases.
pub fn all() -> impl Iterator<Item = &'static Case> {
    let leaks = [leaks_mail::CASES, leaks_service::CASES, leaks_network::CASES, leaks_collections::CASES];
    let healthy = [healthy_caches::CASES, healthy_load::CASES, healthy_memory::CASES];
    leaks.into_iter().chain(healthy).flatten()
}

/// The case of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Case> {
    all().find(|case| case.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Expect;

    /// The list that the corpus is made from: 23 leaks, 25 healthy programs; the four second twins are among them.
    #[test]
    fn none_is_missing_and_none_is_there_twice() {
        let mut names: Vec<&str> = all().map(|case| case.name).collect();
        let leaks = all().filter(|case| case.expect != Expect::Healthy).count();
        assert_eq!((leaks, names.len() - leaks), (23, 25));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 48);
    }

    #[test]
    fn culprits_stand_behind_four_frames_at_least() {
        for case in all() {
            assert_eq!(case.culprits.is_empty(), case.expect == Expect::Healthy, "{}", case.name);
            assert!(case.culprits.iter().all(|chain| chain.len() >= 4), "{}", case.name);
        }
    }
}
