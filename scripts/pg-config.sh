#!/usr/bin/env bash
# Prints the path of the pg_config that the tests use for a major version:
# Debian's own if it is installed with its headers, else that of the server
# which build-postgres.sh built.
#
# Usage: scripts/pg-config.sh MAJOR
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

require_major "${1:-}"
find_pg_config "$1" || die "no PostgreSQL $1 with headers here: run scripts/setup.sh $1"
