#!/usr/bin/env bash
# Runs the fuzz targets, each for SECONDS; ends with 1 where any has found something.
#   scripts/fuzz.sh SECONDS [TARGET…]
# What is found lies in fuzz/artifacts; the corpus in fuzz/corpus stays for the next run. The stable toolchain is enough:
# no sanitizer is needed where there is no unsafe code.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=$1
shift
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    mapfile -t targets < <(find fuzz/fuzz_targets -name '*.rs' -exec basename {} .rs \; | sort)
fi

cargo fuzz --version > /dev/null 2>&1 || cargo install --locked cargo-fuzz
fuzz/seeds.sh
cargo fuzz build --sanitizer none

failed=()
for target in "${targets[@]}"; do
    echo "== $target: $seconds s"
    cargo fuzz run --sanitizer none "$target" -- \
        -max_total_time="$seconds" -max_len=20000 -rss_limit_mb=1024 -timeout=10 -print_final_stats=1 -verbosity=0 ||
        failed+=("$target")
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "found something: ${failed[*]}: see fuzz/artifacts" >&2
    exit 1
fi
