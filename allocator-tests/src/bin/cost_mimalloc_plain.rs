//! The loops over mimalloc, declared alike.

#[global_allocator]
static A: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    allocator_tests::cost::run();
}
