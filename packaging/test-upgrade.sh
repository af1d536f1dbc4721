#!/usr/bin/env bash
# Tries `postrider upgrade` under a real systemd: a clean Debian root, booted with systemd-nspawn, with a server and an agent.
#   packaging/test-upgrade.sh PACKAGE.deb [BINARY]     default: target/debug/postrider
# BINARY must be a debug build: the others are made of it, by a last line that breaks them (src/crash.rs).
# Needs root, debootstrap, systemd-nspawn (see nspawn.sh), strip and minisign; says so and ends with 77 where they are not
# there. Its times are of a debug build.
# shellcheck disable=SC1091,SC2016,SC2154
set -euo pipefail
package=$(realpath "${1:?PACKAGE.deb}") binary=$(realpath "${2:-$(dirname "$0")/../target/debug/postrider}")
. "$(dirname "$0")/nspawn.sh"
for tool in strip minisign; do
    command -v "$tool" >/dev/null || skip "$tool is not installed"
done

new_root
cp "$package" "$root/root/postrider.deb"
strip -o "$work/build" "$binary"
minisign -G -W -s "$work/key" -p "$work/key.pub" >/dev/null
# What is broken in no way that the program knows is good, and differs from the others.
for name in good-1 good-2 start; do
    { cat "$work/build"; printf '\npostrider-break=%s\n' "$name"; } >"$root/root/$name"
    chmod 0755 "$root/root/$name"
    minisign -S -W -s "$work/key" -m "$root/root/$name" >/dev/null
done
boot postrider postrider-rollback postrider-agent

releases=/usr/local/lib/postrider/releases
served() { is timeout 90 postrider run web-1 -- true; }
live() { in_root readlink "$releases/current"; }
agent_pid() { in_root systemctl show --property=MainPID --value postrider-agent; }
upgrade() { in_root postrider upgrade "$@" >"$work/out" 2>&1; }
ended() { in_root postrider upgrade --history --json | tail -n 1 | grep -q "\"ended\":\"$1\"" || fail "the last did not end as $1"; }
pause() { in_root postrider upgrade --history --json | tail -n 1 | grep -o '"pause_ms":[0-9]*' || true; }

step "a server from the package, and an agent on the same host"
is dpkg --install /root/postrider.deb
is sh -c "echo 'release_key = \"$(tail -n 1 "$work/key.pub")\"' >>/etc/postrider/postrider.toml"
is systemctl enable --now postrider
is sh -ec 'umask 077; echo "POSTRIDER_JOIN=$(postrider join create)" >/etc/postrider/agent.env'
is mkdir -p /etc/systemd/system/postrider-agent.service.d
is sh -c 'printf "[Service]\nExecStart=\nExecStart=/usr/bin/postrider agent --data %%S/postrider-agent --name web-1\n" >/etc/systemd/system/postrider-agent.service.d/name.conf'
is systemctl daemon-reload
is systemctl start postrider-agent
until_true "the agent is online" sh -c 'postrider agents --json | grep -q "\"online\":true"'
served
agent=$(agent_pid)
in_root systemd-analyze security --no-pager postrider.service | tail -n 1

step "what is not signed is not taken"
is sh -c 'cp /root/good-1 /root/unsigned'
upgrade /root/unsigned && fail "it was taken"
tells "what is not signed is not taken"

step "a good upgrade"
upgrade /root/good-1 || { cat "$work/out"; fail "the upgrade"; }
grep answers "$work/out"
pause
first=$(in_root readlink "$releases/previous")
good=$(live)
is sh -c "readlink /proc/\$(systemctl show --property=MainPID --value postrider)/exe"
tells "^$releases/$good/postrider$"
is readlink -f /usr/local/bin/postrider
tells "^$releases/$good/postrider$"
served
# The rollback unit names what the first upgrade makes.
is systemd-analyze verify postrider.service postrider-rollback.service
[ ! -s "$work/out" ] || { cat "$work/out"; fail "systemd-analyze verify has something to say"; }
in_root systemctl show --property=User,NRestarts postrider >"$work/out"
tells "^User=postrider$"

