#!/usr/bin/env bash
# Runs the tests that break things on purpose: processes, disks, definitions,
# dumps, and the patience of whoever uses the server.
#
# Usage: scripts/test-adversity.sh MAJOR [GROUP...]
# Groups: definitions, dumps, faults, hostile_input, hostile_users, load,
# privileges, server_life, upgrades; all of them without any. CACHE_REFRESHER_FAULTS=1000,
# CACHE_REFRESHER_SOAK=1800 (seconds), CACHE_REFRESHER_DUMPS=20 and
# CACHE_REFRESHER_VIEWS=20000 make them longer than CI has time for;
# CACHE_REFRESHER_OLDER names servers by their pg_config, oldest first, through
# which pg_upgrade comes to this one.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh

major="${1:-}"
use_server "$major"
shift

scripts/install-for-tests.sh "$major"
scripts/pgspot.sh "$major"
# The older server that the tests have installed the extension into before, if
# there is one, for pg_upgrade. Not Debian's own 15: each column there has an
# option (pg_attver) that no other server takes over.
if [ -z "${CACHE_REFRESHER_OLDER:-}" ] && [ "$major" -gt 17 ] && from="$(find_pg_config 17)" \
  && [ -e "$("$from" --sharedir)/extension/cache_refresher.control" ]; then
  export CACHE_REFRESHER_OLDER="$from"
fi
groups=()
for group in "$@"; do groups+=(--test "$group"); done
# Each starts servers of its own and keeps them busy: two at once are enough.
cargo test -p adversity_tests --no-fail-fast "${groups[@]}" -- --test-threads=2 --show-output
