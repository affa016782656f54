//! Where memory is, over jemalloc: `memory_jemalloc CASE`, of `allocator_tests::memory`.

use allocator_tests::memory;

#[global_allocator]
static ALLOC: unfreed::Alloc<tikv_jemallocator::Jemalloc> = unfreed::Alloc::new(tikv_jemallocator::Jemalloc);

fn main() {
    memory::print(&memory::run(&std::env::args().nth(1).expect("a case")));
}
