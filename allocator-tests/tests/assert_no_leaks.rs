//! `assert_no_leaks!` as users have it: tests of one binary, in parallel, that leak or do not.
//!
//! The ignored tests here are subjects: `the_leaking_fail_and_the_healthy_pass` runs them all in one child process, eight at a
//! time, and knows which must fail and with what message. Nothing depends on chance or time.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hint::black_box;
use std::panic::catch_unwind;
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{LazyLock, Mutex};
use std::thread;

use unfreed::testing::{TestError, find_leaks};
use unfreed::{ScopeHandle, assert_no_leaks, bounded};

#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

// ---- subjects that leak --------------------------------------------------------------------------------------------

/// What the leaking subjects never free.
static KEPT: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

#[inline(never)]
fn remember_for_ever(bytes: usize) {
    KEPT.lock().expect("not poisoned").push(vec![7u8; bytes].into_boxed_slice());
}

#[test]
#[ignore = "the child of `the_leaking_fail_and_the_healthy_pass`: it must fail"]
fn leaks_a_kept_block() {
    assert_no_leaks!(|| {
        let brief: Vec<u64> = black_box((0..100).collect());
        [1000].iter().for_each(|&bytes| remember_for_ever(bytes));
        brief.len()
    });
}

struct Node {
    other: RefCell<Option<Rc<Node>>>,
}

#[inline(never)]
fn tie_a_knot() {
    let first = Rc::new(Node { other: RefCell::new(None) });
    let second = Rc::new(Node { other: RefCell::new(Some(Rc::clone(&first))) });
    *first.other.borrow_mut() = Some(second);
}

#[test]
#[ignore = "the child of `the_leaking_fail_and_the_healthy_pass`: it must fail"]
fn leaks_a_cycle() {
    assert_no_leaks!(rounds = 20, tie_a_knot, "the knots of {}", "request 17");
}

#[inline(never)]
fn one_way() {
    std::mem::forget(black_box(vec![1u8; 300]));
}

#[inline(never)]
fn another_way() {
    std::mem::forget(black_box(vec![1u8; 400]));
}

#[test]
#[ignore = "the child of `the_leaking_fail_and_the_healthy_pass`: it must fail"]
fn leaks_by_turns() {
    let mut round = 0;
    assert_no_leaks!(rounds = 12, || {
        round += 1;
        if round % 2 == 0 { one_way() } else { another_way() }
    });
}

#[test]
#[ignore = "the child of `the_leaking_fail_and_the_healthy_pass`: it must fail"]
fn leaks_in_a_thread_of_its_scope() {
    assert_no_leaks!(|| {
        let scope = ScopeHandle::current();
        let thread = thread::spawn(move || {
            let _entered = scope.enter();
            remember_for_ever(2000);
        });
        thread.join().expect("no panic");
    });
}

#[test]
#[ignore = "the child of `the_leaking_fail_and_the_healthy_pass`: it must fail"]
fn leaks_beyond_a_bound() {
    let mut cache = VecDeque::with_capacity(100);
    assert_no_leaks!(|| {
        let _cache = bounded("too_small", 7_999);
        cache.push_back(vec![1u8; 1000]);
    });
}

// ---- subjects that do not ------------------------------------------------------------------------------------------

#[test]
#[ignore = "the child of `the_leaking_fail_and_the_healthy_pass`: it must pass"]
fn healthy_churn() {
    assert_no_leaks!(rounds = 50, || (0..100u32).map(|i| (i, format!("entry {i}"))).collect::<HashMap<_, _>>());
}

static TABLE: LazyLock<BTreeMap<u32, String>> = LazyLock::new(|| (0..500).map(|i| (i, i.to_string())).collect());

#[test]
#[ignore = "the child of `the_leaking_fail_and_the_healthy_pass`: it must pass"]
fn healthy_warm_up() {
    thread_local! {
        static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    assert_no_leaks!(|| {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            scratch.extend_from_slice(&[1; 500]);
        });
        TABLE.len()
    });
}

/// An entry lives for three rounds; the oldest goes when another comes. In each round one is born, in each one dies.
#[test]
#[ignore = "the child of `the_leaking_fail_and_the_healthy_pass`: it must pass"]
fn healthy_replaced_entries() {
    let mut latest: VecDeque<Box<[u8; 700]>> = VecDeque::with_capacity(4);
    assert_no_leaks!(rounds = 16, || {
        latest.push_back(Box::new([0; 700]));
        if latest.len() > 3 {
            latest.pop_front();
        }
    });
    assert_eq!(latest.len(), 3);
}

