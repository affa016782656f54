//! The loops over the system's allocator, declared alike.

#[global_allocator]
static A: std::alloc::System = std::alloc::System;

fn main() {
    allocator_tests::cost::run();
}
