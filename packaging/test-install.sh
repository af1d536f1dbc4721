#!/usr/bin/env bash
# Tries the line that installs an agent under a real systemd: a clean Debian root, booted with systemd-nspawn, with a server
# in it that has an authority of its own.
#   packaging/test-install.sh [BINARY]     default: target/debug/postrider
# Needs root, debootstrap and systemd-nspawn (see nspawn.sh); says so and ends with 77 where they are not there.
set -euo pipefail
binary=$(realpath "${1:-$(dirname "$0")/../target/debug/postrider}")
. "$(dirname "$0")/nspawn.sh"

new_root
# Where neither the package nor the script has anything.
install -D -m 0755 "$binary" "$root/opt/server/postrider"
# The clean root has no curl, and no way to get one: it takes this host's, with all that it is linked with.
command -v curl >/dev/null || skip "curl is not installed"
mkdir "$root/opt/curl"
for file in $(command -v curl) $(ldd "$(command -v curl)" | grep -o '/[^ ]*'); do
    cp --dereference "$file" "$root/opt/curl/"
done
loader=$(basename "$root"/opt/curl/ld-*)
printf '#!/bin/sh\nexec /opt/curl/%s --library-path /opt/curl /opt/curl/curl "$@"\n' "$loader" >"$root/usr/bin/curl"
chmod 0755 "$root/usr/bin/curl"
boot server postrider-agent

server() { in_root /opt/server/postrider "$@" --data /srv/postrider; }
online() { in_root sh -c '/opt/server/postrider agents --data /srv/postrider --json | grep -q "\"online\":true"'; }
pid() { in_root systemctl show --property=MainPID --value postrider-agent; }
line() { server join create --install --server-url https://msp.example:7717 "$@" 2>/dev/null; }
runs=(sh -c 'grep -qsa ^/usr/local/bin/postrider /proc/[0-9]*/cmdline')
# The line, as root pastes it.
paste() { is sh -c "$1"; }

step "a server with its own authority, at an address that the certificate does not name"
in_root systemd-run --quiet --unit=server /opt/server/postrider serve --data /srv/postrider --listen 127.0.0.1:7717 --tls
until_true "the server listens" test -s /srv/postrider/listen
in_root sh -c 'echo 127.0.0.1 msp.example >>/etc/hosts'

step "the line installs an agent, which is connected when it ends"
first=$(line)
paste "$first -s -- --name web-1 --tag role=web"
tells "web-1 is connected to https://msp.example:7717"
online || fail "the agent is not online"
is systemctl is-enabled postrider-agent
is /opt/server/postrider run web-1 --data /srv/postrider -- id -un
tells "^root$"
is stat --format=%U:%a /usr/local/bin/postrider /usr/local/sbin/postrider-uninstall /var/lib/postrider-agent
[ "$(tr '\n' ' ' <"$work/out")" = "root:755 root:755 root:700 " ] || fail "rights: $(cat "$work/out")"
is systemd-analyze verify postrider-agent.service
is_not grep -rq prj1_ey /etc /var/lib/postrider-agent /tmp /run/systemd/system
is_not sh -c "tr '\\0' '\\n' </proc/$(pid)/environ | grep -q prj1_"

step "used up, it does nothing"
before=$(pid)
is sh -c "$first"
tells "403"

step "another one on the same host changes nothing"
next=$(line --uses 2)
paste "$next"
tells "nothing was changed"
[ "$before" = "$(pid)" ] || fail "the agent was restarted"

step "an earlier executable is replaced, the identity stays"
is sh -c 'cp /usr/local/bin/postrider /usr/local/bin/.earlier; printf x >>/usr/local/bin/.earlier; mv /usr/local/bin/.earlier /usr/local/bin/postrider'
paste "$next"
tells "web-1 is connected"
[ "$before" != "$(pid)" ] || fail "the agent was not restarted"
is cmp /usr/local/bin/postrider /opt/server/postrider
[ "$(server agents --json | grep -c '"id"')" = 1 ] || fail "another agent has appeared"

step "a command of the agent cannot replace or remove it"
is_not /opt/server/postrider run web-1 --data /srv/postrider -- "$next"
tells "systemd-run"
is_not /opt/server/postrider run web-1 --data /srv/postrider -- /usr/local/sbin/postrider-uninstall
tells "systemd-run"

step "after a restart of the server, whose leaf is another one, the same line is good"
is systemctl restart server
until_true "the agent is back" sh -c '/opt/server/postrider agents --data /srv/postrider --json | grep -q "\"online\":true"'
paste "$next"
tells "nothing was changed"

step "an agent that does not connect is told with its journal"
is sh -c "${next% | sh} >/root/script"
is sh -c 'echo "# changed by hand" >>/etc/systemd/system/postrider-agent.service'
is systemctl stop server
is_not sh /root/script
tells "has not connected"
tells "trying again"
in_root systemd-run --quiet --unit=server /opt/server/postrider serve --data /srv/postrider --listen 127.0.0.1:7717 --tls
until_true "the agent is back" sh -c '/opt/server/postrider agents --data /srv/postrider --json | grep -q "\"online\":true"'

step "uninstall: the identity stays until it is purged"
is "${runs[@]}"
is postrider-uninstall
tells "postrider agents revoke web-1"
is_not systemctl is-active postrider-agent
is_not systemctl cat postrider-agent
is_not "${runs[@]}"
is_not test -e /usr/local/bin/postrider
is_not test -e /usr/local/sbin/postrider-uninstall
is test -s /var/lib/postrider-agent/agent.json
paste "$next"
tells "web-1 is connected"
is postrider-uninstall --purge
is_not test -e /var/lib/postrider-agent
is_not test -e /etc/systemd/system/multi-user.target.wants/postrider-agent.service
echo "passed"
