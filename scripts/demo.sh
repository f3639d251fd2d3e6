#!/usr/bin/env bash
# Shows the main job live, on a server of its own that is thrown away at the
# end: three databases, two caches that read over postgres_fdw, and what becomes
# of them while things change, fail and recover. It checks each thing that it
# shows, and fails if one did not happen.
#
# Usage: scripts/demo.sh MAJOR
# KEEP=1 leaves the server running. INSTALL=0 takes the extension as it is
# installed, instead of building and installing it first.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh

major="${1:-}"
require_major "$major"
pg_config="$(scripts/pg-config.sh "$major")"
bin="$("$pg_config" --bindir)"
sql="$PWD/scripts/demo"
link="$(target_dir)/demo"
server_log=''
seen=()

# ---- printing ---------------------------------------------------------------

bold='' green='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
  bold=$'\e[1m' green=$'\e[32m' plain=$'\e[0m'
fi

step=0
heading() {
  step=$((step + 1))
  printf '\n%s%s. %s%s\n\n' "$bold" "$step" "$*" "$plain"
}

note() { printf '    %s\n' "$*"; }
indented() { sed 's/^/    /; s/[[:space:]]*$//'; }

# Something that was to happen did.
ok() {
  printf '    %sok%s  %s\n' "$green" "$plain" "$*"
  seen+=("$*")
}

# The lines of the server's log that hold a pattern, since the last call.
log_line=1
show_log() {
  local lines
  lines="$(tail -n "+$log_line" "$server_log")"
  log_line=$((log_line + $(printf '%s\n' "$lines" | wc -l)))
  printf '%s\n' "$lines" | { grep -E "$1" || true; } \
    | sed -E 's/^[0-9-]+ ([0-9:.]+) UTC LOG:  (cache_refresher: )?/\1  /; s/^[0-9-]+ ([0-9:.]+) UTC (DETAIL|HINT):  /              /' \
    | indented
}

# ---- the server -------------------------------------------------------------

# Stops the server of an earlier demo, and removes what it left.
clear_away() {
  local folder pid
  folder="$(readlink -f "$link")"
  if pid="$(head -n 1 "$folder/data/postmaster.pid" 2>/dev/null)" \
    && [ "$(readlink "/proc/$pid/cwd")" = "$folder/data" ]; then # it could be another's pid by now
    say "stopping the server that an earlier demo left running"
    as_server_user "$bin/pg_ctl" -D "$folder/data" -m immediate -w stop >/dev/null
  fi
  case "$folder" in
    "$link" | /tmp/cache_refresher-demo.*) rm -rf "$folder" ;;
  esac
  rm -rf "$link"
}

# The server's folder: target/demo itself, if its user gets there and the path
# of a socket in it is short enough; else one in /tmp, to which target/demo points.
make_folder() {
  if [ "${#link}" -le 80 ] && as_server_user test -x "$(target_dir)"; then
    mkdir "$link"
    work="$link"
  else
    work="$(mktemp -d /tmp/cache_refresher-demo.XXXXXX)"
    ln -s "$work" "$link"
  fi
  if is_root; then chown "$server_user" "$work"; fi
  chmod 755 "$work"
  server_log="$work/server.log"
}

