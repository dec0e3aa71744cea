"""One call of each tool for disks, Ceph, definitions of storages, figures, notifications and realms."""

from __future__ import annotations

from typing import Any

ONE: dict[str, Any] = {"node": "pve1"}
CHOSEN: dict[str, Any] = {"device": "/dev/sdb", "serial": "pve1-B"}
WALK: list[tuple[str, Any]] = [
    ("list_disks", ONE),
    ("disk_health", {**ONE, "device": "/dev/sdb"}),
    ("initialize_disk", {**ONE, "device": "/dev/sdc", "serial": "pve1-C"}),
    ("make_local_storage", {**ONE, "kind": "zfs", "name": "walked", "disks": [CHOSEN]}),
    ("list_local_storage", ONE),
    ("zfs_status", {**ONE, "pool": "walked"}),
    ("ceph_status", {}),
    ("show_usage", {"vmid": 100}),
    ("show_usage", ONE),
    ("show_usage", {**ONE, "storage": "local"}),
    ("list_storage_definitions", {}),
    ("add_storage", {"storage": "walked", "type": "dir", "path": "/mnt/walked", "content": ["iso"]}),
    ("change_storage", {"storage": "walked", "enabled": False}),
    ("remove_storage", {"storage": "walked"}),
    ("list_notifications", {}),
    ("test_notification", lambda results: {"name": results["list_notifications"].targets[0].name}),
]
CEPH: list[tuple[str, Any]] = [
    ("ceph_status", {}),
    ("list_osds", ONE),
    ("list_ceph_pools", ONE),
    ("move_osd_data", {"osd": 0, "host": "pve1", "data": "out"}),
    ("set_ceph_flag", {"flag": "noout", "value": True}),
    ("sync_realm", {"realm": "corp"}),
]
"""Calls of a cluster with Ceph and a directory alone."""
