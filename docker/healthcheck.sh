#!/usr/bin/env bash
# Tells the container engine whether the caches of both databases are kept
# fresh. Over TCP, because the server that runs the init scripts listens on
# its socket only: a container is not healthy before those are done.
set -euo pipefail

export PGHOST=127.0.0.1 PGUSER="${POSTGRES_USER:-postgres}" PGPASSWORD="${POSTGRES_PASSWORD:-}"
export PGCONNECT_TIMEOUT=5 PGOPTIONS='-c statement_timeout=5s'

for database in "${STREAMS_DB_NAME:-streams_db}" "${VOD_DB_NAME:-vod_db}"; do
  answer="$(PGDATABASE="$database" psql -XAtqc 'SELECT cache_refresher.healthy()')" || exit 1
  if [ "$answer" != t ]; then
    echo "$database is not healthy: see SELECT * FROM cache_refresher.health()"
    exit 1
  fi
done