step "a binary that panics at its start is taken back by itself"
code=0
upgrade /root/start || code=$?
[ "$code" = 1 ] || { cat "$work/out"; fail "exit code $code"; }
tells "broken by a test"
tells "was taken back, $good runs again"
grep answers "$work/out"
pause
ended rolled_back
[ "$(live)" = "$good" ] || fail "$(live) is live"
served

step "killed after the swap: undone by the next start"
code=0
in_root env POSTRIDER_CRASH_AT=upgrade.swapped postrider upgrade /root/good-2 >"$work/out" 2>&1 || code=$?
[ "$code" = 137 ] || { cat "$work/out"; fail "exit code $code"; }
[ "$(live)" != "$good" ] || fail "nothing was swapped"
is systemctl restart postrider
ended undone
[ "$(live)" = "$good" ] || fail "$(live) is live"
is_not test -e "$releases/upgrade.json"
in_root journalctl --no-pager -u postrider -o cat >"$work/out"
tells "was cut off: it is undone, $good runs again"
served

step "killed when the new one runs but has not proven itself: the same"
code=0
in_root env POSTRIDER_CRASH_AT=upgrade.started postrider upgrade /root/good-2 >"$work/out" 2>&1 || code=$?
[ "$code" = 137 ] || { cat "$work/out"; fail "exit code $code"; }
is systemctl restart postrider
ended undone
[ "$(live)" = "$good" ] || fail "$(live) is live"
served

step "a fresh release that begins to crash is taken back when systemd gives it up"
# The unit's own limit, sooner.
is mkdir -p /etc/systemd/system/postrider.service.d
is sh -c 'printf "[Service]\nRestartSec=200ms\n" >/etc/systemd/system/postrider.service.d/soon.conf'
is systemctl daemon-reload
upgrade /root/good-2 || { cat "$work/out"; fail "the upgrade"; }
pause
served
crashing=$(live)
is sh -ec "cp /root/start $releases/current/.postrider; mv $releases/current/.postrider $releases/current/postrider"
began=$(date +%s%N)
is systemctl kill --signal=KILL postrider
until_true "$good is back" sh -c "test \"\$(readlink $releases/current)\" = $good"
until_true "the rollback has ended" sh -c "systemctl show --property=ActiveState postrider-rollback | grep -q inactive"
echo "from the first crash to the end of the rollback: $((($(date +%s%N) - began) / 1000000)) ms"
ended went_back
pause
served
in_root journalctl --no-pager -u postrider-rollback -o cat >"$work/out"
tells "$crashing"

step "what was gone back to is no fresh release: if it crashes too, systemd's word is the last"
is sh -ec "cp /root/start $releases/current/.postrider; mv $releases/current/.postrider $releases/current/postrider"
is systemctl kill --signal=KILL postrider
until_true "it was given up" systemctl is-failed postrider
until_true "the rollback looked and did nothing" sh -c "journalctl -u postrider-rollback -o cat | grep -q 'no fresh release'"
[ "$(live)" = "$good" ] || fail "$(live) is live"
is sh -ec "cp /root/good-1 $releases/current/.postrider; mv $releases/current/.postrider $releases/current/postrider"
is systemctl reset-failed postrider
is systemctl start postrider
served
[ "$agent" = "$(agent_pid)" ] || fail "the agent was restarted"
is postrider upgrade --history
cut -c 1-150 "$work/out"
echo "first: $first"

step "purge: nothing is left"
is dpkg --purge postrider
is_not pgrep -x postrider
for path in /usr/local/lib/postrider /usr/local/bin/postrider /usr/bin/postrider /var/lib/postrider /etc/postrider; do
    is_not test -e "$path"
    is_not test -L "$path"
done
in_root ls /var/backups/postrider
echo "passed"
