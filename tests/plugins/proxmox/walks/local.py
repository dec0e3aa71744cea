"""One call of each tool for disks, Ceph, definitions of storages, figures, notifications and realms."""

from __future__ import annotations

from typing import Any

ONE: dict[str, Any] = {"node": "pve1"}
CHOSEN: dict[str, Any] = {"device": "/dev/sdb", "serial": "pve1-B"}
WALK: list[tuple[str, Any]] = [
    ("list_node_disks", ONE),
    ("get_disk_health", {**ONE, "device": "/dev/sdb"}),
    ("initialize_disk", {**ONE, "device": "/dev/sdc", "serial": "pve1-C"}),
    ("create_local_storage", {**ONE, "kind": "zfs", "name": "walked", "disks": [CHOSEN]}),
    ("list_local_storage", ONE),
    ("get_zfs_status", {**ONE, "pool": "walked"}),
    ("get_ceph_status", {}),
    ("get_usage", {"vmid": 100}),
    ("get_usage", ONE),
    ("get_usage", {**ONE, "storage": "local"}),
    ("list_storage_definitions", {}),
    ("create_storage", {"storage": "walked", "type": "dir", "path": "/mnt/walked", "content": ["iso"]}),
    ("update_storage", {"storage": "walked", "enabled": False}),
    ("delete_storage", {"storage": "walked"}),
    ("list_notifications", {}),
    ("test_notification", lambda results: {"name": results["list_notifications"].targets[0].name}),
]
CEPH: list[tuple[str, Any]] = [
    ("get_ceph_status", {}),
    ("list_osds", ONE),
    ("list_ceph_pools", ONE),
    ("move_osd_data", {"osd": 0, "host": "pve1", "data": "out"}),
    ("set_ceph_flag", {"flag": "noout", "value": True}),
    ("sync_realm", {"realm": "corp"}),
]
"""Calls of a cluster with Ceph and a directory alone."""
