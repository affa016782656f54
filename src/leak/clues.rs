//! What the names of functions suggest: weak evidence, and called that wherever it is used.
//!
//! A name counts only near the allocation: `ThreadPool::run` stands at the root of most chains of a service and says nothing
//! of what they allocate.

/// A function of a chain, the standard library's left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Function {
    /// As chains show it: `BytePool::alloc`.
    pub(crate) short: String,
    /// With its modules, without generics: `byte_pool::pool::BytePool::alloc`.
    pub(crate) path: String,
    /// The program's own, no library's.
    pub(crate) is_own: bool,
    /// Line and column in it, 0 where they are not known.
    pub(crate) at: (u32, u32),
}

/// A pool's name is looked for up to this many of the program's own functions from the allocation outwards.
const POOL_REACH: usize = 2;
/// And that of an error path.
const RETRY_REACH: usize = 6;

const POOL_WORDS: [&str; 7] = ["pool", "pools", "pooled", "freelist", "recycler", "slab", "arena"];
const RETRY_WORDS: [&str; 9] =
    ["retry", "retries", "retrying", "backoff", "reconnect", "requeue", "resend", "redeliver", "rerun"];
const ERROR_WORDS: [&str; 8] = ["error", "errors", "err", "fail", "failed", "failure", "failures", "failing"];

/// The words of a name, in small letters: those of `Io::onError_2` are `io on error 2`.
fn words(path: &str) -> Vec<String> {
    let mut words: Vec<String> = vec![String::new()];
    let mut before = ' ';
    for c in path.chars() {
        let begins = !c.is_alphanumeric() || (c.is_uppercase() && !before.is_uppercase());
        if begins {
            words.push(String::new());
        }
        if let (true, Some(last)) = (c.is_alphanumeric(), words.last_mut()) {
            last.extend(c.to_lowercase());
        }
        before = c;
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The innermost function whose own name says it; else the crate or module that does.
fn named<'a>(functions: &'a [Function], own: usize, known: &[&str]) -> Option<&'a str> {
    let mut left = own;
    let near = functions.iter().take_while(|function| {
        let is_near = left > 0;
        left = left.saturating_sub(usize::from(function.is_own));
        is_near
    });
    let says = |name: &str| words(name).iter().any(|word| known.contains(&word.as_str()));
    let near: Vec<&Function> = near.collect();
    let by_function = near.iter().find(|function| says(&function.short)).map(|function| function.short.as_str());
    by_function.or_else(|| near.iter().find_map(|function| function.path.split([':', ' ']).find(|part| says(part))))
}

/// The function that is a pool's by its name.
pub(crate) fn pool(functions: &[Function]) -> Option<&str> {
    named(functions, POOL_REACH, &POOL_WORDS)
}

/// The function that is an error path's by its name: one that tries again before one that only fails.
pub(crate) fn error_path(functions: &[Function]) -> Option<&str> {
    named(functions, RETRY_REACH, &RETRY_WORDS).or_else(|| named(functions, RETRY_REACH, &ERROR_WORDS))
}

/// How near a table that grows is to what a site allocates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Near {
    /// They are called by one function, which is no operation, or not as often: nothing follows.
    Beside,
    /// The function that fills the table is called by one of the site's chain; so are others.
    Caller,
    /// The function that fills it is on the site's chain.
    Filler,
}

/// Does what grows in `table` lie on the way of what is allocated by `site`, and who fills it? The function that does, or that which
/// calls it, is on the site's chain. The outermost function is on all chains and counts only where it fills the table itself; what a
/// library calls, as a runtime an async `main`'s body, is no operation either.
pub(crate) fn fills_beside<'a>(table: &'a [Function], site: &[Function]) -> Option<(Near, &'a str)> {
    let mut own = table.iter().zip(0usize..).filter(|(function, _)| function.is_own);
    let (filler, at) = own.next().or(table.first().map(|first| (first, 0)))?;
    let is_on = |function: &Function| site.iter().any(|of_site| of_site.path == function.path);
    let is_called_by_own = |at: usize| table.get(at + 1).is_some_and(|function| function.is_own);
    let calls = own.next().filter(|_| own.next().is_some());
    let near = match calls {
        _ if is_on(filler) && (is_called_by_own(at) || !filler.is_own) => Near::Filler,
        _ if is_on(filler) => Near::Caller,
        Some((caller, at)) if is_on(caller) && is_called_by_own(at) => Near::Caller,
        Some((caller, _)) if is_on(caller) => Near::Beside,
        _ => return None,
    };
    Some((near, filler.short.as_str()))
}

