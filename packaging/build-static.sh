#!/usr/bin/env bash
# Builds a statically linked binary (musl), for hosts of any distribution, and tries it.
#   packaging/build-static.sh          prints the binary's path last
# Installs what it needs: the compiler's target by rustup, musl-gcc for the C parts by apt.
set -euo pipefail
cd "$(dirname "$0")/.."
target=x86_64-unknown-linux-musl

if ! rustup target list --installed | grep -qx "$target"; then
    rustup target add "$target"
fi
for tool in musl-gcc:musl-tools file:file; do
    if ! command -v "${tool%:*}" >/dev/null; then
        apt-get update
        apt-get install -y --no-install-recommends "${tool#*:}"
    fi
done

cargo build --release --locked --target "$target"
binary=${CARGO_TARGET_DIR:-target}/$target/release/postrider

fail() {
    echo "FAILED: $*" >&2
    exit 1
}
# A static binary may be one that is placed anywhere in memory; `ldd` tells both.
kind=$(file --brief "$binary")
grep -Eq 'statically linked|static-pie linked' <<<"$kind" || fail "it is not static: $kind"
libraries=$(ldd "$binary" 2>&1 || true)
grep -Eq 'statically linked|not a dynamic executable' <<<"$libraries" || fail "it wants libraries: $libraries"
if grep -q 'INTERP' <<<"$(LC_ALL=C readelf --program-headers "$binary" 2>/dev/null || true)"; then
    fail "it wants a loader"
fi
# A server, three agents and a command, all by this binary.
"$binary" demo --once
echo "$kind, $(stat --format=%s "$binary") bytes"
echo "$binary"
