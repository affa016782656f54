//! The loops over unfreed over jemalloc.

#[global_allocator]
static A: unfreed::Alloc<tikv_jemallocator::Jemalloc> = unfreed::Alloc::new(tikv_jemallocator::Jemalloc);

fn main() {
    allocator_tests::cost::run();
}
