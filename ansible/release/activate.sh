#!/bin/sh
# Let this node use this release: sh /opt/agentd/releases/NAME/activate.sh [--check] INSTANCE...
# INSTANCE is a role (orchestrator, specialist, monitor, mcp-bridge) or [instances.NAME] of the configuration; instances
# that are not named are stopped. Prints what it changes, and nothing if there is nothing to change. With --check nothing
# is changed. An upgrade and a rollback are the same: the new or the old release is activated.
set -eu
umask 022
release=$(dirname "$(readlink -f "$0")")
units=/etc/systemd/system
applied=/etc/agentd/applied
check=false
if [ "${1:-}" = --check ]; then
    check=true
    shift
fi
[ -e "$release/complete" ] || {
    echo "$release is not complete: run its install.sh again" >&2
    exit 1
}

act() { $check || "$@"; }

# What an instance was started with: a run that was interrupted is completed by the next one.
digest() {
    set -- "$1" "$release/systemd/agentd@.service" "$release/systemd/agentd@$1.service.d/role.conf"
    {
        cat "$2" "$3" "$units"/agentd@.service.d/* /etc/agentd/agentd.toml /etc/agentd/conf.d/*.toml /etc/agentd/nats-ca.pem || true
        # Drop-ins of this node, written by systemctl edit.
        find "$units/agentd@$1.service.d" -type f ! -name role.conf -exec cat {} + || true
        # Of the credentials, those that the instance has.
        sed -n "s/%i/$1/; s/^LoadCredentialEncrypted=[^:]*://p" "$2" "$3" | xargs cat || true
    } 2>/dev/null | sha256sum - "$release/complete"
}

(cd "$release/systemd" && find . -path './agentd*' -type f) | while read -r unit; do
    if ! cmp -s "$release/systemd/$unit" "$units/$unit"; then
        echo "unit $units/${unit#./}"
        act install -D -m 644 "$release/systemd/$unit" "$units/$unit"
    fi
done
for unit in "$units"/agentd@*.service.d/role.conf; do
    if [ -e "$unit" ] && ! [ -e "$release/systemd/${unit#"$units/"}" ]; then
        echo "remove $unit"
        act rm "$unit"
    fi
done
# Drop-ins for every instance: of this system, and of this node.
dropin() { # FILE
    to=$units/agentd@.service.d/$(basename "$1")
    cmp -s "$1" "$to" && return
    echo "unit $to"
    act install -D -m 644 "$1" "$to"
}
version=$(systemctl --version | sed -n '1s/systemd \([0-9]*\).*/\1/p')
[ "$version" -lt 253 ] || dropin "$release/systemd/notify-reload.conf"
[ ! -e /etc/agentd/networks.conf ] || dropin /etc/agentd/networks.conf
if [ "$(readlink /opt/agentd/current || true)" != "$release" ]; then
    echo "release $(basename "$release")"
    act touch "$release"
    act ln -sfn "$release" /opt/agentd/current
fi
if [ "$(readlink /usr/local/bin/agentd || true)" != /opt/agentd/current/bin/agentd ]; then
    echo "command /usr/local/bin/agentd"
    act ln -sf /opt/agentd/current/bin/agentd /usr/local/bin/agentd
fi
act systemctl daemon-reload
act install -d -m 700 "$applied"

for link in "$units"/agentd.target.wants/agentd@*.service; do
    instance=$(basename "$link" .service)
    instance=${instance#agentd@}
    case " $* " in
    *" $instance "*) ;;
    *)
        [ -L "$link" ] || continue
        echo "stop $instance"
        act systemctl disable --quiet --now "agentd@$instance"
        act rm -f "$applied/$instance" "/etc/agentd/credentials/$instance.nkey"
        ;;
    esac
done

act systemctl enable --quiet agentd.target
for instance; do
    user=$(sed -n 's/^User=//p' "$release/systemd/agentd@$instance.service.d/role.conf" 2>/dev/null || true)
    if [ -n "$user" ] && ! id "$user" >/dev/null 2>&1; then
        echo "user $user"
        act useradd --system --no-create-home --shell /usr/sbin/nologin "$user"
    fi
    now=$(digest "$instance")
    if [ "$now" = "$(cat "$applied/$instance" 2>/dev/null)" ] && systemctl --quiet is-active "agentd@$instance" &&
        systemctl --quiet is-enabled "agentd@$instance"; then
        continue
    fi
    echo "start $instance"
    $check && continue
    systemctl enable --quiet "agentd@$instance"
    systemctl reset-failed "agentd@$instance" 2>/dev/null || true
    # A stop drains: what runs is finished or handed back. A start has succeeded when every part of the agent works.
    if ! timeout 180 systemctl restart "agentd@$instance"; then
        journalctl --no-pager -q -n 15 -u "agentd@$instance" >&2
        exit 1
    fi
    echo "$now" >"$applied/$instance"
done
act systemctl start agentd.target

# The release before this one stays, for a rollback.
if ! $check; then
    cd "$(dirname "$release")"
    find . -maxdepth 1 -name 'agentd-*' -type d ! -name "$(basename "$release")" -printf '%T@ %f\n' | sort -rn | tail -n +2 |
        while read -r _ old; do
            echo "remove $old"
            rm -rf "./$old"
        done
fi
