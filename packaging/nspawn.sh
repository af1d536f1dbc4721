# A clean Debian root under a systemd of its own, for the tests beside this file, which source it.
#   new_root          makes $root, a copy to put things into, and $work beside it
#   add_packages …    Debian's own, into that copy
#   boot UNIT…        boots it; UNITs are shown when something fails
# Needs root, debootstrap and systemd-nspawn; says so and ends with 77 where they are not there. The clean root is kept in
# /var/cache/postrider-test (POSTRIDER_TEST_CACHE) and never booted itself. One container at a time: the others wait.
# shellcheck shell=bash
cache=${POSTRIDER_TEST_CACHE:-/var/cache/postrider-test}
suite=bookworm
work='' root='' nspawn='' leader=''
units=()

skip() {
    echo "SKIPPED: $*"
    exit 77
}

end() {
    if [ -n "$nspawn" ] && kill -0 "$nspawn" 2>/dev/null; then
        # nspawn hands it on as an orderly poweroff.
        kill -TERM "$nspawn"
        for _ in $(seq 300); do kill -0 "$nspawn" 2>/dev/null || break; sleep 0.1; done
        kill -KILL "$nspawn" 2>/dev/null || true
    fi
    rm -rf "$work"
}

new_root() {
    [ "$(id -u)" = 0 ] || skip "it needs root"
    for tool in debootstrap systemd-nspawn nsenter flock; do
        command -v "$tool" >/dev/null || skip "$tool is not installed"
    done
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock 9
    if [ ! -e "$cache/root/.complete" ]; then
        echo "making a clean $suite root in $cache/root"
        rm -rf "$cache/root"
        debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,adduser "$suite" "$cache/root" >"$cache/debootstrap.log"
        touch "$cache/root/.complete"
    fi
    work=$(mktemp -d "$cache/run.XXXXXX")
    root=$work/root
    trap end EXIT
    cp -a --reflink=auto "$cache/root" "$root"
}

# What was downloaded once is kept beside the clean root.
add_packages() {
    local archives=$root/var/cache/apt/archives
    mkdir -p "$cache/packages"
    rm -f "$archives"/*.deb
    cp "$cache"/packages/*.deb "$archives/" 2>/dev/null || true
    cp --dereference /etc/resolv.conf "$root/etc/resolv.conf"
    if ! DEBIAN_FRONTEND=noninteractive chroot "$root" sh -c 'apt-get --quiet update && apt-get --quiet --yes --no-install-recommends \
        -o Binary::apt-get::APT::Keep-Downloaded-Packages=true install "$@"' - "$@" >"$work/apt" 2>&1; then
        tail -n 5 "$work/apt"
        skip "$* cannot be had from the Debian mirror"
    fi
    cp --no-clobber "$archives"/*.deb "$cache/packages/"
}

boot() {
    units=("$@")
    # No machined is needed, and the network is its own. The lock is ours alone.
    systemd-nspawn --quiet --boot --directory "$root" --machine "postrider-test-$$" --register=no --keep-unit \
        --private-network --console=pipe --kill-signal=SIGRTMIN+4 >"$work/console" 2>&1 </dev/null 9>&- &
    nspawn=$!
    for _ in $(seq 300); do
        leader=$(pgrep -P "$nspawn" | head -n 1 || true)
        [ -n "$leader" ] && grep -q systemd "/proc/$leader/comm" && break
        kill -0 "$nspawn" 2>/dev/null || { cat "$work/console"; echo "FAILED: it did not boot"; exit 1; }
        sleep 0.1
    done
    until_true "systemd came up" systemctl list-units
    step "booted: $(in_root systemctl --version | head -n 1), $(in_root cat /etc/debian_version)"
}

in_root() {
    nsenter --target "$leader" --mount --uts --ipc --net --pid --cgroup --root --wd -- \
        /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive "$@"
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
    in_root systemctl --no-pager status "${units[@]}" || true
    in_root journalctl --no-pager -n 40 || true
    exit 1
}
is() { in_root "$@" >"$work/out" 2>&1 || { cat "$work/out"; fail "$*"; }; }
is_not() { if in_root "$@" >"$work/out" 2>&1; then cat "$work/out"; fail "not: $*"; fi; }
tells() { grep -q -- "$1" "$work/out" || { cat "$work/out"; fail "no \"$1\""; }; }
