#!/usr/bin/env bash
# Builds the Debian package: release binary, manual pages, completions, package; then lintian looks at it.
#   packaging/build-deb.sh [REVISION]     default: 1. Prints the package's path last.
# With POSTRIDER_BINARY=FILE that binary is packaged and none is built.
set -euo pipefail
cd "$(dirname "$0")/.."
revision=${1:-1}
made=target/package
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

if ! cargo deb --version >/dev/null 2>&1; then
    cargo install cargo-deb --locked --version 3.8.0
fi
if [ -z "${POSTRIDER_BINARY:-}" ]; then
    cargo build --release --locked
    POSTRIDER_BINARY=target/release/postrider
fi

rm -rf "$made"
mkdir -p "$made"
install -m 0755 "$POSTRIDER_BINARY" "$made/postrider"
"$made/postrider" man "$made/man"
"$made/postrider" completions bash >"$made/postrider.bash"
"$made/postrider" completions zsh >"$made/_postrider"
"$made/postrider" completions fish >"$made/postrider.fish"
# Debian's own changelog: where the real one is.
date=$(git log -1 --format=%cD 2>/dev/null || date -R)
cat >"$made/changelog" <<END
postrider ($version-$revision) stable; urgency=medium

  * See CHANGELOG.md for what this release has.

 -- postrider authors <postrider@postrider.invalid>  $date
END

package=$made/postrider_$version-${revision}_$(dpkg --print-architecture).deb
cargo deb --no-build --no-strip --deb-revision "$revision" --output "$package"
if command -v lintian >/dev/null; then
    # Warnings are shown; errors end it.
    lintian --allow-root --fail-on error --tag-display-limit 0 "$package"
else
    echo "lintian is not installed: the package was not looked at" >&2
fi
echo "$package"
