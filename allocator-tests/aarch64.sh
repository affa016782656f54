#!/usr/bin/env bash
# Compiles everything for aarch64, and runs there, emulated, the library's tests of what depends on the processor: the hook, the
# unwinder, rings and the tree. What is missing for it is named, and then nothing is run.
#
#   bash allocator-tests/aarch64.sh [TEST...]     names or parts of names, in place of those
#
# Needs `rustup target add aarch64-unknown-linux-gnu`, and from Debian gcc-aarch64-linux-gnu and qemu-user.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=aarch64-unknown-linux-gnu
missing=()
if [ ! -d "$("${RUSTC:-rustc}" --print target-libdir --target $target)" ]; then missing+=("rustup target add $target"); fi
if ! command -v aarch64-linux-gnu-gcc >/dev/null; then missing+=("apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross"); fi
if ! command -v qemu-aarch64 >/dev/null; then missing+=("apt-get install qemu-user"); fi
if [ ${#missing[@]} -ne 0 ]; then
  printf 'skipped: to be done before: %s\n' "${missing[@]}"
  exit
fi

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
# The libraries that `loading` builds are of the machine that builds them.
skipped=(unwind::tests::loading)
if [ $# -eq 0 ]; then set -- unwind:: hook:: ring:: tree:: sampler::; fi
# Of 20,000.
export UNFREED_CAPTURES=${UNFREED_CAPTURES:-2000}
# Without the other allocators, whose C takes longer to build than all else.
cargo check --locked --workspace --all-targets --no-default-features --target $target
cargo test --locked --target $target -p unfreed --lib -- "${skipped[@]/#/--skip=}" "$@"
