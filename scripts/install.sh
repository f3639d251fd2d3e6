#!/usr/bin/env bash
# Builds the extension for production and installs it into one server.
#
# Usage: scripts/install.sh PATH-OF-PG_CONFIG
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh

pg_config="$(command -v "${1:-pg_config}")" || die "no such program: ${1:-pg_config}; say which with PG_CONFIG=…"
pg_config="$(realpath "$pg_config")"
scripts/setup.sh "$pg_config"
install_extension "$pg_config" --release
say "installed into PostgreSQL $(major_of "$pg_config"). Next: add cache_refresher to shared_preload_libraries,
    restart the server, and CREATE EXTENSION cache_refresher in each database"
