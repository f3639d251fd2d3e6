#!/usr/bin/env bash
# Starts the server with the settings that the environment asks for.
#
# Why not in an init script: those run once, when the data is created, while a
# changed environment shall take effect at each start. So the settings go on
# the server's command line; what the container is started with comes after
# them and wins.
set -euo pipefail

# interval_setting VARIABLE SETTING: refuses a value that cannot be a duration,
# because the server would only warn about it and take the default.
interval_setting() {
  local value="${!1:-}"
  [ -n "$value" ] || return 0
  if ! [[ $value =~ ^([0-9]+(\.[0-9]+)?\ *(us|ms|s|min|m|h|d|w)\ *)+$ ]]; then
    echo "$1: '$value' is not an interval; write it like 30s, 5m, 1h30m or 5min" >&2
    exit 64
  fi
  settings+=(-c "$2=$value")
}

case "${1:-postgres}" in
  --help | -\? | --version | -V) exec docker-entrypoint.sh postgres "$1" ;;
  -*) ;;
  postgres) [ "$#" -eq 0 ] || shift ;;
  *) exec docker-entrypoint.sh "$@" ;; # some other program, such as a shell
esac

settings=(-c shared_preload_libraries=cache_refresher)
interval_setting STREAMS_REFRESH_INTERVAL cache_refresher.streams_refresh_interval
interval_setting VIDEOS_REFRESH_INTERVAL cache_refresher.videos_refresh_interval

exec docker-entrypoint.sh postgres "${settings[@]}" "$@"
