//! Where memory is, over mimalloc, which has no statistics to ask for: `memory_mimalloc CASE`.

use allocator_tests::memory;

#[global_allocator]
static ALLOC: unfreed::Alloc<mimalloc::MiMalloc> = unfreed::Alloc::new(mimalloc::MiMalloc);

fn main() {
    memory::print(&memory::run(&std::env::args().nth(1).expect("a case")));
}
