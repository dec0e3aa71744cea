#!/bin/sh
# Let this node's NATS server use this release and the files in /etc/nats: sh activate-nats.sh [--check] [--first]
# Prints what it changes, and nothing if there is nothing to change. With --check nothing is changed. With --first a
# server that runs is left alone: the servers of a new cluster start together, and restart one after the other. Only
# if it trusts none of the authorities in ca.pem it restarts with the others: it could not connect to them afterwards.
set -eu
umask 022
release=$(dirname "$(readlink -f "$0")")
unit=/etc/systemd/system/nats-server.service
applied=/etc/nats/applied
check=false
first=false
for option; do
    case $option in
    --check) check=true ;;
    --first) first=true ;;
    esac
done

running() { systemctl --quiet is-active nats-server; }

# Users can change while the server runs; everything else needs a restart.
digest() {
    cat /etc/nats/nats-server.conf /etc/nats/ca.pem /etc/nats/server.pem /etc/nats/credentials/server.key \
        "$release/systemd/nats-server.service" "$release/bin/nats-server" 2>/dev/null | sha256sum
}
users() { sha256sum </etc/nats/agentd-users.conf; }

note() {
    install -d -m 700 "$applied"
    digest >"$applied/server"
    users >"$applied/users"
    cp /etc/nats/ca.pem "$applied/ca.pem"
}

# The first line of a certificate has its serial number.
trusted() { sed -n '/BEGIN/{n;p}' "$applied/ca.pem" 2>/dev/null | grep -Fxqf - /etc/nats/ca.pem; }

if $first && running && trusted; then
    exit 0
fi
if ! running || [ "$(digest)" != "$(cat "$applied/server" 2>/dev/null)" ]; then
    echo "start nats-server"
    $check && exit 0
    cmp -s "$release/systemd/nats-server.service" "$unit" || cp "$release/systemd/nats-server.service" "$unit"
    cp "$release/bin/nats-server" /opt/agentd/nats-server.new
    mv /opt/agentd/nats-server.new /opt/agentd/nats-server
    systemctl daemon-reload
    systemctl enable --quiet nats-server
    systemctl reset-failed nats-server 2>/dev/null || true
    systemctl restart nats-server
    note
elif [ "$(users)" != "$(cat "$applied/users" 2>/dev/null)" ]; then
    echo "reload nats-server"
    $check && exit 0
    systemctl reload nats-server
    note
fi
$first && exit 0
# Healthy: every stream of this server is current, so that the next server may restart.
for _ in $(seq 120); do
    if python3 -c 'import urllib.request as r; r.urlopen("http://127.0.0.1:8222/healthz", timeout=2)' 2>/dev/null; then
        exit 0
    fi
    sleep 0.5
done
journalctl --no-pager -q -n 15 -u nats-server >&2
exit 1
