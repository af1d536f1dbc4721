#!/bin/sh
# Builds the newest commit of BRANCH at REMOTE, as the build user: postrider-build.service runs it. What was built is
# out/postrider, and of which commit, in out/commit; without the first there was nothing to build.
set -eu
umask 077
cd /var/lib/postrider-build
known=/var/lib/postrider-deploy
rm -rf out
mkdir out
[ -e clone/.git ] || git init --quiet clone
cd clone
# Nobody else is here: a lock is of a build that was killed.
find .git -name '*.lock' -delete
# A question would wait for ever.
GIT_TERMINAL_PROMPT=0 git fetch --quiet --force --no-tags --depth 1 "$REMOTE" "refs/heads/$BRANCH"
commit=$(git rev-parse --verify --quiet 'FETCH_HEAD^{commit}')
for what in live failed; do
    if grep -qsxF "$commit" "$known/$what"; then
        echo "$commit, the newest of $BRANCH, is $what already: nothing to build"
        exit 0
    fi
done
echo "$commit" >../out/commit
git checkout --quiet --force --detach "$commit"
# What an earlier commit left is not part of this one; what .gitignore names stays, and makes the next build short.
git clean --quiet --force -d
echo "building $commit"
sh -c "$BUILD"
cp -- "$BINARY" ../out/.postrider
mv ../out/.postrider ../out/postrider