#[test]
#[ignore = "the child of `the_leaking_fail_and_the_healthy_pass`: it must pass"]
fn healthy_within_a_bound() {
    let mut cache = Vec::new();
    assert_no_leaks!(|| {
        let _cache = bounded("large_enough", 1 << 20);
        cache.push(vec![1u8; 1000]);
    });
}

/// A neighbour's thread leaks in every round of this test, by the same function that leaks elsewhere.
#[test]
#[ignore = "the child of `the_leaking_fail_and_the_healthy_pass`: it must pass"]
fn healthy_beside_a_leaking_thread() {
    let (ask, asked) = channel::<()>();
    let (answer, answered) = channel::<()>();
    let neighbour = thread::spawn(move || {
        for () in asked {
            remember_for_ever(5000);
            answer.send(()).expect("somebody waits");
        }
    });
    // What channels keep for their own is made before.
    for _ in 0..100 {
        ask.send(()).and_then(|()| answered.recv().map_err(|_| std::sync::mpsc::SendError(()))).expect("a neighbour");
    }
    assert_no_leaks!(rounds = 40, || {
        ask.send(()).expect("a neighbour");
        answered.recv().expect("a neighbour");
        vec![0u8; 100]
    });
    drop(ask);
    neighbour.join().expect("no panic");
}

// ---- the expectations ----------------------------------------------------------------------------------------------

/// Of each leaking subject: what its message must say.
const LEAKING: [(&str, &[&str]); 5] = [
    (
        "leaks_a_kept_block",
        &[
            "assert_no_leaks!: 1 call chain kept memory\n",
            "1000 bytes in 1.0 blocks a round, in each of the rounds 3 to 8; 8000 bytes in 8 blocks since the first\n",
            "\n    at assert_no_leaks::remember_for_ever (allocator-tests/tests/assert_no_leaks.rs:",
            "\n    … in ",
            "library function",
            "\n    at assert_no_leaks::leaks_a_kept_block::{{closure}} (allocator-tests/tests/assert_no_leaks.rs:",
        ],
    ),
    (
        "leaks_a_cycle",
        &[
            "assert_no_leaks!: the knots of request 17: 2 call chains kept memory\n",
            "rounds 6 to 20",
            "at assert_no_leaks::tie_a_knot",
        ],
    ),
    (
        "leaks_by_turns",
        &[
            "2 call chains kept memory\n",
            "in all, with others in each of the rounds 4 to 12",
            "at assert_no_leaks::one_way",
            "at assert_no_leaks::another_way",
        ],
    ),
    ("leaks_in_a_thread_of_its_scope", &["2000 bytes in 1.0 blocks a round", "at assert_no_leaks::remember_for_ever"]),
    ("leaks_beyond_a_bound", &["1 call chain kept memory\n", "1000 bytes in 1.0 blocks a round"]),
];

/// Runs subjects in a child process; whether it succeeded, and its output.
fn subjects(arguments: &[&str]) -> (bool, String) {
    let own = std::env::current_exe().expect("a path");
    let output = Command::new(own)
        .args(["--ignored", "--test-threads", "8"])
        .args(arguments)
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("this program");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

/// What a failed test printed.
fn printed_by<'o>(output: &'o str, test: &str) -> &'o str {
    let begin = output.find(&format!("---- {test} stdout ----")).unwrap_or_else(|| panic!("{test} passed\n{output}"));
    let rest = &output[begin + 5..];
    &rest[..rest.find("\n---- ").or_else(|| rest.find("\nfailures:")).unwrap_or(rest.len())]
}

#[test]
fn the_leaking_fail_and_the_healthy_pass() {
    for _ in 0..3 {
        let (passed, output) = subjects(&["--skip", "alone_"]);
        assert!(!passed, "{output}");
        assert!(output.contains("test result: FAILED. 5 passed; 5 failed;"), "{output}");
        for (test, said) in LEAKING {
            let message = printed_by(&output, test);
            for part in said {
                assert!(message.contains(part), "{test}: no {part:?} in\n{message}");
            }
            // The chain ends at the closure.
            assert!(!message.contains("unfreed::") && !message.contains("libtest"), "{message}");
            // Nothing of another test.
            for (other, _) in LEAKING.iter().filter(|(other, _)| *other != test) {
                assert!(!message.contains(&format!("::{other}")), "{message}");
            }
        }
    }
}

