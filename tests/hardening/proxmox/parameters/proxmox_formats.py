"""Formats of Proxmox VE 9.2, written down apart from the types that are tested."""

from __future__ import annotations

import typing
from typing import Any, Final

from agentd import formats

LABEL: Final = "[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
CONFIG_ID: Final = "[A-Za-z][A-Za-z0-9_-]+"
REALM: Final = "[A-Za-z][A-Za-z0-9._-]+"
STORAGE: Final = "[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]"
OCTET: Final = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
IP4: Final = rf"{OCTET}\.{OCTET}\.{OCTET}\.{OCTET}"
IP6: Final = "([0-9a-f]{1,4}:){7}[0-9A-F]{1,4}|[0-9a-f]{1,4}::[0-9a-f]{1,4}|::1"
CIDR4: Final = f"{IP4}/([89]|[12][0-9]|3[0-2])"
CIDR6: Final = f"({IP6})/([89]|[1-9][0-9]|1[01][0-9]|12[0-8])"
ORDER: Final = "((order=|up=|down=)[0-9]+|[1-9][0-9]*)(,(order=|up=|down=)?[0-9]+){0,4}"


class Format(typing.NamedTuple):
    """A format as Proxmox has it: what it takes, what it refuses, and which parameters hold it.

    free: a text of any language, so that digits of other scripts are as good as all else
    """

    kind: Any
    takes: str
    refuses: list[str]
    places: str
    most: int | None = None
    free: bool = False


