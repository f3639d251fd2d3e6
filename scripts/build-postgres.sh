#!/usr/bin/env bash
# Builds PostgreSQL 17 or 18 with assertions on, for the tests.
#
# Why: Debian 12 has binary packages of 15 only, and a server with assertions
# finds mistakes of an extension that a release server passes over in silence.
# The source comes from the Debian mirror that this machine's apt already uses,
# checked with Debian's archive keys; apt's own lists stay untouched.
#
# Usage: scripts/build-postgres.sh MAJOR
# The prefix is $PG_PREFIX_ROOT/postgresql-MAJOR (default: /opt/cache_refresher
# for root, ~/.cache/cache_refresher for others). A complete one is left alone.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

major="${1:-}"
require_major "$major"
case "$major" in
  17) release=trixie ;;
  18) release=sid ;;
  *) die "this script builds 17 and 18; take PostgreSQL $major from a package" ;;
esac

prefix="$(built_prefix "$major")"
mkdir -p "$(prefix_root)"
exec 9>"$(prefix_root)/.postgresql-$major.lock"
flock 9 # two builds into one prefix would spoil each other

if [ -e "$prefix/.complete" ]; then
  say "PostgreSQL $major is in $prefix already: $(cat "$prefix/.complete")"
  exit 0
fi
if [ -e "$prefix" ] && [ ! -e "$prefix/.building" ]; then
  die "$prefix exists but was not made by this script; remove it or set PG_PREFIX_ROOT"
fi

for tool in apt-get dpkg-source bison flex perl gcc make; do
  command -v "$tool" >/dev/null || die "'$tool' is missing: run scripts/setup.sh $major"
done

# Debian's mirror is the one of apt's sources that also has this release's
# updates; a third party's source may be for the same release.
# shellcheck source=/dev/null
codename="$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")"
mirror="$(apt-get update --print-uris \
  | sed -n "s|^'\(.*\)/dists/$codename-updates/InRelease'.*|\1|p" | head -n 1)"
[ -n "$mirror" ] || die "apt's sources name no Debian mirror for this system's release '$codename'"

keyring=''
for candidate in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
  [ -r "$candidate" ] && keyring="$candidate" && break
done
[ -n "$keyring" ] || die "the package debian-archive-keyring is missing: run scripts/setup.sh $major"

work="$(mktemp -d "${TMPDIR:-/tmp}/build-postgresql-$major.XXXXXX")"
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

# quietly LABEL COMMAND...: the output matters only when the command fails.
quietly() {
  local label="$1"
  shift
  say "PostgreSQL $major: $label"
  if ! "$@" >"$work/output" 2>&1; then
    tail -n 60 "$work/output" >&2
    die "PostgreSQL $major: $label failed"
  fi
}

mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
printf 'deb-src [signed-by=%s] %s %s main\n' "$keyring" "$mirror" "$release" >"$work/sources.list"
apt=(apt-get -q
  -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
  -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache"
  -o APT::Sandbox::User=root -o APT::Update::Error-Mode=any -o Acquire::Retries=3)

cd "$work"
quietly "reading the source index of Debian $release" "${apt[@]}" update
quietly "downloading the source" "${apt[@]}" source --download-only "postgresql-$major"
# Without Debian's patches: they move files to places shared by all servers of
# a machine, which is what a private prefix is there to avoid.
quietly "unpacking" dpkg-source --skip-patches --extract ./*.dsc source
cd source

options=(--prefix="$prefix" --enable-cassert --enable-debug)
# with_library PKG-CONFIG-NAME OPTION: takes what the machine has.
with_library() { if pkg-config --exists "$1"; then options+=("--with-$2"); fi; }
if pkg-config --exists icu-i18n; then options+=(--with-icu); else options+=(--without-icu); fi
with_library openssl openssl
with_library libxml-2.0 libxml
with_library liblz4 lz4
with_library libzstd zstd
pkg-config --exists readline || options+=(--without-readline)

rm -rf "$prefix"
mkdir -p "$prefix"
touch "$prefix/.building"

quietly "configure ${options[*]:1}" ./configure "${options[@]}"
quietly "building (a few minutes)" make -j"$(nproc)" world-bin
quietly "installing into $prefix" make install-world-bin # in one make with the build, they race

chmod -R a+rX "$prefix" # the tests run the server as another user than root
"$prefix/bin/postgres" --version >"$prefix/.complete"
rm "$prefix/.building"
say "PostgreSQL $major is in $prefix: $(cat "$prefix/.complete")"
