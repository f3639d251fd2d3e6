#!/usr/bin/env bash
# Makes a Debian package of a release build for Debian's own server of that
# major version: target/postgresql-MAJOR-cache-refresher_VERSION_ARCH.deb.
#
# The package holds files only; nothing runs when it is installed, because
# whether to preload the library and restart the server is the owner's choice.
#
# Usage: scripts/package.sh MAJOR
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh

major="${1:-}"
require_major "$major"
pg_config="$(scripts/pg-config.sh "$major")"
case "$pg_config" in
  /usr/lib/postgresql/*) ;;
  *) die "PostgreSQL $major is not installed from a Debian package here; a package is made for those only" ;;
esac

name="postgresql-$major-cache-refresher"
version="$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)"
arch="$(dpkg --print-architecture)"
root="$(target_dir)/$name"
deb="$(target_dir)/${name}_${version}_${arch}.deb"

rm -rf "$root"
cargo pgrx package --pg-config "$pg_config" --out-dir "$root" </dev/null
library="$root$("$pg_config" --pkglibdir)/cache_refresher.so"
[ -e "$library" ] || die "the build left no library at $library"
strip --strip-unneeded "$library"

doc="$root/usr/share/doc/$name"
install -D -m 644 LICENSE "$doc/copyright"
gzip -9n <CHANGELOG.md >"$doc/changelog.gz"
# Under the names of the source tree, so that the links in the README lead somewhere.
cp -R README.md CHANGELOG.md CONTRIBUTING.md docs examples "$doc/"
ln -s copyright "$doc/LICENSE"

# dpkg-shlibdeps finds the library packages needed; it wants a source tree.
mkdir -p "$root/debian" "$root/DEBIAN"
printf 'Source: cache-refresher\n\nPackage: %s\nArchitecture: any\n' "$name" >"$root/debian/control"
libraries="$(cd "$root" && dpkg-shlibdeps -O "${library#"$root/"}" 2>/dev/null | sed -n 's/^shlibs:Depends=//p')"
rm -r "$root/debian"

cat >"$root/DEBIAN/control" <<CONTROL
Package: $name
Version: $version
Architecture: $arch
Section: database
Priority: optional
Maintainer: cache_refresher developers <noreply@example.org>
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f 1)
Depends: postgresql-$major${libraries:+, $libraries}
Description: keeps materialized views of PostgreSQL $major fresh
 An extension that refreshes materialized views from inside the server, by
 interval, by cron schedule, when their sources change, or on demand, and says
 in SQL how fresh each is.
 .
 To have it work on its own, add cache_refresher to shared_preload_libraries
 and restart the server.
CONTROL

chmod 644 "$library"
chmod -R u=rwX,go=rX "$root"
dpkg-deb --root-owner-group --build "$root" "$deb" >/dev/null
rm -r "$root"
say "$deb"
if command -v lintian >/dev/null; then lintian --no-tag-display-limit "$deb" || true; fi
