#!/usr/bin/env bash
# Fuzzes the core: each target in fuzz/ for a while, with address sanitizer and
# checks of arithmetic. The corpus stays in fuzz/corpus, where the next run
# begins. Fails at the first input that breaks a promise, and prints it with the
# command that tries it again.
#
# Usage: scripts/test-fuzz.sh [SECONDS] [TARGET]     (default: 20, each target)
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh

readonly cargo_fuzz_version=0.13.2

seconds="${1:-20}"
[[ "$seconds" =~ ^[1-9][0-9]*$ ]] || die "expected a number of seconds, got '$seconds'"

command -v cargo >/dev/null || die "Rust is missing: install the toolchain named in Cargo.toml with rustup"
if [ "$(cargo fuzz --version 2>/dev/null)" != "cargo-fuzz $cargo_fuzz_version" ]; then
  say "installing cargo-fuzz $cargo_fuzz_version (about two minutes)"
  cargo install --quiet --locked cargo-fuzz --version "=$cargo_fuzz_version"
fi

# Apart from other builds, whose flags differ.
CARGO_TARGET_DIR="$(target_dir)/fuzz"
# Coverage and sanitizers are features of the stable compiler that have to be asked for.
export CARGO_TARGET_DIR RUSTC_BOOTSTRAP=1

mapfile -t targets < <(cargo fuzz list)
if [ "$#" -ge 2 ]; then
  [[ " ${targets[*]} " == *" $2 "* ]] || die "there is no target '$2', only: ${targets[*]}"
  targets=("$2")
  cargo fuzz build "$2"
else
  cargo fuzz build
fi

output="$(mktemp)"
trap 'rm -f "$output"' EXIT
for target in "${targets[@]}"; do
  corpus=("fuzz/corpus/$target")
  mkdir -p "${corpus[0]}"
  [ ! -d "fuzz/seeds/$target" ] || corpus+=("fuzz/seeds/$target")
  # One input may take ten seconds: a hundred times what the slowest takes.
  if ! cargo fuzz run "$target" "${corpus[@]}" -- "-max_total_time=$seconds" -timeout=10 >"$output" 2>&1; then
    grep -vE '^#[0-9]+|NEW_FUNC' "$output" >&2 || true
    die "fuzzing '$target' found the input above; to try it again: RUSTC_BOOTSTRAP=1 cargo fuzz run $target fuzz/artifacts/$target/…"
  fi
  say "$target: $(sed -n 's/^#\([0-9]*\)[[:space:]]*DONE *cov: \([0-9]*\).*/\1 inputs, \2 edges covered/p' "$output")"
done
