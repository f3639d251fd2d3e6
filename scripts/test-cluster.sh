#!/usr/bin/env bash
# Runs the tests that start whole servers of their own: crashes, promotion,
# several databases.
#
# Usage: scripts/test-cluster.sh MAJOR [TEST-NAME]
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh

major="${1:-}"
use_server "$major"
shift

scripts/install-for-tests.sh "$major"
# The tests mostly wait for something to happen, so several fit on one core; those
# of one file share a server, which is why they run in one process.
cargo test -p cluster_tests --no-fail-fast -- --test-threads=6 "$@"
