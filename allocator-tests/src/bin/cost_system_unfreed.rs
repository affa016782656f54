//! The loops over unfreed over the system's allocator.

#[global_allocator]
static A: unfreed::Alloc = unfreed::Alloc::system();

fn main() {
    allocator_tests::cost::run();
}
