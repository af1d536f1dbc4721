#!/bin/sh
# Has the newest commit built, signs the executable, and upgrades the server to it: postrider-deploy.service runs it, as root.
# A commit that is live, or that failed, is not tried again.
set -eu
umask 022
build=/var/lib/postrider-build
known=/var/lib/postrider-deploy
# First: a request from now on is for another run.
rm -rf /run/postrider-deploy/requested

# Reads a file of the build user with its rights, or a link in its folder could name any file of root's.
of_build() {
    timeout 60 setpriv --reuid=postrider-build --regid=postrider-build --clear-groups -- head -c 512M -- "$build/out/$1"
}
failed() {
    echo "$commit" >"$known/failed"
    echo "$commit failed: $1. It is not tried again; to try it again: rm $known/failed; systemctl start postrider-deploy" >&2
    exit 1
}

built=yes
systemctl start postrider-build.service || built=
commit=$(of_build commit 2>/dev/null | tr -cd 0-9a-f | cut -c 1-64) || commit=
if [ -z "$commit" ]; then
    [ -n "$built" ] && exit 0
    echo "the newest commit cannot be fetched, nothing was changed: journalctl -u postrider-build" >&2
    exit 1
fi
[ -n "$built" ] || failed "it does not build, nothing was changed (journalctl -u postrider-build)"

new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
of_build postrider >"$new/postrider" || failed "the build left no executable"
chmod 0755 "$new/postrider"
if cmp -s "$new/postrider" /usr/local/lib/postrider/releases/current/postrider; then
    echo "$commit makes the executable that runs already"
else
    minisign -S -W -s "$SIGN_WITH" -m "$new/postrider" -t "commit $commit" >/dev/null
    # A stop of the unit waits for the end of the upgrade, which is written down.
    trap : TERM
    # It has said why itself; 1 means that the old one runs again.
    postrider upgrade "$new/postrider" || failed "the upgrade ended with $?"
fi
echo "$commit" >"$known/live.new"
mv "$known/live.new" "$known/live"
rm -f "$known/failed"
echo "$commit is live"