free_port() {
  local port
  while port=$((20000 + RANDOM % 12000)); (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
  printf '%s\n' "$port"
}

settings=(
  "shared_preload_libraries = 'cache_refresher'"
  "cache_refresher.streams_refresh_interval = '2s'"
  "cache_refresher.videos_refresh_interval = '3s'"
)

# Who runs this may connect as superuser through the socket, nobody else; over
# TCP, where the foreign tables connect, it takes a password.
make_server() {
  as_server_user "$bin/initdb" --pgdata="$work/data" --username=postgres --no-sync --no-locale \
    --encoding=UTF8 --auth=reject >/dev/null
  printf '%s\n' 'local all postgres peer map=demo' 'host all cache_reader 127.0.0.1/32 scram-sha-256' \
    >"$work/data/pg_hba.conf"
  printf 'demo %s postgres\n' "$(id -un)" >"$work/data/pg_ident.conf"
  {
    printf "%s\n" "listen_addresses = '127.0.0.1'" "unix_socket_directories = '$work'" \
      "fsync = off" "log_checkpoints = off" "log_line_prefix = '%m '" "log_timezone = 'UTC'"
    printf '%s\n' "${settings[@]}"
  } >>"$work/data/postgresql.conf"
}

start_server() {
  as_server_user "$bin/pg_ctl" --pgdata="$work/data" --log="$server_log" -o "-p $PGPORT" -w start >/dev/null
}

# Another program can take a port between the look and the start.
start_on_free_port() {
  export PGHOST="$work" PGPORT
  for _ in 1 2 3 4 5; do
    PGPORT="$(free_port)"
    if start_server 2>/dev/null; then return; fi
    grep -q 'could not bind' "$server_log" || break
    rm "$server_log"
  done
  die "the server did not start"
}

server_is_running() { as_server_user "$bin/pg_ctl" --pgdata="$work/data" status >/dev/null 2>&1; }

finish() {
  local status=$?
  trap - EXIT
  if [ -n "$server_log" ] && [ "$status" -ne 0 ] && [ "$status" -ne 130 ]; then
    if [ -e "$server_log" ]; then
      printf '\nthe end of the server'\''s log:\n\n' >&2
      tail -n 25 "$server_log" | indented >&2
    fi
    printf '\n%sThe demo failed.%s\n' "$bold" "$plain" >&2
  fi
  if [ -n "${work:-}" ] && { [ "$status" -ne 0 ] || [ "${KEEP:-}" != 1 ]; }; then
    if server_is_running; then
      as_server_user "$bin/pg_ctl" --pgdata="$work/data" -m immediate -w stop >/dev/null || true
    fi
    clear_away
  fi
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

# ---- asking -----------------------------------------------------------------

# query DATABASE SQL: the bare answer.
query() { "$bin/psql" -XAtq -v ON_ERROR_STOP=1 -d "$1" -c "$2"; }

# show DATABASE SQL [OPTION-OF-PSQL]...: the answer as a table.
show() {
  local database="$1" statement="$2"
  shift 2
  "$bin/psql" -Xq -v ON_ERROR_STOP=1 -P footer=off "$@" -d "$database" -c "$statement" | sed '/^$/d' | indented
}

# wait_for WHAT DATABASE CONDITION: until it holds, at most 20 seconds.
wait_for() {
  local start=$SECONDS
  until [ "$(query "$2" "SELECT $3")" = t ]; do
    [ $((SECONDS - start)) -lt 20 ] || die "did not happen within 20 s: $1"
    sleep 0.05
  done
}

expect() { [ "$2" = "$3" ] || die "$1: expected '$3', but it is '$2'"; }

now() { printf '%s\n' "${EPOCHREALTIME/[.,]/}"; }

# since MICROSECONDS: seconds passed, such as 1.4.
since() {
  local tenths=$((($(now) - $1 + 50000) / 100000))
  printf '%d.%d\n' $((tenths / 10)) $((tenths % 10))
}

# How many successful refreshes of a view its log has, as part of a condition.
refreshes="(SELECT count(*) FROM cache_refresher.refresh_log WHERE outcome = 'refreshed')"

# ---- the demo ---------------------------------------------------------------

mkdir -p "$(target_dir)"
clear_away
if [ "${INSTALL:-1}" != 0 ]; then
  say "building the extension and installing it into PostgreSQL $major (the first time takes a few minutes)"
  output="$(mktemp)"
  if ! install_extension "$pg_config" --release >"$output" 2>&1; then
    cat "$output" >&2
    rm "$output"
    die "the build failed"
  fi
  rm "$output"
fi
# What the caller has set for other servers, and for debugging, is not for this one.
unset "${!PG@}" RUST_BACKTRACE
export LC_ALL=C PGUSER=postgres PGTZ=UTC

began="$(now)"
make_folder
cd "$work" # the server's user may not be allowed into the checkout

heading "A server, three databases, two caches"

make_server
start_on_free_port
password="$(od -An -N16 -tx8 /dev/urandom | tr -d ' \n')"

# load DATABASE FILE [VARIABLE=VALUE]...: the password is not for the eyes of ps.
load() {
  local database="$1" file="$2" variable variables=()
  shift 2
  for variable in "$@"; do variables+=(-v "$variable"); done
  query postgres "CREATE DATABASE $database"
  { printf "\\\\set password '%s'\n" "$password" && cat "$sql/$file"; } \
    | "$bin/psql" -Xq -v ON_ERROR_STOP=1 "${variables[@]}" -d "$database"
}
load auth_db auth_db.sql
load streams_db cache_db.sql port="$PGPORT" table=streams cache=streams_with_users_cache
load vod_db cache_db.sql port="$PGPORT" table=videos cache=videos_with_users_cache

note "PostgreSQL $(query postgres 'SHOW server_version' | cut -d ' ' -f 1) on port $PGPORT, in postgresql.conf:"
printf '%s\n' "${settings[@]}" | indented | indented
echo
note "auth_db      10,000 users"
note "streams_db   10,000 streams   streams_with_users_cache   empty as yet"
note "vod_db       10,000 videos    videos_with_users_cache    empty as yet"
echo
note "Each cache joins its rows with the users of auth_db, over postgres_fdw."
echo
note "In streams_db, and likewise in vod_db:"
note "    CREATE EXTENSION cache_refresher;"
note "    SELECT cache_refresher.register('streams_with_users_cache');"
for database in streams_db:streams vod_db:videos; do
  query "${database%:*}" "CREATE EXTENSION cache_refresher;
    SELECT cache_refresher.register('${database#*:}_with_users_cache')" >/dev/null
done

heading "Both are filled at once, and then refreshed by themselves"

wait_for "streams_with_users_cache is refreshed three times" streams_db "$refreshes >= 3"
wait_for "videos_with_users_cache is refreshed three times" vod_db "$refreshes >= 3"
note "The server's log:"
show_log 'refreshed (public.)?(streams|videos)_with_users_cache'
echo
note "The same in SQL, in vod_db:"
show vod_db "SELECT to_char(started_at, 'HH24:MI:SS.MS') AS started_at, outcome, trigger, method, reason,
                    round(duration_ms) AS ms, rows_total
               FROM cache_refresher.refresh_log ORDER BY id"
echo
for database in streams_db:streams vod_db:videos; do
  expect "rows of the cache in ${database%:*}" \
    "$(query "${database%:*}" "SELECT count(username) FROM ${database#*:}_with_users_cache")" 10000
done
ok "both caches hold 10,000 rows with names, and nobody refreshed them by hand"

heading "A change in auth_db turns up in both caches"

note "UPDATE users SET username = 'renamed' WHERE id = 42;"
query auth_db "UPDATE users SET username = 'renamed' WHERE id = 42"
changed="$(now)"
# Side by side: each has its own time.
shown() {
  wait_for "$2_with_users_cache shows the new name" "$1" \
    "username = 'renamed' FROM $2_with_users_cache WHERE id = 42"
  since "$changed"
}
shown streams_db streams >"$work/streams" &
job=$!
videos="$(shown vod_db videos)"
wait "$job"
echo
note "What those two refreshes wrote:"
written="FROM cache_refresher.refresh_log WHERE rows_updated > 0"
for database in streams_db vod_db; do
  show "$database" "SELECT view_name, method, reason, rows_total, rows_inserted, rows_updated, rows_deleted $written"
  expect "what the refresh in $database wrote" \
    "$(query "$database" "SELECT count(*) || ' ' || min(concat_ws(' ', method, rows_inserted, rows_updated, rows_deleted)) $written")" \
    "1 diff 0 1 0"
done
echo
ok "streams_with_users_cache (every 2 s) showed it after $(cat "$work/streams") s, videos_with_users_cache (every 3 s) after $videos s; one row of 10,000 was written in each"

heading "How fresh is it?"

note "SELECT cache_refresher.freshness('streams_with_users_cache');"
show streams_db "SELECT jsonb_pretty(cache_refresher.freshness('streams_with_users_cache'))" -At
echo
note "SELECT * FROM cache_refresher.status;"
show streams_db "SELECT * FROM cache_refresher.status" -xt
echo
expect "state" "$(query streams_db "SELECT state IN ('scheduled', 'running') AND age < '20 seconds'
  AND interval_source = 'cache_refresher.streams_refresh_interval' FROM cache_refresher.status")" t
expect "freshness" "$(query streams_db "SELECT f ->> 'data_source' = 'cached' AND (f ->> 'cache_refreshed_at') IS NOT NULL
  FROM cache_refresher.freshness('streams_with_users_cache') f")" t
ok "freshness() and status say when the cache was refreshed and of what time its content is"

heading "By hand, and an event for the application"

note "One session listens, as an application that keeps a cache of its own would:"
note "    LISTEN cache_refresher;"
note "Another one calls:"
note "    SELECT * FROM refresh_streams_cache();"
echo
coproc "$bin/psql" -Xq -d streams_db
listener="$COPROC_PID"
exec {from_listener}<&"${COPROC[0]}" {to_listener}>&"${COPROC[1]}"
echo 'LISTEN cache_refresher;' >&"$to_listener"
wait_for "somebody listens" streams_db \
  "count(*) = 1 FROM pg_stat_activity WHERE query = 'LISTEN cache_refresher;' AND state = 'idle'"
show streams_db "SELECT view, outcome, method, round(duration_ms) AS ms, rows_total, data_as_of
                   FROM refresh_streams_cache()"
printf '%s\n' 'DO $$ BEGIN END $$;' '\q' >&"$to_listener" # psql looks for events after a statement
events="$(sed -nE 's/^Asynchronous notification "cache_refresher" with payload "(.*)" received.*/\1/p' <&"$from_listener")"
wait "$listener" || true
echo
note "What the listener received:"
printf '%s\n' "$events" | indented
echo
[[ $events == *'"view":"public.streams_with_users_cache","outcome":"refreshed"'* ]] \
  || die "the listener received no event"
ok "refresh_streams_cache() answered with what it did, and a listener was told"

heading "Readers and VACUUM go on during a refresh"

note "One session refreshes, and keeps its transaction open; others read and vacuum:"
reader="$("$bin/psql" -XAtq -v ON_ERROR_STOP=1 -d streams_db <<SQL
BEGIN;
SELECT outcome || ' with ' || method FROM refresh_streams_cache();
\! PGOPTIONS='-c statement_timeout=2s' '$bin/psql' -XAtq -d streams_db -c '\\timing on' -c 'SELECT count(*) FROM streams_with_users_cache'
\! PGOPTIONS='-c statement_timeout=2s' '$bin/psql' -XAt -d streams_db -c 'VACUUM streams_with_users_cache'
COMMIT;
SQL
)"
mapfile -t reader <<<"$reader"
expect "what the reader counted" "${reader[1]:-nothing}" 10000
expect "what VACUUM answered" "${reader[3]:-nothing}" VACUUM
note "    first session    ${reader[0]}, not committed yet"
note "    second session   ${reader[1]} rows in ${reader[2]#Time: }"
note "    third session    ${reader[3]}, done"
echo
ok "neither a reader nor VACUUM was kept waiting by a refresh under way"

heading "auth_db goes away, and comes back"

note "ALTER DATABASE auth_db ALLOW_CONNECTIONS false;   and everybody in it is thrown out"
query postgres "ALTER DATABASE auth_db ALLOW_CONNECTIONS false;
  SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'auth_db'" >/dev/null
gone="$(query postgres 'SELECT now()')"
# Two are enough to see a retry; a view that fails for long is suspended.
failures="cache_refresher.refresh_log WHERE outcome = 'failed' AND started_at > '$gone'"
wait_for "a refresh of streams_with_users_cache fails" streams_db "count(*) >= 1 FROM $failures"
wait_for "a failed refresh is tried again" streams_db "count(*) >= 2 FROM $failures"
rows="$(query streams_db 'SELECT count(username) FROM streams_with_users_cache')"
age="$(query streams_db "SELECT round(extract(epoch FROM cache_refresher.age('streams_with_users_cache')), 1)")"
state="$(query streams_db "SELECT DISTINCT status || ': ' || detail FROM cache_refresher.health() WHERE \"check\" LIKE 'view %'")"
query postgres "ALTER DATABASE auth_db ALLOW_CONNECTIONS true"
back="$(now)"
back_at="$(query postgres 'SELECT now()')"
echo
note "The server's log:"
show_log 'refresh of .* failed|next try'
echo
note "cache_refresher.health() said: $state"
note "The cache went on answering: $rows rows, $age s old"
echo
expect "rows of the cache while auth_db was away" "$rows" 10000
[ -n "$state" ] || die "health() said nothing about the failures"
ok "failures were logged and tried again, and the cache kept its content"
echo
note "ALTER DATABASE auth_db ALLOW_CONNECTIONS true;"
wait_for "streams_with_users_cache recovers" streams_db "data_as_of > '$back_at' AND consecutive_failures = 0 FROM cache_refresher.status"
wait_for "videos_with_users_cache recovers" vod_db "data_as_of > '$back_at' AND consecutive_failures = 0 FROM cache_refresher.status"
recovered="$(since "$back")"
echo
note "The server's log:"
show_log 'refreshed (public.)?(streams|videos)_with_users_cache'
echo
ok "both caches were fresh again $recovered s after auth_db came back; nobody lent a hand"

heading "A clean shutdown"

log_line=$(($(wc -l <"$server_log") + 1))
stopped="$(now)"
as_server_user "$bin/pg_ctl" --pgdata="$work/data" -m fast -w stop >/dev/null
stopped="$(since "$stopped")"
show_log 'shutdown request|launcher stopped|is shut down'
echo
grep -q 'database system is shut down' "$server_log" || die "the server did not shut down in order"
if grep -E 'PANIC|was terminated by signal' "$server_log" >&2; then die "a process of the server crashed"; fi
ok "the server stopped in $stopped s, in the middle of its work"

if [ "${KEEP:-}" = 1 ]; then
  start_server
  wait_for "refreshes go on after a restart" streams_db "data_as_of > pg_postmaster_start_time() FROM cache_refresher.status"
  ok "started again, it went on refreshing by itself"
fi

printf '\n%sSeen in %s s:%s\n\n' "$bold" "$(since "$began")" "$plain"
printf '    - %s\n' "${seen[@]}"
echo

if [ "${KEEP:-}" = 1 ]; then
  stop="$bin/pg_ctl -D $work/data stop"
  if is_root; then stop="runuser -u $server_user -- $stop"; fi
  note "The server goes on running. To connect:"
  note "    $bin/psql -h $work -p $PGPORT -U postgres streams_db"
  note "To stop it:"
  note "    $stop"
  note "The next demo stops and removes it, too."
  echo
fi
