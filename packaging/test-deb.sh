#!/usr/bin/env bash
# Tries the Debian package under a real systemd: a clean Debian root, booted with systemd-nspawn.
#   packaging/test-deb.sh PACKAGE.deb NEWER.deb
# Needs root, debootstrap and systemd-nspawn (see nspawn.sh); says so and ends with 77 where they are not there.
set -euo pipefail
old=$(realpath "${1:?PACKAGE.deb}") new=$(realpath "${2:?NEWER.deb}")
. "$(dirname "$0")/nspawn.sh"

new_root
cp "$old" "$root/root/old.deb"
cp "$new" "$root/root/new.deb"
boot postrider postrider-agent

step "install: nothing is enabled or started by it"
is dpkg --install /root/old.deb
is id postrider
is_not systemctl is-active postrider postrider-agent
is_not systemctl is-enabled postrider
is_not systemctl is-enabled postrider-agent
is systemd-analyze verify postrider.service postrider-agent.service
[ ! -s "$work/out" ] || { cat "$work/out"; fail "systemd-analyze verify has something to say"; }
is test -s /usr/share/bash-completion/completions/postrider
is test -s /usr/share/man/man1/postrider-serve.1.gz

step "enable and start"
is systemctl enable --now postrider
is systemctl is-active postrider
is systemctl show --property=StatusText postrider
tells "0 agents connected"
is stat --format=%U:%a /var/lib/postrider
tells "^postrider:700$"
in_root systemd-analyze security --no-pager postrider.service | tail -n 1
in_root systemd-analyze security --no-pager postrider-agent.service | tail -n 1

step "submit a command to an agent on the same host"
in_root sh -ec 'umask 077; echo "POSTRIDER_JOIN=$(postrider join create)" >/etc/postrider/agent.env'
is systemctl start postrider-agent
until_true "the agent is online" sh -c 'postrider agents --json | grep -q "\"online\":true"'
name=$(in_root postrider agents --json | sed 's/.*"name":"\([^"]*\)".*/\1/')
is postrider run "$name" -- id -un
tells "^root$"
until_true "the status tells of the agent" sh -c 'systemctl show --property=StatusText postrider | grep -q "1 agents"'

step "the journal has priorities and fields"
in_root journalctl --no-pager -u postrider -o cat AGENT="$name" >"$work/out"
tells "^agent connected agent=$name"
in_root journalctl --no-pager -u postrider-agent -o cat -p info TARGET=postrider::agent::link::session >"$work/out"
tells "connected to http"

step "the check, beside the server that runs"
is runuser -u postrider -- postrider serve --check --config /etc/postrider/postrider.toml --data /var/lib/postrider
tells "it would start"

step "a hung server is ended by the watchdog and comes back"
before=$(in_root systemctl show --property=MainPID --value postrider)
is kill -STOP "$before"
restarted=
for _ in $(seq 120); do
    now=$(in_root systemctl show --property=MainPID --value postrider)
    if [ "$now" != 0 ] && [ "$now" != "$before" ] && in_root systemctl --quiet is-active postrider; then restarted=yes; break; fi
    sleep 1
done
[ -n "$restarted" ] || fail "the watchdog did not fire"

step "a wrong configuration ends the start and is not tried again"
is sh -c 'echo "lisen = 1" >>/etc/postrider/postrider.toml'
is_not systemctl restart postrider
is systemctl show --property=NRestarts,Result,ExecMainStatus postrider
tells "ExecMainStatus=2"
is sed -i '/^lisen/d' /etc/postrider/postrider.toml
is systemctl restart postrider
until_true "the agent is back" sh -c 'postrider agents --json | grep -q "\"online\":true"'

step "upgrade: the server is restarted, the agent is not"
server=$(in_root systemctl show --property=MainPID --value postrider)
agent=$(in_root systemctl show --property=MainPID --value postrider-agent)
is dpkg --install /root/new.deb
tells "it would start"
tells "the agent that runs is the earlier one"
is systemctl is-active postrider
[ "$server" != "$(in_root systemctl show --property=MainPID --value postrider)" ] || fail "the server was not restarted"
[ "$agent" = "$(in_root systemctl show --property=MainPID --value postrider-agent)" ] || fail "the agent was restarted"
until_true "the agent is back" sh -c 'postrider agents --json | grep -q "\"online\":true"'
is postrider run "$name" -- true

step "an upgrade that would not start leaves the earlier one running"
server=$(in_root systemctl show --property=MainPID --value postrider)
is sh -c 'echo "lisen = 1" >>/etc/postrider/postrider.toml'
is dpkg --install /root/new.deb
tells "the earlier one was left running"
[ "$server" = "$(in_root systemctl show --property=MainPID --value postrider)" ] || fail "the server was restarted"
is sed -i '/^lisen/d' /etc/postrider/postrider.toml

step "stop: in order, and within its time"
is systemctl stop postrider
is systemctl show --property=Result postrider
tells "Result=success"
is systemctl start postrider

step "remove: everything stops, the data stays"
is dpkg --remove postrider
is_not pgrep -x postrider
is test -s /var/lib/postrider/postrider.db
is test -s /etc/postrider/postrider.toml
is_not test -e /usr/bin/postrider

step "install again: it is as it was"
is dpkg --install /root/new.deb
is systemctl is-enabled postrider
is systemctl start postrider
is postrider commands
tells "$name"

step "purge: the data is gone"
is dpkg --purge postrider
is_not test -e /var/lib/postrider
is_not test -e /var/lib/postrider-agent
is_not test -e /etc/postrider
echo "passed"
