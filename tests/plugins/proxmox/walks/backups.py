"""One call of each tool for snapshots, storages, backups and their jobs."""

from __future__ import annotations

from typing import Any

SNAP: dict[str, Any] = {"vmid": 100, "name": "walked"}
PLACE: dict[str, Any] = {"storage": "local", "node": "pve1"}
KEEP: dict[str, Any] = {**PLACE, "keep_last": 1, "vmid": 100, "type": "qemu"}


def archive(results: dict[str, Any]) -> dict[str, Any]:
    """Return which backup was made on the walk."""
    return {"volid": results["create_backup"].volid, "node": "pve1"}


WALK: list[tuple[str, Any]] = [
    ("create_snapshot", SNAP),
    ("list_snapshots", {"vmid": 100}),
    ("list_old_snapshots", {}),
    ("rollback_snapshot", {**SNAP, "guest": "web-01"}),
    ("delete_snapshot", {**SNAP, "guest": "web-01"}),
    ("list_volumes", PLACE),
    ("get_storage_status", PLACE),
    ("download_url", lambda results: {**PLACE, "url": f"{results['shelf']}/image.iso", "filename": "fetched.iso"}),
    ("create_volume", {"storage": "local-lvm", "node": "pve1", "vmid": 100, "size": 1, "name": "walked"}),
    ("delete_volume", {"volid": "local-lvm:vm-100-walked", "node": "pve1"}),
    ("create_backup", {"vmid": 100, "storage": "local"}),
    ("list_backups", {}),
    ("inspect_backup", archive),
    ("set_backup_notes", lambda results: {**archive(results), "notes": "walked"}),
    ("set_backup_protection", lambda results: {**archive(results), "protected": True}),
    ("set_backup_protection", lambda results: {**archive(results), "protected": False}),
    ("restore_backup", lambda results: {**archive(results), "vmid": 330, "storage": "local-lvm"}),
    ("create_backup", {"vmid": 330, "storage": "local"}),
    ("restore_over_guest", lambda results: {"volid": archive(results)["volid"], "vmid": 330, "guest": "web-01"}),
    ("preview_prune", KEEP),
    ("prune_backups", lambda results: {**KEEP, "digest": results["preview_prune"].digest}),
    ("create_backup_job", {"schedule": "02:30", "storage": "local", "id": "walked", "vmids": [100]}),
    ("list_backup_jobs", {}),
    ("update_backup_job", {"id": "walked", "comment": "x"}),
    ("delete_backup_job", {"id": "walked"}),
    ("list_guests_without_backup", {}),
]
