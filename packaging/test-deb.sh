#!/usr/bin/env bash
# Tries the Debian package under a real systemd: a clean Debian root, booted with systemd-nspawn.
#   packaging/test-deb.sh PACKAGE.deb NEWER.deb
# Needs root, debootstrap and systemd-nspawn; says so and ends with 77 where they are not there. The clean root is kept in
# /var/cache/postrider-test (POSTRIDER_TEST_CACHE) and never booted itself: each run boots a copy.
set -euo pipefail
old=$(realpath "${1:?PACKAGE.deb}") new=$(realpath "${2:?NEWER.deb}")
cache=${POSTRIDER_TEST_CACHE:-/var/cache/postrider-test}
suite=bookworm

skip() {
    echo "SKIPPED: $*"
    exit 77
}
[ "$(id -u)" = 0 ] || skip "it needs root"
for tool in debootstrap systemd-nspawn nsenter; do
    command -v "$tool" >/dev/null || skip "$tool is not installed"
done

if [ ! -e "$cache/root/.complete" ]; then
    echo "making a clean $suite root in $cache/root"
    mkdir -p "$cache"
    rm -rf "$cache/root"
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,adduser "$suite" "$cache/root" >"$cache/debootstrap.log"
    touch "$cache/root/.complete"
fi

work=$(mktemp -d "$cache/run.XXXXXX")
root=$work/root machine=postrider-test-$$
nspawn=
end() {
    if [ -n "$nspawn" ] && kill -0 "$nspawn" 2>/dev/null; then
        # nspawn hands it on as an orderly poweroff.
        kill -TERM "$nspawn"
        for _ in $(seq 300); do kill -0 "$nspawn" 2>/dev/null || break; sleep 0.1; done
        kill -KILL "$nspawn" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap end EXIT
cp -a --reflink=auto "$cache/root" "$root"
cp "$old" "$root/root/old.deb"
cp "$new" "$root/root/new.deb"

# No machined is needed, and the network is its own.
systemd-nspawn --quiet --boot --directory "$root" --machine "$machine" --register=no --keep-unit --private-network \
    --console=pipe --kill-signal=SIGRTMIN+4 >"$work/console" 2>&1 </dev/null &
nspawn=$!

leader=
for _ in $(seq 300); do
    leader=$(pgrep -P "$nspawn" | head -n 1 || true)
    [ -n "$leader" ] && grep -q systemd "/proc/$leader/comm" && break
    kill -0 "$nspawn" 2>/dev/null || { cat "$work/console"; echo "FAILED: it did not boot"; exit 1; }
    sleep 0.1
done
in_root() {
    nsenter --target "$leader" --mount --uts --ipc --net --pid --cgroup --root --wd -- \
        /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive "$@"
}
until_true() {
    local what=$1
    shift
    for _ in $(seq 300); do
        if in_root "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.1
    done
    fail "$what"
}
step() { echo "-- $*"; }
fail() {
    echo "FAILED: $*"
    in_root systemctl --no-pager status postrider postrider-agent || true
    in_root journalctl --no-pager -n 40 || true
    exit 1
}
is() { in_root "$@" >"$work/out" 2>&1 || { cat "$work/out"; fail "$*"; }; }
is_not() { if in_root "$@" >"$work/out" 2>&1; then cat "$work/out"; fail "not: $*"; fi; }
tells() { grep -q -- "$1" "$work/out" || { cat "$work/out"; fail "no \"$1\""; }; }

until_true "systemd came up" systemctl list-units
step "booted: $(in_root systemctl --version | head -n 1), $(in_root cat /etc/debian_version)"

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
