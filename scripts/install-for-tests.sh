#!/usr/bin/env bash
# Installs a debug build (overflow and debug assertions on) into the server of
# that major version, for the tests that start servers of their own.
#
# Usage: scripts/install-for-tests.sh MAJOR
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh

require_major "${1:-}"
install_extension "$(scripts/pg-config.sh "$1")"
