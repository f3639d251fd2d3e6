#!/usr/bin/env bash
# Has pgspot look for names in the install script that somebody could lay
# something in the way of. The script is the one installed last into the server
# of that major version.
#
# Usage: scripts/pgspot.sh MAJOR
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh

readonly pgspot_version=0.9.4

use_server "${1:-}"
tools="$(target_dir)/pgspot-$pgspot_version"
if [ ! -x "$tools/bin/pgspot" ]; then
  say "installing pgspot $pgspot_version"
  python3 -m venv "$tools"
  "$tools/bin/pip" --quiet --disable-pip-version-check install "pgspot==$pgspot_version"
fi
# pgspot knows bodies in quotes only: the others become statements of their own.
perl -0pe '
  my $head = "\nSET search_path = pg_catalog, pg_temp AS \x27SELECT\x27;\n";
  s/\@extschema\@/cache_refresher/g;
  s/\nBEGIN ATOMIC\n(.*?)\nEND;/$head$1/gs;
  s/\nRETURN (.*?);/${head}SELECT $1;/gs;
' "$("$PG_CONFIG" --sharedir)/extension/"cache_refresher--*.*.*.sql | "$tools/bin/pgspot"
