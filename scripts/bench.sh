#!/usr/bin/env bash
# Measures a release build on this machine's server of that major version.
#
# Usage: scripts/bench.sh MAJOR [PART]... [ROWS]
# Parts: overhead, punctuality, idle, queries, writers, methods, changes; all of them take about twenty
# minutes, methods and changes with their largest views as much again each. ROWS is the most that those
# two work on.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh

major="${1:-}"
use_server "$major"
shift

install_extension "$PG_CONFIG" --release
cargo run --quiet --release -p benches -- "$@"