FORMATS: Final = {
    "node": Format(
        formats.Node,
        LABEL,
        ["", "-a", "a-", "a.b", "a_b", "a b"],
        "*.node *.nodes migrate_guest.target check_migration.target create_replication.target move_osd_data.host "
        "move_osd_data.through",
    ),
    "guest": Format(
        formats.GuestName,
        rf"{LABEL}(\.{LABEL}){{0,3}}",
        ["", "web_1", "a.", "-a", "a..b", ".a", "a-.b"],
        "create_vm.name clone_container.name create_container.name update_vm.name restore_backup.name *.hostname",
        255,
    ),
    "storage": Format(
        formats.Storage,
        STORAGE,
        ["", "a", "1a", "a_", "a-", "a/b", "a:b"],
        "*.storage *.storages *.target_storage create_local_storage.name get_zfs_status.pool",
    ),
    "volume": Format(
        formats.Volume,
        f"{STORAGE}:[^,]+",
        ["local", "local:", ":a", "1a:b", "local:a,b", "local:a\x00b", "a:b"],
        "*.iso *.image *.volume delete_volume.volid",
        255,
        free=True,
    ),
    "backup": Format(
        formats.Backup,
        f"{STORAGE}:backup/[^,]+",
        ["local:iso/a.iso", "local:backup/", "a:backup/b", "local:backup/a,b"],
        "set_backup_notes.volid set_backup_protection.volid inspect_backup.volid restore_backup.volid "
        "restore_over_guest.volid",
        255,
        free=True,
    ),
    "config id": Format(
        formats.ConfigId,
        CONFIG_ID,
        ["", "a", "1a", "a.b", "-a", "a b", "_a"],
        "*_ha_rule.name *_ha_group.name *_ha_resource.group create_mail_target.name create_metric_server.name "
        "set_notification_matcher.name set_notification_matcher.targets "
        "delete_notification_*.name delete_metric_server.name test_notification.name",
    ),
    "snapshot": Format(
        formats.Snapshot,
        CONFIG_ID,
        ["", "a", "1a", "a.b", "a" * 41],
        "*_snapshot.name",
        40,
    ),
    "backup job": Format(formats.NewBackupJob, CONFIG_ID, ["", "a", "1a", "a.b", "a" * 51], "create_backup_job.id", 50),
    "replication": Format(
        formats.Replication,
        "[1-9][0-9]{2,8}-[0-9]{1,9}",
        ["99-0", "100", "100-", "099-1", "100-0 "],
        "*_replication.id get_replication.id",
    ),
    "tag": Format(
        formats.Tag,
        "[A-Za-z0-9_][A-Za-z0-9_+.-]*",
        ["", "-a", ".a", "+a", "a;b", "a b"],
        "*.tags update_tags.add update_tags.remove",
    ),
    "pool": Format(
        formats.Pool,
        "[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+){0,2}",
        ["", "/a", "a/", "a//b", "a/b/c/d", "a b"],
        "create_vm.pool clone_container.pool create_container.pool restore_backup.pool *_backup_job.pool get_pool.pool "
        "update_pool.pool delete_pool.pool",
    ),
    "user": Format(
        formats.User,
        rf"[^\s:/]+@{REALM}",
        ["", "@pve", "john", "john@", "a b@pve", "a:b@pve", "a/b@pve", "a@p", "a@pve!t", "a@1x", "x" * 61 + "@pve"],
        "*_user.id list_tokens.id *_token.user create_mail_target.users",
        64,
        free=True,
    ),
    "token": Format(formats.TokenName, REALM, ["", "a", "1a", "a!b", "a@b", "a b"], "*_token.name", 64),
    "realm": Format(formats.Realm, REALM, ["", "a", "1a", "a@b", "x" * 33], "*_realm.id sync_realm.realm", 32),
    "group": Format(formats.Group, "[A-Za-z0-9._-]+", ["", "a b", "@a", "a/b"], "*_group.id update_user.groups"),
    "role": Format(formats.Role, "[A-Za-z0-9._-]+", ["", "a b", "a/b"], "*_role.id *_role.role"),
    "whom": Format(
        formats.UserOrGroup,
        rf"@[A-Za-z0-9._-]+|[a-z@!]+@{REALM}(!{REALM})?",
        ["", "@", "a", "a@", "a@pve!", "a@pve!t!", "@a b"],
        "*_role.who get_permissions.who",
    ),
    "mac": Format(
        formats.Mac,
        "[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}",
        ["01:00:00:00:00:00", "00-00-00-00-00-00", "00:00:00:00:00", "0:0:0:0:0:0"],
        "*.mac",
    ),
    "ip": Format(
        formats.Ip,
        f"{IP4}|{IP6}",
        ["", "1.2.3", "01.2.3.4", "1.2.3.256", "fe80::1%eth0", "1.2.3.4/24", "host"],
        "set_dns.dns set_sdn_zone.peers set_sdn_subnet.gateway",
    ),
    "ipv4": Format(formats.Ip4, IP4, ["", "::1", "1.2.3", "1.2.3.04"], "set_interface.gateway"),
    "ipv6": Format(formats.Ip6, IP6, ["", "1.2.3.4", "abcd", "::1%e"], "set_interface.gateway6"),
    "cidr": Format(
        formats.Cidr, f"{CIDR4}|{CIDR6}", ["10.0.0.1", "10.0.0.0/7", "10.0.0.0/33", "::/7", "::/129"], "*.subnet"
    ),
    "cidr4": Format(formats.Cidr4, CIDR4, ["1.2.3.4", "1.2.3.4/0", "1.2.3.4/33", "::/64"], "set_interface.cidr"),
    "cidr6": Format(formats.Cidr6, CIDR6, ["::1", "::/0", "::/129", "1.2.3.4/24"], "set_interface.cidr6"),
    "container ip": Format(
        formats.CtIp4,
        f"dhcp|manual|{CIDR4}",
        ["DHCP", "auto", "1.2.3.4", ""],
        "create_container.ip set_guest_network.ip",
    ),
    "container ip6": Format(
        formats.CtIp6, f"dhcp|auto|manual|{CIDR6}", ["Auto", "::1", ""], "create_container.ip6 set_guest_network.ip6"
    ),
    "bridge": Format(formats.Bridge, "[A-Za-z0-9_.-]+", ["", "a b", "a,b", "a/b"], "*.bridge"),
    "interface": Format(
        formats.Interface,
        "[A-Za-z][A-Za-z0-9_]{1,13}([:.][0-9]{1,4})?",
        ["", "a", "0a", "a-b", "eth0.", "eth0.a", "a" * 21],
        "*_interface.iface set_interface.members set_interface.parent set_interface.ports *firewall_rule*.iface",
        20,
    ),
    "sdn": Format(
        formats.SdnId,
        "[A-Za-z][A-Za-z0-9]{0,6}[A-Za-z0-9]",
        ["", "a", "1a", "a_b", "a-b", "abcdefghi"],
        "*.zone *.vnet delete_sdn.name",
        8,
    ),
    "security group": Format(
        formats.SecurityGroup,
        CONFIG_ID,
        ["", "a", "1a", "a" * 19],
        "*firewall*.group *.uses create_firewall_group.name",
        18,
    ),
    "firewall name": Format(
        formats.FirewallName,
        CONFIG_ID,
        ["", "a", "1a", "a" * 65],
        "set_firewall_alias.name set_firewall_ipset.name delete_firewall_set.name",
        64,
    ),
    "startup": Format(
        formats.Startup, ORDER, ["0", "order=", "first", "1;2", "up=-1", "1,", ",1", "1, 2", "order=0x1"], "*.startup"
    ),
    "disk": Format(
        formats.Disk,
        "ide[0-3]|sata[0-5]|scsi(30|[12][0-9]|[0-9])|virtio(1[0-5]|[0-9])|efidisk0|tpmstate0|rootfs|mp(25[0-5]|[0-9])",
        ["", "ide4", "sata6", "scsi31", "virtio16", "efidisk1", "mp256", "scsi01", "unused0", "net0"],
        "resize_disk.disk create_disk.disk attach_disk.disk detach_disk.disk move_disk.disk",
    ),
    "card": Format(formats.Card, "net([0-9]|[12][0-9]|3[01])", ["net32", "net01", "net", "eth0"], "*.card"),
    "mount": Format(
        formats.MountPath,
        r"(/([a-z @]|\.[a-z]|\.\.[a-z.])+){1,3}",
        ["/", "a", "/a/", "/a//b", "/..", "/a/./b", "/a/../b", "/a,b"],
        "*.mount",
        free=True,
    ),
}
"""FORMATS of Proxmox VE 9.2, written down apart from the types that are tested."""
