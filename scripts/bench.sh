#!/usr/bin/env bash
# Measures a release build on this machine's server of that major version.
#
# Usage: scripts/bench.sh MAJOR [PART]... [ROWS]
# Parts: overhead, punctuality, idle, queries, methods; all of them take about thirteen minutes, methods
# alone with its largest views about twenty. ROWS is the most that methods works on.
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
