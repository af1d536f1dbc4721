#!/bin/sh
# Installs the deployment beside a server that runs from the Debian package; see README.md. Enables nothing, and replaces no
# settings and no key. As root, from this folder's place in a clone.
set -eu
cd "$(dirname "$0")"
to=/usr/local/lib/postrider-deploy
for tool in webhook git minisign; do
    command -v "$tool" >/dev/null || { echo "$tool is not installed: apt install webhook git minisign" >&2; exit 1; }
done
id postrider-build >/dev/null 2>&1 ||
    adduser --system --group --quiet --home /var/lib/postrider-build --no-create-home --gecos "postrider build" postrider-build
install -d -m 0755 "$to"
install -d -m 0700 -o postrider-build -g postrider-build /var/lib/postrider-build
install -m 0755 build.sh deploy.sh "$to/"
install -m 0644 hooks.json README.md "$to/"
install -m 0644 postrider-webhook.service postrider-build.service postrider-deploy.service postrider-deploy.path /etc/systemd/system/
[ -e /etc/postrider/deploy.conf ] || install -m 0600 deploy.conf /etc/postrider/deploy.conf
if [ ! -e /etc/postrider/release.key ]; then
    (umask 077 && minisign -G -W -s /etc/postrider/release.key -p /etc/postrider/release.pub >/dev/null)
    echo "release_key = \"$(tail -n 1 /etc/postrider/release.pub)\" belongs into /etc/postrider/postrider.toml"
fi
# Debian's own unit of the daemon runs it as root, with hooks that are not ours.
systemctl --quiet disable --now webhook.service 2>/dev/null || true
systemctl daemon-reload
