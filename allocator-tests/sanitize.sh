#!/bin/sh
# Runs `sanitize_stress` under AddressSanitizer and ThreadSanitizer, plain and with planted faults.
#
# Fails if a sanitizer reports anything in the plain run, or misses a planted fault. Needs a nightly toolchain
# (RUSTUP_TOOLCHAIN or +nightly); says so and fails with status 3 where there is none.
set -eu
cd "$(dirname "$0")/.."
began=$(date +%s)
nightly=${SANITIZE_TOOLCHAIN:-nightly}
if ! host=$(rustc "+$nightly" -vV 2>/dev/null | sed -n 's/^host: //p') || [ -z "$host" ]; then
    echo "sanitize: no nightly toolchain; install one: rustup toolchain install nightly" >&2
    exit 3
fi
logs=target/sanitize
mkdir -p "$logs"

# Without the other allocators, whose C takes longer to build than all else. In one directory, so that what the compiler
# itself runs (macros, build scripts) is built once.
# The linked standard library is not instrumented; the programs order their own data by atomics of their own.
build() {
    RUSTFLAGS="-Zsanitizer=$1 -Cunsafe-allow-abi-mismatch=sanitizer -Cforce-frame-pointers=yes" \
        CARGO_TARGET_DIR=$logs CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_INCREMENTAL=0 \
        cargo "+$nightly" build -q --locked --target "$host" -p allocator-tests --no-default-features \
        --bin sanitize_stress 2>"$logs/$1-build.log" ||
        { cat "$logs/$1-build.log" >&2; exit 1; }
    cp "$logs/$host/debug/sanitize_stress" "$logs/$1-stress"
}

run() { # sanitizer, plant or nothing, words of the report
    log="$logs/$1-${2:-plain}.log"
    status=0
    # All that is found without a fault of ours; of a planted one the first report is enough: reports by the thousand take
    # longer than the program.
    halt=0
    if [ -n "${2:-}" ]; then halt=1; fi
    ASAN_OPTIONS="detect_leaks=0:abort_on_error=0:exitcode=66:allocator_may_return_null=1" \
    TSAN_OPTIONS="exitcode=66:halt_on_error=$halt:suppressions=$PWD/allocator-tests/sanitize_thread.supp" \
        "$logs/$1-stress" ${2:+"$2"} >"$log" 2>&1 || status=$?
    if [ -z "${2:-}" ]; then
        if [ "$status" -ne 0 ] || grep -q 'Sanitizer' "$log"; then
            echo "sanitize: $1 reports (status $status, $log):" >&2
            grep -v '^$' "$log" | head -60 >&2
            exit 1
        fi
        echo "sanitize: $1 finds nothing: $(tail -1 "$log")"
    elif ! grep -q "$3" "$log"; then
        echo "sanitize: $1 misses the planted $2 (status $status, $log)" >&2
        tail -20 "$log" >&2
        exit 1
    else
        echo "sanitize: $1 finds the planted $2"
    fi
}

build address
build thread &
building=$!
run address
run address use-after-free 'AddressSanitizer: heap-use-after-free'
wait "$building"
run thread
run thread race 'ThreadSanitizer: data race'
run thread slot-race 'ThreadSanitizer: data race'
echo "sanitize: done in $(($(date +%s) - began)) s"
