#!/bin/sh
# Install the release of a wheelhouse: sh install.sh FILE.tar
# It is the same for the playbook and by hand. It may be repeated: a release that is not complete is installed again.
# Nothing that runs changes: activate.sh and activate-nats.sh of the release do that.
set -eu
umask 022
tar=$(readlink -f "$1")
name=$(basename "$tar" .tar)
place=/opt/agentd/releases/$name
digest=$(sha256sum "$tar" | cut -c -16)
case $name in
*-"$digest") ;;
*)
    echo "$tar: its SHA-256 begins with $digest, not with what its name says: copy it again" >&2
    exit 1
    ;;
esac
# A run that was interrupted may still be installing here.
install -d -m 755 /opt/agentd/releases
exec 9>/opt/agentd/releases/.lock
flock 9
[ ! -e "$place/complete" ] || exit 0
install -d -m 755 /etc/agentd /etc/nats
install -d -m 700 /etc/agentd/credentials /etc/nats/credentials
rm -rf "$place"
mkdir -p "$place"
python3 -m venv "$place"
tar -C "$place" --no-same-owner -xf "$tar"
# Nothing is resolved and nothing is fetched: each wheel comes from the tar, and has the hash that the tar lists.
PIP_CONFIG_FILE=/dev/null "$place/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
    --no-index --no-deps --require-hashes --find-links "$place/wheels" -r "$place/requirements.txt"
"$place/bin/agentd" --version >/dev/null
rm -rf "$place/wheels"
sync -f "$place"
touch "$place/complete"
rm -f "/opt/agentd/releases/$name.tar"