/// Are both allocated in one operation? They share a function that is not the outermost of both.
pub(crate) fn are_of_one_operation(a: &[Function], b: &[Function]) -> bool {
    let inner = |functions: &[Function]| functions.len().saturating_sub(1).max(1);
    a.iter().take(inner(a)).any(|one| b.iter().take(inner(b)).any(|other| one.path == other.path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(names: &[&str]) -> Vec<Function> {
        let function = |name: &&str| Function {
            short: name.rsplit("::").next().unwrap_or(name).into(),
            path: name.trim_start_matches("lib ").into(),
            is_own: !name.starts_with("lib "),
            at: (0, 0),
        };
        names.iter().map(function).collect()
    }

    #[test]
    fn names_are_read_by_words_and_near_the_allocation() {
        assert_eq!(
            words("byte_pool::pool::BytePool::onError_2 "),
            ["byte", "pool", "pool", "byte", "pool", "on", "error", "2"]
        );
        assert_eq!(words("HTTPServer"), ["httpserver"], "no words are made up");
        let of_pool = chain(&["lib byte_pool::pool::Block::realloc", "fetch", "sync", "main"]);
        assert_eq!(pool(&of_pool), Some("byte_pool"));
        let by_function = chain(&["lib byte_pool::pool::Block::realloc", "lib take_pooled", "fetch", "main"]);
        assert_eq!(pool(&by_function), Some("lib take_pooled"));
        assert_eq!(pool(&chain(&["parse", "handle", "serve", "lib rayon::ThreadPool::run", "main"])), None);
        assert_eq!(pool(&chain(&["spool_mail", "carpool::go"])), None, "whole words alone");
        assert_eq!(error_path(&chain(&["copy_record", "on_failure", "retry_all"])), Some("retry_all"));
        assert_eq!(error_path(&chain(&["describe_error", "handle"])), Some("describe_error"));
        assert_eq!(error_path(&chain(&["terror", "entry"])), None);
    }

    #[test]
    fn a_table_is_beside_what_its_filler_or_the_filler_s_caller_allocates() {
        let site = chain(&["decode", "fetch", "sync_folder", "sync_all", "main"]);
        let near = |table: &[&str], site: &[Function]| {
            fills_beside(&chain(table), site).map(|(near, filler)| (near, filler.to_owned()))
        };
        let is = |kind, filler: &str| Some((kind, filler.to_owned()));
        assert_eq!(near(&["sync_folder", "sync_all", "main"], &site), is(Near::Filler, "sync_folder"));
        assert_eq!(near(&["Cache::insert", "sync_folder", "sync_all", "main"], &site), is(Near::Caller, "insert"));
        assert_eq!(near(&["accept", "listen", "main"], &site), None);
        assert_eq!(near(&["accept", "main"], &site), None, "all chains come from main");
        assert_eq!(near(&["main"], &chain(&["main"])), is(Near::Caller, "main"), "and so does all else");
        assert_eq!(near(&[], &site), None);
    }

    #[test]
    fn what_a_runtime_calls_is_no_operation() {
        let site = chain(&["send", "main::{{closure}}", "lib runtime::block_on", "main"]);
        let beside = chain(&["remember", "main::{{closure}}", "lib runtime::block_on", "main"]);
        assert_eq!(fills_beside(&beside, &site), Some((Near::Beside, "remember")));
        let site = chain(&["send", "handle", "main::{{closure}}", "lib runtime::block_on", "main"]);
        let within = chain(&["remember", "handle", "main::{{closure}}", "lib runtime::block_on", "main"]);
        assert_eq!(fills_beside(&within, &site), Some((Near::Caller, "remember")));
    }

    #[test]
    fn one_operation_has_a_function_of_its_own() {
        let (a, b) = (chain(&["metrics", "start", "restart", "main"]), chain(&["buffer", "start", "restart", "main"]));
        assert!(are_of_one_operation(&a, &b));
        assert!(!are_of_one_operation(&a, &chain(&["accept", "listen", "main"])));
        assert!(are_of_one_operation(&chain(&["main"]), &chain(&["main"])));
    }
}
