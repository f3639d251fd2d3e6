#!/usr/bin/env bash
# Checks what docker/entrypoint.sh hands to the official image's start script,
# without a container: a stand-in of that name prints its arguments.
set -euo pipefail
cd "$(dirname "$0")/../.."

stand_in="$(mktemp -d)"
trap 'rm -rf "$stand_in"' EXIT
cat >"$stand_in/docker-entrypoint.sh" <<'STAND_IN'
#!/usr/bin/env bash
printf '[%s]' "$@"
STAND_IN
chmod +x "$stand_in/docker-entrypoint.sh"

preload='[postgres][-c][shared_preload_libraries=cache_refresher]'
failures=0

# starts EXPECTED [VARIABLE=VALUE]... -- [ARGUMENT]...
starts() {
  local expected="$1" environment=() actual
  shift
  while [ "$1" != -- ]; do environment+=("$1") && shift; done
  shift
  actual="$(env -i "PATH=$stand_in:$PATH" "${environment[@]}" bash docker/entrypoint.sh "$@" 2>&1)" || actual="refused"
  if [ "$actual" != "$expected" ]; then
    printf 'entrypoint %s %s:\n  expected %s\n  got      %s\n' "${environment[*]}" "$*" "$expected" "$actual" >&2
    failures=$((failures + 1))
  fi
}

starts "$preload" -- postgres
starts "$preload" --
starts "$preload" STREAMS_REFRESH_INTERVAL= -- postgres
starts "${preload}[-c][cache_refresher.streams_refresh_interval=30s][-c][cache_refresher.videos_refresh_interval=1h30m]" \
  STREAMS_REFRESH_INTERVAL=30s VIDEOS_REFRESH_INTERVAL=1h30m -- postgres
starts "${preload}[-c][cache_refresher.videos_refresh_interval=5 min]" 'VIDEOS_REFRESH_INTERVAL=5 min' -- postgres
starts "${preload}[-c][cache_refresher.videos_refresh_interval=1w]" VIDEOS_REFRESH_INTERVAL=1w -- postgres
starts "${preload}[-c][cache_refresher.streams_refresh_interval=1m][-c][cache_refresher.streams_refresh_interval=2m]" \
  STREAMS_REFRESH_INTERVAL=1m -- -c cache_refresher.streams_refresh_interval=2m
starts 'refused' STREAMS_REFRESH_INTERVAL=often -- postgres
starts 'refused' STREAMS_REFRESH_INTERVAL=5 -- postgres
starts 'refused' 'VIDEOS_REFRESH_INTERVAL=5m; rm -rf /' -- postgres
starts '[postgres][--version]' STREAMS_REFRESH_INTERVAL=1m -- --version
starts '[psql][-l]' STREAMS_REFRESH_INTERVAL=1m -- psql -l

[ "$failures" -eq 0 ] || exit 1
echo 'entrypoint: ok'
