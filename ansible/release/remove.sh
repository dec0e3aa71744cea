#!/bin/sh
# Remove agentd and its NATS server from this node: sh remove.sh [--data]
# With --data also what they have stored: the state of the agents, and this server's copy of the streams.
set -eu
remove() {
    for path; do
        if [ -e "$path" ] || [ -L "$path" ]; then
            echo "remove $path"
            rm -rf "$path"
        fi
    done
}
systemctl list-units --all --plain --no-legend 'agentd@*' agentd.target nats-server.service 2>/dev/null |
    while read -r unit _; do
        systemctl disable --quiet --now "$unit" 2>/dev/null || true
    done
for unit in /etc/systemd/system/agentd.target.wants/*; do
    [ ! -L "$unit" ] || systemctl disable --quiet --now "$(basename "$unit")" 2>/dev/null || true
done
remove /etc/systemd/system/agentd* /etc/systemd/system/nats-server.service /etc/agentd /etc/nats /opt/agentd /usr/local/bin/agentd
systemctl daemon-reload
systemctl reset-failed 'agentd@*' nats-server.service 2>/dev/null || true
if [ "${1:-}" = --data ]; then
    for user in agentd-filesystem agentd-mounts; do
        ! id "$user" >/dev/null 2>&1 || { echo "remove user $user" && userdel "$user"; }
    done
    # Commands of root store the schema of the Proxmox API in the last.
    remove /var/lib/agentd /var/lib/nats /var/lib/private/agentd /var/lib/private/nats /root/.local/state/agentd
fi
