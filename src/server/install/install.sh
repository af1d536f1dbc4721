
set -eu

# Everything is a function and the last line calls one: a script that was cut off does nothing.

say() { printf 'postrider: %s\n' "$*"; }

die() {
    printf 'postrider: %s\n' "$*" >&2
    exit 1
}

usage() {
    die "after 'sh -s --' it takes --name NAME and --tag KEY=VALUE (may be repeated): what the agent enrolls with. To remove an agent, run $uninstaller on its host"
}

clean() {
    [ -z "${work-}" ] || rm -rf "$work"
    [ -z "${fresh-}" ] || rm -f "$fresh"
}

main() {
    root=${DESTDIR-}
    root=${root%/}
    binary=/usr/local/bin/postrider
    uninstaller=/usr/local/sbin/postrider-uninstall
    unit_file=/etc/systemd/system/postrider-agent.service
    data=/var/lib/postrider-agent
    work='' fresh='' changed=''
    for given; do
        case ${wants-} in
        value) wants='' ;;
        *)
            case $given in
            --name | --tag) wants=value ;;
            --name=* | --tag=*) ;;
            *) usage ;;
            esac
            ;;
        esac
    done
    [ -z "${wants-}" ] || usage
    check_host
    umask 022
    trap clean EXIT
    trap 'exit 1' HUP INT TERM
    work=$(mktemp -d "${TMPDIR:-/tmp}/postrider.XXXXXX") || die "it needs a temporary folder: set TMPDIR to one that can be written"
    check_identity
    install_binary
    printf '%s\n' "$uninstall" >"$work/uninstall"
    put "$work/uninstall" "$uninstaller" 0755
    if [ -n "$root" ] || [ -d /etc/systemd/system ]; then
        printf '%s\n' "$unit" >"$work/unit"
        put "$work/unit" "$unit_file" 0644
    fi
    enroll "$@"
    start
}

check_host() {
    if [ -z "$root" ]; then
        [ "$(id -u)" = 0 ] || die "it needs root: run the line in a root shell, or with 'sudo sh' at its end"
        if grep -qs 'postrider-agent\.service' /proc/self/cgroup; then
            die "a command of the agent cannot replace the agent, which would end it: start the line with systemd-run"
        fi
        if [ -e /usr/bin/postrider ]; then
            die "this host has postrider's package: write the join string to /etc/postrider/agent.env and start postrider-agent (see OPERATIONS.md), or remove the package"
        fi
    fi
    [ "$(uname -s)" = Linux ] || die "it installs on Linux; this is $(uname -s)"
    for tool in curl sha256sum mktemp timeout sed grep cmp; do
        command -v "$tool" >/dev/null || die "it needs $tool: install it first"
    done
    case $(uname -m) in
    x86_64 | amd64) platform=linux-x86_64 ;;
    aarch64 | arm64) platform=linux-aarch64 ;;
    *) platform=linux-$(uname -m) ;;
    esac
    executable "$platform"
}

# An agent that has enrolled keeps its identity, and the join string is not used.
check_identity() {
    enrolled=''
    grep -qs '"agent_id": "' "$root$data/agent.json" || return 0
    grep -q "\"server_id\": \"$server_id\"" "$root$data/agent.json" ||
        die "this host has an agent of another server: remove it first, with $uninstaller --purge"
    enrolled=yes
}

# The join string goes through a pipe: arguments are seen in the list of processes.
fetch() {
    set -- "$1" "$2" -fsS --retry 3 --connect-timeout 20
    if [ -n "$authority" ]; then
        printf '%s\n' "$authority" >"$work/authority.pem"
        set -- "$@" --cacert "$work/authority.pem" --connect-to "$connect_to"
    fi
    path=$1 to=$2
    shift 2
    printf 'header = "Authorization: Bearer %s"\n' "$join" | curl --config - "$@" --output "$to" "$url$path"
}

hash_of() { sha256sum <"$1" | cut -d ' ' -f 1; }

