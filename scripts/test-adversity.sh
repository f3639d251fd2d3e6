#!/usr/bin/env bash
# Runs the tests that break things on purpose: processes, disks, definitions,
# dumps, and the patience of whoever uses the server.
#
# Usage: scripts/test-adversity.sh MAJOR [GROUP...]
# Groups: definitions, dumps, faults, hostile_input, hostile_users, load,
# privileges, server_life, upgrades; all of them without any. CACHE_REFRESHER_FAULTS=1000,
# CACHE_REFRESHER_SOAK=1800 (seconds), CACHE_REFRESHER_DUMPS=20 and
# CACHE_REFRESHER_VIEWS=20000 make them longer than CI has time for.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh

major="${1:-}"
use_server "$major"
shift

scripts/install-for-tests.sh "$major"
# An older server that the tests have installed the extension into before, if
# there is one.
for older in 15 17; do
  if [ "$older" -lt "$major" ] && from="$(find_pg_config "$older")" \
    && [ -e "$("$from" --sharedir)/extension/cache_refresher.control" ]; then
    export CACHE_REFRESHER_FROM="$from"
  fi
done
groups=()
for group in "$@"; do groups+=(--test "$group"); done
# Each starts servers of its own and keeps them busy: two at once are enough.
cargo test -p adversity_tests --no-fail-fast "${groups[@]}" -- --test-threads=2 --show-output
