"""One call of each named tool at least, in an order that works; walk.py runs them all.

Other areas have files of their own beside this one, each with a WALK.  Parameters may be computed from the results of
the tools before, by their names; `upid` is that of the last task.
"""

from __future__ import annotations

from typing import Any

from tool_bench import CONTAINER

TALK: dict[str, Any] = {"vmid": 100, "guest": "web-01"}
CLOUDY: dict[str, Any] = {"node": "pve1", "storage": "local-lvm", "image": "local:import/w.raw", "ciuser": "ada"}
LEFT: dict[str, Any] = {"name": "left", "nodes": {"pve1": 0}}
MOVES: list[tuple[str, dict[str, Any]]] = [
    ("check_migration", {"vmid": 100, "target": "pve2"}),
    ("migrate_guest", {"vmid": 201, "target": "pve1"}),
    ("migrate_guest", {"vmid": 101, "target": "pve2", "target_storage": "shared"}),
    ("ping_guest_agent", {"vmid": 100}),
    ("get_guest_agent_info", {"vmid": 100}),
    ("exec_in_guest", {**TALK, "command": ["id"]}),
    ("write_guest_file", {**TALK, "path": "/x", "content": "y"}),
    ("read_guest_file", {**TALK, "path": "/x"}),
    ("create_ha_resource", {"vmid": 104}),
    ("update_ha_resource", {"vmid": 104, "max_restart": 2}),
    ("create_ha_rule", {**LEFT, "type": "node-affinity", "guests": [104]}),
    ("update_ha_rule", {"name": "left", "comment": "x"}),
    ("migrate_guest", {"vmid": 104, "target": "pve1"}),
    ("list_ha", {}),
    ("delete_ha_rule", {"name": "left"}),
    ("delete_ha_resource", {"vmid": 104, "guest": "nas"}),
    ("create_replication", {"vmid": 105, "target": "pve1"}),
    ("update_replication", {"id": "105-0", "rate": 5}),
    ("list_replications", {}),
    ("run_replication", {"id": "105-0"}),
    ("get_replication", {"id": "105-0"}),
    ("delete_replication", {"id": "105-0", "guest": "old-test"}),
    ("create_pool", {"pool": "walked"}),
    ("update_pool", {"pool": "walked", "guests": [105], "storages": ["shared"]}),
    ("list_pools", {}),
    ("get_pool", {"pool": "walked"}),
    ("update_pool", {"pool": "walked", "guests": [105], "storages": ["shared"], "remove": True}),
    ("delete_pool", {"pool": "walked"}),
]
EIGHT: list[tuple[str, dict[str, Any]]] = [
    ("set_ha_group", LEFT),
    ("set_ha_group", {**LEFT, "restricted": True}),
    ("list_ha", {}),
    ("delete_ha_group", {"name": "left"}),
]
"""Calls of Proxmox VE 8 alone."""
WALK: list[tuple[str, dict[str, Any]]] = [
    ("list_nodes", {}),
    ("get_node", {"node": "pve1"}),
    ("list_storages", {}),
    ("list_bridges", {"node": "pve1"}),
    ("list_tasks", {}),
    ("list_tasks", {"node": "pve1"}),
    ("list_guests", {}),
    ("list_templates", {}),
    ("get_guest", {"vmid": 101}),
    ("get_guest", {"vmid": 200}),
    ("get_free_vmids", {}),
    ("create_vm", {"vmid": 300, "node": "pve1", "name": "new", "storage": "local-lvm", "disk": 4}),
    ("create_vm", {"vmid": 301, "node": "pve1", "name": "cloned", "template": 9000}),
    ("upload_file", {"path": __file__, "storage": "local", "node": "pve1", "filename": "w.raw", "content": "import"}),
    ("create_vm", {**CLOUDY, "vmid": 304, "name": "of-image"}),
    ("create_vm", {"vmid": 302, "node": "pve1", "name": "cloudy", "template": 9000}),
    ("update_vm", {"vmid": 300, "cores": 3, "description": "x"}),
    ("resize_disk", {"vmid": 300, "size": 8}),
    ("start_guest", {"vmid": 300}),
    ("reboot_guest", {"vmid": 300}),
    ("shutdown_guest", {"vmid": 300}),
    ("start_guest", {"vmid": 300}),
    ("reset_vm", {"vmid": 300}),
    ("suspend_vm", {"vmid": 300}),
    ("resume_vm", {"vmid": 300}),
    ("stop_guest", {"vmid": 300}),
    ("update_tags", {"vmid": 201, "add": ["walked"]}),
    ("get_pending_changes", {"vmid": 300}),
    ("move_disk", {"vmid": 101, "disk": "scsi0", "storage": "shared"}),
    ("detach_disk", {"vmid": 101, "disk": "scsi0"}),
    ("attach_disk", {"vmid": 101, "disk": "scsi1", "volume": "shared:101/vm-101-disk-0.raw"}),
    ("create_container", CONTAINER),
    ("clone_container", {"vmid": 321, "node": "pve1", "name": "ct-02", "source": 320}),
    ("update_container", {"vmid": 320, "cores": 2}),
    ("create_disk", {"vmid": 300, "disk": "scsi1", "storage": "local-lvm", "size": 1}),
    ("create_disk", {"vmid": 320, "disk": "mp0", "storage": "local-lvm", "size": 1, "mount": "/srv"}),
    ("resize_disk", {"vmid": 320, "size": 9}),
    ("detach_disk", {"vmid": 320, "disk": "mp0"}),
    ("attach_disk", {"vmid": 320, "disk": "mp0", "volume": "local-lvm:vm-320-disk-1", "mount": "/srv"}),
    ("move_disk", {"vmid": 320, "disk": "rootfs", "storage": "local-lvm"}),
    ("get_console", {"vmid": 320}),
    ("regenerate_cloudinit", {"vmid": 302}),
    ("convert_to_template", {"vmid": 301, "name": "cloned"}),
    ("delete_guest", {"vmid": 301, "name": "cloned"}),
    ("create_vm", {"vmid": 303, "node": "pve1", "name": "passing", "storage": "local-lvm", "disk": 4}),
    ("get_guest_config", {"vmid": 303}),
    ("set_guest_network", {"vmid": 303, "tag": 5, "bridge": "vmbr0"}),
    ("set_guest_network", {"vmid": 320, "card": "net1", "bridge": "vmbr0"}),
    ("delete_guest_network", {"vmid": 320, "card": "net1"}),
    ("delete_guest_network", {"vmid": 303, "card": "net0"}),
    ("set_guest_network", {"vmid": 303, "bridge": "vmbr0"}),
    ("update_guest_options", {"vmid": 303, "options": {"startup": "order=3"}}),
    ("isolate_guest", {"vmid": 303}),
    ("start_guest", {"vmid": 303}),
    ("isolate_guest", {"vmid": 320}),
    ("check_guest", {"vmid": 303}),
    ("discard_guest", {"vmid": 303}),
    ("upload_file", {"path": __file__, "storage": "local", "node": "pve1", "filename": "walked.iso"}),
    *MOVES,
]