#[test]
#[ignore = "the child of `a_sampled_profile_is_in_the_way`"]
fn alone_beside_a_sampled_profile() {
    let _profiler = unfreed::Profiler::builder().no_output().quiet().store_in_memory().start().expect("a profile");
    assert_no_leaks!(|| ());
}

#[test]
#[ignore = "the child of `an_exact_profile_is_used`"]
fn alone_within_an_exact_profile() {
    let profiler =
        unfreed::Profiler::builder().exact().no_output().quiet().store_in_memory().start().expect("a profile");
    let leaks = find_leaks(8, || remember_for_ever(10)).expect("it can tell");
    assert_eq!((leaks.len(), leaks[0].grown_bytes()), (1, 80));
    // The program's own profile goes on.
    assert!(profiler.snapshot().totals().total_blocks > 8);
    let result = find_leaks(8, || ());
    assert!(result.expect("it can tell").is_empty());
    // One that ends meanwhile is said.
    let mut profiler = Some(profiler);
    let result = find_leaks(8, || drop(profiler.take()));
    assert!(matches!(result, Err(TestError::Ended)), "{result:?}");
    // And from now on the tests have one of their own, which ends with the last of them.
    assert!(find_leaks(8, || ()).expect("it can tell").is_empty());
    drop(unfreed::Profiler::builder().no_output().quiet().start().expect("no profile runs"));
}

#[test]
fn a_sampled_profile_is_in_the_way() {
    let (passed, output) = subjects(&["--exact", "alone_beside_a_sampled_profile"]);
    assert!(!passed, "{output}");
    let message = printed_by(&output, "alone_beside_a_sampled_profile");
    assert!(message.contains("a sampled profile runs in this process") && message.contains(".exact()"), "{message}");
}

#[test]
fn an_exact_profile_is_used() {
    let (passed, output) = subjects(&["--exact", "alone_within_an_exact_profile"]);
    assert!(passed && output.contains("1 passed"), "{output}");
}

#[test]
fn too_few_rounds_are_refused() {
    for rounds in [0, 1, 4, 100_001] {
        let panic = catch_unwind(|| assert_no_leaks!(rounds = rounds, || ())).expect_err("refused");
        let message = panic.downcast_ref::<String>().expect("a message");
        assert!(message.contains(&format!("rounds = {rounds}: allowed is 5 to 100000")), "{message}");
    }
    assert_no_leaks!(rounds = 5, || ());
}

/// A closure that panics leaves its scope and the shared profile in order.
#[test]
fn a_panic_of_the_closure_is_its_own() {
    for _ in 0..3 {
        let rounds = AtomicU64::new(0);
        let panic = catch_unwind(|| {
            assert_no_leaks!(|| assert!(rounds.fetch_add(1, Ordering::Relaxed) < 2, "the third round"));
        });
        assert_eq!(panic.expect_err("it panics").downcast_ref::<&str>(), Some(&"the third round"));
        assert_eq!(rounds.into_inner(), 3);
    }
    let leaks = find_leaks(6, || std::mem::forget(black_box(Box::new([0u8; 64])))).expect("it can tell");
    assert_eq!((leaks.len(), leaks[0].bytes_per_round(), leaks[0].judged_rounds()), (1, 64.0, 5));
}

/// Threads that did not enter the scope are not covered, as documented.
#[test]
fn other_threads_are_not_covered() {
    assert_no_leaks!(|| thread::spawn(|| remember_for_ever(100)).join().expect("no panic"));
}

/// A test within a test judges what is its own; the outer one all of it.
#[test]
fn tests_nest() {
    static LEAKED: AtomicBool = AtomicBool::new(false);
    let leaks = find_leaks(6, || {
        assert_no_leaks!(|| vec![1; 10]);
        LEAKED.store(true, Ordering::Relaxed);
        std::mem::forget(black_box(Box::new([0u8; 48])));
    })
    .expect("it can tell");
    assert_eq!((leaks.len(), leaks[0].grown_bytes()), (1, 288));
    assert!(LEAKED.load(Ordering::Relaxed));
}
