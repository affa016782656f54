//! `assert_no_leaks!` in a test binary that forgot to declare the allocator: it must not pass.

use unfreed::testing::{TestError, find_leaks};

#[test]
fn it_says_what_is_missing() {
    let result = find_leaks(8, || ());
    assert!(matches!(result, Err(TestError::NotInstalled)), "{result:?}");
    let panic = std::panic::catch_unwind(|| unfreed::assert_no_leaks!(|| ())).expect_err("it must not pass");
    let message = panic.downcast_ref::<String>().expect("a message");
    assert!(message.contains("unfreed::Alloc is not this test binary's global allocator"), "{message}");
    assert!(
        message.contains("#[global_allocator] static ALLOC: unfreed::Alloc = unfreed::Alloc::system();"),
        "{message}"
    );
}