install_binary() {
    if [ -f "$root$binary" ] && [ ! -L "$root$binary" ] && [ "$(hash_of "$root$binary")" = "$sha256" ]; then
        chmod 0755 "$root$binary"
        return 0
    fi
    # The server may have been installed there by hand.
    if [ -e "$root$binary" ] && [ ! -e "$root$uninstaller" ]; then
        die "this host has another $binary, which did not come by this line: move it away first"
    fi
    mkdir -p "$root${binary%/*}" || die "$root${binary%/*} cannot be made"
    # Beside its place, so that it takes that in one step.
    fresh=$(mktemp "$root${binary%/*}/.postrider.XXXXXX") || die "$root${binary%/*} cannot be written"
    say "downloading $bytes bytes for $platform from $shown"
    fetch "/install/binary/$platform" "$fresh" || die "the executable could not be downloaded; nothing was installed"
    [ "$(hash_of "$fresh")" = "$sha256" ] ||
        die "the executable is not the one that the server promised: cut off, changed on its way, or replaced at the server meanwhile. Nothing was installed; run the line again"
    chmod 0755 "$fresh"
    "$fresh" --version </dev/null >"$work/version" 2>&1 ||
        die "the executable does not run on this host ($(head -n 1 "$work/version")). Nothing was installed; a static one in the server's folder agents/ runs on any distribution"
    mv -f "$fresh" "$root$binary" || die "$root$binary cannot be replaced"
    fresh='' changed=yes
}

# A small file, whole or not at all: FROM TO MODE.
put() {
    if cmp -s "$1" "$root$2"; then return 0; fi
    mkdir -p "$root${2%/*}" || die "$root${2%/*} cannot be made"
    fresh=$(mktemp "$root${2%/*}/.postrider.XXXXXX") || die "$root${2%/*} cannot be written"
    { cat "$1" >"$fresh" && chmod "$3" "$fresh" && mv -f "$fresh" "$root$2"; } || die "$root$2 cannot be written"
    fresh='' changed=yes
}

has_systemd() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

enroll() {
    [ -z "$enrolled" ] || return 0
    # One that knocks in vain holds the folder.
    if has_systemd; then systemctl --quiet stop postrider-agent 2>/dev/null || true; fi
    # Root alone reads a process's environment.
    POSTRIDER_JOIN=$join timeout 120 "$root$binary" agent --data "$root$data" --enroll-only "$@" </dev/null ||
        die "the agent is installed and has not enrolled: see above"
    changed=yes
}

start() {
    name=$(sed -n 's/^ *"name": "\([^"]*\)".*/\1/p' "$root$data/agent.json")
    if ! has_systemd; then
        say "$name is installed and enrolled. There is no systemd here: have your init start, as root,"
        say "    $root$binary agent --data $root$data"
        return 0
    fi
    systemctl daemon-reload
    systemctl --quiet enable postrider-agent
    if [ -z "$changed" ] && systemctl --quiet is-active postrider-agent; then
        say "$name runs already, and is as the server has it: nothing was changed"
        return 0
    fi
    systemctl restart postrider-agent || die "systemd cannot start it: systemctl status postrider-agent"
    run=$(systemctl show --property=InvocationID --value postrider-agent)
    waited=0
    while [ "$waited" -lt 60 ]; do
        journal | grep -Eq '^connected to |"message":"connected to ' && break
        systemctl --quiet is-active postrider-agent || waited=60
        sleep 1
        waited=$((waited + 1))
    done
    if ! journal | grep -Eq '^connected to |"message":"connected to '; then
        journal | tail -n 20 >&2
        die "the agent was started and has not connected; above is what it says (journalctl -u postrider-agent)"
    fi
    say "$name is connected to $shown. To remove it: $uninstaller"
}

journal() { journalctl --quiet --no-pager --output=cat "_SYSTEMD_INVOCATION_ID=$run" 2>/dev/null || true; }

main "$@"
