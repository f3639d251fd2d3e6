#!/usr/bin/env bash
# Runs the SQL tests (tests/pg_regress) with PostgreSQL's own pg_regress, and
# the interleaving tests (tests/isolation) with pg_isolation_regress, each on a
# throw-away server that has the extension preloaded.
#
# Usage: scripts/test-regress.sh MAJOR [TEST-NAME]...
# ACCEPT=1 takes over what the tests print as what they should print.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh

major="${1:-}"
require_major "$major"
shift
pg_config="$(scripts/pg-config.sh "$major")"
drivers="$(dirname "$(dirname "$("$pg_config" --pgxs)")")/test"

# With it set, pgrx adds a backtrace to the DETAIL of errors that pass through it.
unset RUST_BACKTRACE RUST_LIB_BACKTRACE

work="$(mktemp -d /tmp/cache_refresher-regress.XXXXXX)"
trap 'rm -rf "$work"' EXIT
# The scheduler sleeps: these tests are about what sessions do, and a refresh on
# schedule in between would change what they print.
cat >"$work/server.conf" <<'CONF'
shared_preload_libraries = 'cache_refresher'
cache_refresher.enabled = off
fsync = off
max_worker_processes = 32
max_prepared_transactions = 10
CONF

# run_suite FOLDER INPUTS DRIVER [TEST-NAME]...: runs the tests named, else all.
# Works on a copy: the server's user may not be able to read the checkout.
run_suite() {
  local folder="$1" inputs="$2" driver="$3" copy name status=0 tests
  copy="$work/$(basename "$folder")"
  shift 3
  if [ "$#" -eq 0 ]; then
    mapfile -t tests < <(cd "$folder" && find "${inputs%/*}" -path "$inputs" -printf '%f\n' | sed 's/\.[a-z]*$//' | LC_ALL=C sort)
    set -- "${tests[@]}"
  fi
  [ "$#" -gt 0 ] || die "no tests in $folder"

  cp -r "$folder" "$copy"
  mkdir -p "$copy/expected"
  if [ "${ACCEPT:-}" = 1 ]; then # the driver gives up where a file is missing
    for name in "$@"; do touch "$copy/expected/$name.out"; done
  fi
  if is_root; then chown -R "$server_user" "$work"; fi
  (cd "$work" && as_server_user "$drivers/$driver" --bindir="$("$pg_config" --bindir)" \
    --inputdir="$copy" --outputdir="$copy" --temp-instance="$copy/server" \
    --temp-config="$work/server.conf" --no-locale --encoding=UTF8 "$@") || status=$?

  if [ "${ACCEPT:-}" = 1 ]; then
    mkdir -p "$folder/expected"
    for name in "$@"; do
      [ ! -e "$copy/results/$name.out" ] || cp "$copy/results/$name.out" "$folder/expected/$name.out"
    done
    say "took over the results of $folder: read the difference before you commit it"
    return 0
  fi
  if [ "$status" -ne 0 ]; then
    cat "$copy/regression.diffs" 2>/dev/null || tail -n 50 "$copy"/log/*.log
  fi
  return "$status"
}

scripts/install-for-tests.sh "$major"
run_suite tests/pg_regress 'sql/*.sql' regress/pg_regress "$@"
if [ "$#" -eq 0 ] && [ -d tests/isolation/specs ]; then
  run_suite tests/isolation 'specs/*.spec' isolation/pg_isolation_regress
fi
