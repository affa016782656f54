//! The loops over unfreed over mimalloc.

#[global_allocator]
static A: unfreed::Alloc<mimalloc::MiMalloc> = unfreed::Alloc::new(mimalloc::MiMalloc);

fn main() {
    allocator_tests::cost::run();
}
