//! The loops over jemalloc, declared alike.

#[global_allocator]
static A: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    allocator_tests::cost::run();
}
