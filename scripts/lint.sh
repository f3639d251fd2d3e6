#!/usr/bin/env bash
# Everything that must be clean before a commit: formatting, lints, the
# documentation's build, and the shell scripts.
#
# Usage: scripts/lint.sh MAJOR
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh

major="${1:-}"
require_major "$major"
features=(--workspace --no-default-features --features "pg$major")

cargo fmt --all --check
cargo fmt --manifest-path fuzz/Cargo.toml --check # a workspace of its own
cargo clippy --quiet "${features[@]}" --all-targets -- -D warnings
RUSTDOCFLAGS='-D warnings' cargo doc --quiet --no-deps "${features[@]}"
scripts/lint-shell.sh
