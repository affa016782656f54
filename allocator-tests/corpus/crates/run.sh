#!/usr/bin/env bash
# Six real crates that leaked, each in the leaking and the mended version: builds the programs, runs them, says whether the
# leaking were named and the mended left alone. `docs/benchmarks/leak-crates.md` is its table.
#
#   bash allocator-tests/corpus/crates/run.sh [--modes exact,16K,64K] [--seeds N] [--rounds N] [--write] [--help] [NAME...]
#
# All twelve are built into one directory, so that what they have in common is compiled once.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-../../../target}")/crates
export CARGO_TARGET_DIR
exec cargo run --release --locked --quiet --manifest-path score/Cargo.toml -- "$@"
