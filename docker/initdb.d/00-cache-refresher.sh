#!/usr/bin/env bash
# Creates the two databases, with the extension in each, when a container
# starts on an empty volume. Its name puts it before the scripts of a user,
# which create the tables and views there.
set -euo pipefail

export PGUSER="${POSTGRES_USER:-postgres}" PGDATABASE="${POSTGRES_DB:-${POSTGRES_USER:-postgres}}"

for database in "${STREAMS_DB_NAME:-streams_db}" "${VOD_DB_NAME:-vod_db}"; do
  psql -Xq -v ON_ERROR_STOP=1 -v database="$database" <<'SQL'
SELECT format('CREATE DATABASE %I', :'database')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \gexec
SQL
  PGDATABASE="$database" psql -Xq -v ON_ERROR_STOP=1 \
    -c 'SET client_min_messages = warning; CREATE EXTENSION IF NOT EXISTS cache_refresher'
done
