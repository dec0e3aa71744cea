#!/bin/sh
# Install the release of a wheelhouse: sh install.sh FILE.tar
# It is the same for the playbook and by hand. It may be repeated: a release that is not complete is made anew.
# The release goes to /opt/agentd/releases/NAME; it is used when /opt/agentd/current is a link to it.
set -eu
umask 022
tar=$(readlink -f "$1")
name=$(basename "$tar" .tar)
place=${AGENTD_PREFIX:-/opt/agentd}/releases/$name
digest=$(sha256sum "$tar" | cut -c -16)
case $name in
*-"$digest") ;;
*)
    echo "$tar: its SHA-256 begins with $digest, not with what its name says: copy it again" >&2
    exit 1
    ;;
esac
[ -e "$place/complete" ] && exit 0
rm -rf "$place"
mkdir -p "$place/house"
tar -C "$place/house" --no-same-owner -xf "$tar"
python3 -m venv "$place"
# Nothing is resolved and nothing fetched: each wheel is one of the tar, and has its hash.
PIP_CONFIG_FILE=/dev/null "$place/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
    --no-index --no-deps --require-hashes --find-links "$place/house/wheels" -r "$place/house/requirements.txt"
"$place/bin/agentd" --version >/dev/null
rm -rf "$place/house"
sync -f "$place"
touch "$place/complete"
