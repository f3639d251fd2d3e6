#!/usr/bin/env bash
# Measures a release build on this machine's server of that major version.
#
# Usage: scripts/bench.sh MAJOR [PART]...
# Parts: overhead, punctuality, idle, queries; all of them take seven minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh

major="${1:-}"
require_major "$major"
shift
PG_CONFIG="$(scripts/pg-config.sh "$major")"
export PG_CONFIG

install_extension "$PG_CONFIG" --release
cargo run --quiet --release -p benches -- "$@"
