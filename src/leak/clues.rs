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

/// Does what grows in `table` lie on the way of what is allocated by `site`? The function that fills the table, or that which
/// calls it, is on the site's chain; the outermost function is on all chains and counts only where it fills the table itself.
pub(crate) fn fills_beside<'a>(table: &'a [Function], site: &[Function]) -> Option<&'a str> {
    let own = || table.iter().filter(|function| function.is_own);
    let filler = own().next().or(table.first())?;
    let is_on = |function: &Function| site.iter().any(|of_site| of_site.path == function.path);
    let calls = own().nth(1).filter(|_| own().nth(2).is_some());
    (is_on(filler) || calls.is_some_and(is_on)).then_some(filler.short.as_str())
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
        assert_eq!(fills_beside(&chain(&["sync_folder", "sync_all", "main"]), &site), Some("sync_folder"));
        assert_eq!(fills_beside(&chain(&["Cache::insert", "sync_folder", "sync_all", "main"]), &site), Some("insert"));
        assert_eq!(fills_beside(&chain(&["accept", "listen", "main"]), &site), None);
        assert_eq!(fills_beside(&chain(&["accept", "main"]), &site), None, "all chains come from main");
        assert_eq!(fills_beside(&chain(&["main"]), &chain(&["main"])), Some("main"));
        assert_eq!(fills_beside(&[], &site), None);
    }

    #[test]
    fn one_operation_has_a_function_of_its_own() {
        let (a, b) = (chain(&["metrics", "start", "restart", "main"]), chain(&["buffer", "start", "restart", "main"]));
        assert!(are_of_one_operation(&a, &b));
        assert!(!are_of_one_operation(&a, &chain(&["accept", "listen", "main"])));
        assert!(are_of_one_operation(&chain(&["main"]), &chain(&["main"])));
    }
}
