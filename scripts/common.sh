# shellcheck shell=bash
# What the other scripts share: plain messages, root rights, and where a
# server of a given major version lives. Sourced, never run.

say() { printf '==> %s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

is_root() { [ "$(id -u)" -eq 0 ]; }

# Runs a command as root: directly, or through sudo.
as_root() {
  if is_root; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "'$1' needs root rights, and sudo is not installed"
  fi
}

repo_root() { (cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd); }

# Where Cargo puts what it builds; scripts put their throw-away files there too.
target_dir() { printf '%s\n' "${CARGO_TARGET_DIR:-$(repo_root)/target}"; }

require_major() {
  case "${1:-}" in
    1[0-9]) ;;
    *) die "expected a PostgreSQL major version such as 15, got '${1:-}'" ;;
  esac
}

# Has what follows work with the server of that major version, if it is usable.
use_server() {
  require_major "$1"
  PG_CONFIG="$(scripts/pg-config.sh "$1")"
  export PG_CONFIG
}

# The major version of the server that a pg_config belongs to.
major_of() { "$1" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/'; }

# The folder that holds the servers built by build-postgres.sh.
prefix_root() {
  if [ -n "${PG_PREFIX_ROOT:-}" ]; then
    printf '%s\n' "$PG_PREFIX_ROOT"
  elif is_root; then
    printf '/opt/cache_refresher\n'
  else
    printf '%s/cache_refresher\n' "${XDG_CACHE_HOME:-$HOME/.cache}"
  fi
}

built_prefix() { printf '%s/postgresql-%s\n' "$(prefix_root)" "$1"; }

# Prints the pg_config of a usable server of that major version: Debian's, if
# its headers are there too, else ours. Fails if there is neither.
find_pg_config() {
  local packaged="/usr/lib/postgresql/$1/bin" built
  built="$(built_prefix "$1")"
  if [ -x "$packaged/postgres" ] && [ -x "$packaged/pg_config" ] \
    && [ -e "$("$packaged/pg_config" --includedir-server)/postgres.h" ]; then
    printf '%s\n' "$packaged/pg_config"
  elif [ -e "$built/.complete" ] && [ -x "$built/bin/pg_config" ]; then
    printf '%s\n' "$built/bin/pg_config"
  else
    return 1
  fi
}

# PostgreSQL refuses to run as root; root runs it as this user.
server_user="$(if is_root; then echo postgres; else id -un; fi)"

as_server_user() {
  if is_root; then
    runuser -u "$server_user" -- "$@"
  else
    "$@"
  fi
}

can_install_into() {
  [ -w "$("$1" --pkglibdir)" ] && [ -w "$("$1" --sharedir)/extension" ]
}

# cargo-pgrx writes over an installed library, which would tear it from under a
# server that runs with it; a new file in its place does no harm.
remove_library() {
  local library
  library="$("$1" --pkglibdir)/cache_refresher.so"
  if [ ! -e "$library" ]; then return; fi
  if can_install_into "$1"; then rm -f "$library"; else as_root rm -f "$library"; fi
}

# install_extension PG_CONFIG [CARGO-PGRX-OPTION]...
install_extension() {
  local pg_config="$1" sudo=()
  shift
  can_install_into "$pg_config" || sudo=(--sudo)
  remove_library "$pg_config"
  cargo pgrx install --pg-config "$pg_config" "${sudo[@]}" "$@" </dev/null
}
