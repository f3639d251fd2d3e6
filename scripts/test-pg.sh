#!/usr/bin/env bash
# Runs the tests that live inside the server (#[pg_test]).
#
# Why a script: PostgreSQL refuses to run as root, so root runs it as the user
# postgres, on data outside the checkout, which that user may not be able to
# read; and an ordinary user may need sudo to install into a packaged server.
#
# Usage: scripts/test-pg.sh MAJOR [TEST-NAME]
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh

major="${1:-}"
require_major "$major"
pg_config="$(scripts/pg-config.sh "$major")"

data="$(mktemp -d /tmp/cache_refresher-pg_test.XXXXXX)" # short: sockets lie here
trap 'rm -rf "$data"' EXIT
chmod 755 "$data"

options=(--pgdata "$data/pgdata")
if is_root; then
  chown "$server_user" "$data"
  options+=(--runas "$server_user")
elif ! can_install_into "$pg_config"; then
  options+=(--runas "$(id -un)") # the way to make pgrx install through sudo
fi
remove_library "$pg_config"
cargo pgrx test "pg$major" "${@:2}" "${options[@]}" </dev/null
