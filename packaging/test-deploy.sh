#!/usr/bin/env bash
# Tries the deployment from git under a real systemd: a clean Debian root, booted with systemd-nspawn, with a server, an
# agent, a bare repository, and Debian's webhook daemon that gets signed push events by curl.
#   packaging/test-deploy.sh PACKAGE.deb [BINARY]     default: target/debug/postrider
# A build of the whole program is too heavy here, so BUILD, which deploy.conf documents, is a script in the repository: it makes
# the executable of BINARY, a debug build made before, with the commit's `break` as its last line (src/crash.rs), and fails where
# the commit says so. All the rest is as it is installed.
# Needs root, debootstrap, systemd-nspawn (see nspawn.sh), strip, openssl and a Debian mirror; says so and ends with 77 where
# they are not there. Its times are of a debug build.
# shellcheck disable=SC1091,SC2016,SC2154
set -euo pipefail
package=$(realpath "${1:?PACKAGE.deb}") binary=$(realpath "${2:-$(dirname "$0")/../target/debug/postrider}")
here=$(realpath "$(dirname "$0")")
. "$here/nspawn.sh"
for tool in strip openssl; do
    command -v "$tool" >/dev/null || skip "$tool is not installed"
done

new_root
add_packages webhook git curl minisign
cp "$package" "$root/root/postrider.deb"
mkdir "$root/root/deploy"
cp "$here"/deploy/* "$root/root/deploy/"
strip -o "$root/opt/prebuilt" "$binary"
boot postrider postrider-agent postrider-webhook postrider-deploy.path postrider-deploy postrider-build

releases=/usr/local/lib/postrider/releases
secret=$(openssl rand -hex 32)
served() { is timeout 90 postrider run web-1 -- true; }
live() { in_root readlink "$releases/current"; }
runs() { in_root journalctl --no-pager -u postrider-deploy -o cat -g '^Finished|^Failed to start' 2>/dev/null | wc -l; }
builds() { in_root journalctl --no-pager -u postrider-build -o cat -g '^building' 2>/dev/null | wc -l; }
# Makes what `break` says the newest commit, and prints it.
commit() {
    in_root sh -ec "cd /root/clone && echo '$1' >break && git commit -qam '$1' && git push -q origin HEAD:${2:-main} && git rev-parse HEAD"
}
body() { printf '{"ref":"refs/heads/%s","after":"%s"}' "${2:-main}" "$1"; }
hmac() { printf %s "$1" | openssl dgst -sha256 -hmac "${2:-$secret}" -hex | sed 's/.*= //'; }
# An event as GitHub, Gitea and GitLab send it. Prints the status.
send() {
    in_root curl --silent --output /dev/null --write-out '%{http_code}' --header 'Content-Type: application/json' \
        --data "$1" "${@:3}" "http://127.0.0.1:7718/deploy/$2"
}
github() { send "$1" github --header "X-GitHub-Event: push" --header "X-Hub-Signature-256: sha256=$(hmac "$1" "${2:-$secret}")"; }
gitea() { send "$1" gitea --header "X-Gitea-Event: push" --header "X-Gitea-Signature: $(hmac "$1" "${2:-$secret}")"; }
gitlab() { send "$1" gitlab --header "X-Gitlab-Event: Push Hook" --header "X-Gitlab-Token: ${2:-$secret}"; }
taken() { [ "$1" = 200 ] || fail "the event was answered with $1"; }
# How many runs of the deployment there were, when one more has ended.
one_more() {
    for _ in $(seq 1200); do
        if [ "$(runs)" -gt "$1" ] && ! in_root systemctl show --property=ActiveState postrider-deploy | grep -q activating; then return 0; fi
        sleep 0.1
    done
    fail "the deployment did not run to its end"
}
says() { in_root journalctl --no-pager -u postrider-deploy -u postrider-build -o cat >"$work/out"; tells "$1"; }

step "a server from the package, and an agent on the same host"
is dpkg --install /root/postrider.deb
is systemctl enable --now postrider
is sh -ec 'umask 077; echo "POSTRIDER_JOIN=$(postrider join create)" >/etc/postrider/agent.env'
is mkdir -p /etc/systemd/system/postrider-agent.service.d
is sh -c 'printf "[Service]\nExecStart=\nExecStart=/usr/bin/postrider agent --data %%S/postrider-agent --name web-1\n" >/etc/systemd/system/postrider-agent.service.d/name.conf'
is systemctl daemon-reload
is systemctl start postrider-agent
until_true "the agent is online" sh -c 'postrider agents --json | grep -q "\"online\":true"'
served
agent=$(in_root systemctl show --property=MainPID --value postrider-agent)

step "the MSP's own clone"
# Root pushes what the build user fetches.
is git config --system --add safe.directory '*'
is git config --system user.email ann@msp.example
is git config --system user.name ann
is git init -q --bare --initial-branch=main /srv/postrider.git
is git init -q --initial-branch=main /root/clone
is git -C /root/clone remote add origin /srv/postrider.git
cat >"$root/root/clone/make.sh" <<'END'
set -eu
grep -q compile break && { echo "error: this commit does not compile" >&2; exit 101; }
id -un
for secret in /etc/postrider/release.key /etc/postrider/deploy.conf /var/lib/postrider/owner.token; do
    [ ! -r "$secret" ] || echo "SEEN: $secret"
done
[ -z "${HOOK_SECRET:-}" ] || echo "SEEN: HOOK_SECRET"
[ "$(cat break)" != good-2 ] || sleep 5
cat /opt/prebuilt >built
printf '\npostrider-break=%s\n' "$(cat break)" >>built
chmod 0755 built
END
echo built >"$root/root/clone/.gitignore"
is sh -ec 'cd /root/clone && touch break && git add . && git commit -qm first'

step "set up as the README says"
is sh /root/deploy/set-up.sh
is sed -i -e 's,^REMOTE=.*,REMOTE=file:///srv/postrider.git,' -e 's,^BUILD=.*,BUILD=sh ./make.sh,' -e 's,^BINARY=.*,BINARY=built,' \
    /etc/postrider/deploy.conf
is sh -c 'echo "release_key = \"$(tail -n 1 /etc/postrider/release.pub)\"" >>/etc/postrider/postrider.toml'
is_not systemctl start postrider-webhook
in_root journalctl --no-pager -u postrider-webhook -o cat >"$work/out"
tells "fewer than 32 characters"
is sed -i "s,^HOOK_SECRET=.*,HOOK_SECRET=$secret," /etc/postrider/deploy.conf
is systemctl enable --now postrider-webhook postrider-deploy.path
is systemd-analyze verify postrider-webhook.service postrider-build.service postrider-deploy.service postrider-deploy.path
[ ! -s "$work/out" ] || { cat "$work/out"; fail "systemd-analyze verify has something to say"; }
is stat --format=%U:%a /etc/postrider/deploy.conf /etc/postrider/release.key
[ "$(tr '\n' ' ' <"$work/out")" = "root:600 root:600 " ] || fail "rights: $(cat "$work/out")"
for unit in postrider-webhook postrider-build postrider-deploy; do
    in_root systemd-analyze security --no-pager "$unit.service" | tail -n 1
done
until_true "the webhook daemon listens" curl --silent http://127.0.0.1:7718/

step "a good commit goes live"
good=$(commit good-1)
began=$(date +%s%N)
taken "$(github "$(body "$good")")"
one_more 0
echo "from the event to the end of the upgrade: $((($(date +%s%N) - began) / 1000000)) ms"
is cat /var/lib/postrider-deploy/live
tells "^$good$"
says "^postrider-build$"
is postrider upgrade --history
tells upgraded
running=$(live)
is sh -c "tail -n 1 $releases/current/postrider"
tells "^postrider-break=good-1$"
served

step "the same event again, and another branch: nothing is built"
before=$(runs)
taken "$(github "$(body "$good")")"
one_more "$before"
says "is live already: nothing to build"
[ "$(builds)" = 1 ] || fail "$(builds) builds"
other=$(commit start side)
before=$(runs)
[ "$(github "$(body "$other" side)")" = 403 ] || fail "an event of another branch was taken"
is git -C /root/clone reset -q --hard "$good"

step "what is signed wrongly or not at all is refused"
forged=$(body "$other")
for status in "$(github "$forged" wrong)" "$(gitea "$forged" wrong)" "$(gitlab "$forged" wrong)" \
    "$(send "$forged" gitlab --header "X-Gitlab-Event: Push Hook" --header "X-Gitlab-Token;")" \
    "$(send "$forged" github --header "X-GitHub-Event: push")" "$(send "$forged" gitlab --header "X-Gitlab-Event: Push Hook")" \
    "$(send "$forged" github --header "X-GitHub-Event: push" --header "X-Hub-Signature-256;")"; do
    echo "answered with $status"
    [ "$status" -ge 400 ] || fail "a forged event was taken"
done
is_not test -e /run/postrider-deploy/requested
[ "$before" = "$(runs)" ] || fail "a forged event made the deployment run"

step "a commit that panics at its start is taken back by itself"
bad=$(commit start)
before=$(runs)
taken "$(gitea "$(body "$bad")")"
one_more "$before"
says "broken by a test"
says "was taken back, $running runs again"
says "$bad failed: the upgrade ended with 1"
[ "$(live)" = "$running" ] || fail "$(live) is live"
is postrider upgrade --history --json
tells '"ended":"rolled_back"'
served

step "it is not tried again"
before=$(runs)
taken "$(gitea "$(body "$bad")")"
one_more "$before"
says "is failed already: nothing to build"
[ "$(builds)" = 2 ] || fail "$(builds) builds"

step "a commit that does not compile changes nothing"
server=$(in_root systemctl show --property=MainPID --value postrider)
broken=$(commit "does not compile")
before=$(runs)
taken "$(gitlab "$(body "$broken")")"
one_more "$before"
says "error: this commit does not compile"
says "$broken failed: it does not build, nothing was changed"
[ "$server" = "$(in_root systemctl show --property=MainPID --value postrider)" ] || fail "the server was restarted"
served

step "pushes while a build runs are one more build, of the newest commit"
built=$(builds)
newest=$(commit good-2)
taken "$(github "$(body "$newest")")"
until_true "the build has begun" sh -c "journalctl -u postrider-build -o cat | grep -q 'building $newest'"
for name in good-3 good-4; do
    newest=$(commit "$name")
    taken "$(github "$(body "$newest")")"
done
until_true "the newest is live" grep -q "$newest" /var/lib/postrider-deploy/live
until_true "the deployment has ended" sh -c "systemctl show --property=ActiveState postrider-deploy | grep -q inactive"
[ "$(($(builds) - built))" = 2 ] || fail "3 pushes: $(($(builds) - built)) builds"
is sh -c "tail -n 1 $releases/current/postrider"
tells "^postrider-break=good-4$"
is_not test -e /var/lib/postrider-deploy/failed
served

step "the build sees no key, no secret and nothing of the server"
in_root journalctl --no-pager -u postrider-build -o cat >"$work/out"
if grep SEEN "$work/out"; then fail "the build has seen something"; fi
[ "$agent" = "$(in_root systemctl show --property=MainPID --value postrider-agent)" ] || fail "the agent was restarted"
served
is postrider upgrade --history
cut -c 1-110 "$work/out"
echo "passed"
