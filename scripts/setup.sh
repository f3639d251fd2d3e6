#!/usr/bin/env bash
# Installs what building and testing need on a Debian machine that has Rust:
# Debian packages, cargo-pgrx in the one version that this project is built
# with, and the PostgreSQL servers asked for. What is there already is left
# alone, so a second run does nothing.
#
# Usage: scripts/setup.sh [MAJOR | PATH-OF-PG_CONFIG]...     (default: 15)
# A major version means a server to test on; a pg_config, one to install into.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

readonly pgrx_version=0.18.1

install_missing_packages() {
  local package missing=()
  for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] \
      || missing+=("$package")
  done
  [ "${#missing[@]}" -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "this is not a Debian system; install the like of: ${missing[*]}"
  say "installing Debian packages: ${missing[*]}"
  as_root apt-get -qq update
  for package in "${missing[@]}"; do
    apt-cache show "$package" >/dev/null 2>&1 \
      || die "this release of Debian has no package $package; choose another server with PG_MAJOR"
  done
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends \
    -o Dpkg::Use-Pty=0 "${missing[@]}" </dev/null >/dev/null
}

setup_rust() {
  command -v cargo >/dev/null || die "Rust is missing: install the toolchain named in Cargo.toml with rustup"
  local component
  for component in fmt clippy; do
    cargo "$component" --version >/dev/null 2>&1 && continue
    command -v rustup >/dev/null || die "'cargo $component' is missing, and there is no rustup to add it with"
    say "adding 'cargo $component'"
    rustup -q component add "${component/fmt/rustfmt}"
  done
  if [ "$(cargo pgrx --version 2>/dev/null)" != "cargo-pgrx $pgrx_version" ]; then
    say "installing cargo-pgrx $pgrx_version (about two minutes)"
    cargo install --quiet --locked cargo-pgrx --version "=$pgrx_version"
  fi
}

# The server of that major version: one that this machine has as a package is
# taken as it is; 17 and 18 are built with assertions, others are Debian's.
setup_server() {
  local major="$1"
  if find_pg_config "$major" >/dev/null; then
    return
  elif [ -x "/usr/lib/postgresql/$major/bin/postgres" ]; then
    install_missing_packages "postgresql-server-dev-$major"
  elif [ "$major" -ge 17 ]; then
    install_missing_packages bison flex perl dpkg-dev xz-utils debian-archive-keyring \
      libreadline-dev zlib1g-dev libicu-dev libssl-dev libxml2-dev
    "$(dirname "$0")/build-postgres.sh" "$major"
  else
    install_missing_packages "postgresql-$major" "postgresql-server-dev-$major"
  fi
}

# Tells pgrx where that server is.
setup_pgrx() {
  local pg_config="$1" label
  label="pg$(major_of "$pg_config")"
  if ! grep -qsxF "$label = \"$pg_config\"" "${PGRX_HOME:-$HOME/.pgrx}/config.toml"; then
    say "telling cargo-pgrx about $pg_config"
    cargo pgrx init "--$label" "$pg_config" >/dev/null
  fi
}

# cargo downloads by HTTPS, and cargo-pgrx itself links OpenSSL.
install_missing_packages build-essential ca-certificates clang libclang-dev libssl-dev pkg-config
setup_rust

[ "$#" -gt 0 ] || set -- 15
for server in "$@"; do
  case "$server" in
    */pg_config)
      [ -e "$("$server" --includedir-server)/postgres.h" ] \
        || install_missing_packages "postgresql-server-dev-$(major_of "$server")"
      setup_pgrx "$server"
      ;;
    *)
      require_major "$server"
      install_missing_packages sudo shellcheck python3-venv # for tests and lints only
      setup_server "$server"
      setup_pgrx "$(find_pg_config "$server")"
      ;;
  esac
done
