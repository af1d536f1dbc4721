#!/bin/sh
# Removes the agent of postrider that the server's install script put on this host. Its identity and what it has not
# reported yet stay, unless --purge is given. Asks nobody and needs no network.
set -eu

say() { printf 'postrider: %s\n' "$*"; }

die() {
    printf 'postrider: %s\n' "$*" >&2
    exit 1
}

main() {
    root=${DESTDIR-}
    root=${root%/}
    data=/var/lib/postrider-agent
    purge=''
    case $#:${1-} in
    0:) ;;
    1:--purge) purge=yes ;;
    *) die "it takes --purge (its identity, too), or nothing" ;;
    esac
    if [ -z "$root" ]; then
        [ "$(id -u)" = 0 ] || die "it needs root"
        if grep -qs 'postrider-agent\.service' /proc/self/cgroup; then
            die "a command of the agent cannot remove the agent, which would end it: systemd-run $0 $*"
        fi
        if [ -d /run/systemd/system ] && [ -e /etc/systemd/system/postrider-agent.service ]; then
            systemctl --quiet disable --now postrider-agent || die "systemd does not stop it: systemctl status postrider-agent"
        fi
    fi
    name=$(sed -n 's/^ *"name": "\([^"]*\)".*/\1/p' "$root$data/agent.json" 2>/dev/null || true)
    rm -f "$root/etc/systemd/system/postrider-agent.service"
    if grep -qs /usr/local/bin/postrider "$root"/etc/systemd/system/*.service; then
        say "/usr/local/bin/postrider stays: another unit starts it"
    else
        rm -f "$root/usr/local/bin/postrider"
    fi
    if [ -z "$root" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
    if [ -n "$purge" ]; then
        rm -rf "$root$data"
    elif [ -d "$root$data" ]; then
        say "its identity stays in $root$data; without it a new join string is needed. To delete it: rm -r $root$data"
    fi
    rm -f "$root/usr/local/sbin/postrider-uninstall"
    say "the agent is removed. On the server: postrider agents revoke ${name:-NAME}"
}

main "$@"
