//! What several call chains have in common, as one chain: the functions from the allocation outwards, and those from the root
//! inwards. What lies between differs; one pseudo-frame stands for it and says how many ways there are.
//!
//! Functions are compared by name, not by address or line, and consecutive repeats are one: so recursion of any depth is. Pure. Time
//! and memory are linear in the frames.

use std::collections::HashSet;

use super::frame::Frame;

/// The common chain of these, leaf first; frames (with their lines) are those of the first one.
pub(crate) fn common(chains: &[&[Frame]]) -> Vec<Frame> {
    let chains: Vec<Vec<&Frame>> = chains.iter().map(|chain| collapsed(chain)).collect();
    let Some((first, others)) = chains.split_first() else { return Vec::new() };
    let same = |&(a, b): &(&&Frame, &&Frame)| is_same_function(a, b);
    let shared = |most: usize, of: &dyn Fn(&Vec<&Frame>) -> usize| others.iter().map(of).fold(most, usize::min);
    let inner = shared(first.len(), &|other| first.iter().zip(other).take_while(same).count());
    let shortest = chains.iter().map(Vec::len).min().unwrap_or(0);
    let outer = shared(shortest - inner, &|other| first.iter().rev().zip(other.iter().rev()).take_while(same).count());
    let between = |chain: &Vec<&Frame>| -> Vec<String> {
        let differs = chain.get(inner..chain.len() - outer).unwrap_or_default();
        differs.iter().map(|frame| function(frame).into_owned()).collect()
    };
    let ways: HashSet<Vec<String>> = chains.iter().map(between).collect();
    let mut frames: Vec<Frame> = first.iter().take(inner).map(|&frame| frame.clone()).collect();
    if ways.len() > 1 {
        frames.push(Frame::of_ways(ways.len()));
    }
    frames.extend(first.iter().skip(first.len() - outer).map(|&frame| frame.clone()));
    frames
}

/// Without consecutive repeats of one function.
fn collapsed(chain: &[Frame]) -> Vec<&Frame> {
    let mut frames: Vec<&Frame> = chain.iter().collect();
    frames.dedup_by(|a, b| is_same_function(a, b));
    frames
}

fn function(frame: &Frame) -> std::borrow::Cow<'_, str> {
    frame.name().map_or_else(|| frame.nameless().into(), Into::into)
}

fn is_same_function(a: &Frame, b: &Frame) -> bool {
    match (a.name(), b.name()) {
        (Some(a), Some(b)) => a == b,
        (None, None) => a.address == b.address,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::frame::Symbol;

    /// `f:3` is a frame of function `f` at line 3.
    fn chain(text: &str) -> Vec<Frame> {
        let frame = |(at, word): (usize, &str)| {
            let (name, line) = word.split_once(':').unwrap_or((word, "1"));
            let symbol = Symbol { name: Some(name.into()), line: line.parse().expect("a line"), ..Symbol::default() };
            Frame { address: at as u64, symbol: symbol.into() }
        };
        text.split_whitespace().enumerate().map(frame).collect()
    }

    fn of(chains: &[&str]) -> String {
        let chains: Vec<Vec<Frame>> = chains.iter().map(|text| chain(text)).collect();
        let slices: Vec<&[Frame]> = chains.iter().map(Vec::as_slice).collect();
        let shown: Vec<String> = common(&slices)
            .iter()
            .map(|frame| match frame.line() {
                Some(line) if line > 1 => format!("{}:{line}", frame.name().unwrap_or_default()),
                _ => frame.name().unwrap_or_default().to_owned(),
            })
            .collect();
        shown.join(" ")
    }

    #[test]
    fn lines_of_one_function_are_one_chain() {
        assert_eq!(of(&["copy route:7 main", "copy route:9 main", "copy route:8 main"]), "copy route:7 main");
    }

    #[test]
    fn both_ends_are_shown_where_the_middle_differs() {
        assert_eq!(of(&["copy a run main", "copy b run main", "copy c d run main"]), "copy [3 ways] run main");
        assert_eq!(of(&["copy a run main", "copy a run main", "copy run main"]), "copy [2 ways] run main");
        assert_eq!(of(&["copy a", "copy b"]), "copy [2 ways]");
    }

    #[test]
    fn recursion_of_any_depth_is_one_chain() {
        assert_eq!(of(&["copy parse parse parse main", "copy parse main"]), "copy parse main");
    }

    /// No frame is both at the inner and at the outer end.
    #[test]
    fn ends_do_not_overlap() {
        assert_eq!(of(&["a b a b", "a b"]), "a b [2 ways]");
        assert_eq!(of(&["a b", "a b a b", "a b c"]), "a b [3 ways]");
    }

    #[test]
    fn one_chain_is_itself_and_none_is_nothing() {
        assert_eq!(of(&["a b c"]), "a b c");
        assert_eq!(of(&[]), "");
    }
}
