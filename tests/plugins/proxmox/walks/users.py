"""One call of each tool for users, groups, tokens, roles and grants."""

from __future__ import annotations

from typing import Any

EVE: dict[str, Any] = {"id": "eve@pve"}
GRANT: dict[str, Any] = {"role": "Walker", "who": "eve@pve", "path": "/vms/100"}
WALK: list[tuple[str, Any]] = [
    ("create_group", {"id": "walkers"}),
    ("list_groups", {}),
    ("create_user", EVE),
    ("update_user", {**EVE, "groups": ["walkers"]}),
    ("list_users", {}),
    ("get_user", EVE),
    ("create_role", {"id": "Walker", "privileges": ["VM.Audit"]}),
    ("list_roles", {}),
    ("grant_role", GRANT),
    ("list_grants", {}),
    ("get_permissions", {"who": "eve@pve"}),
    ("update_role", {"id": "Walker", "privileges": ["VM.Audit", "VM.PowerMgmt"]}),
    ("revoke_role", GRANT),
    ("delete_role", {"id": "Walker"}),
    ("create_token", {"user": "eve@pve", "name": "walked"}),
    ("list_tokens", EVE),
    ("delete_token", {"user": "eve@pve", "name": "walked"}),
    ("list_realms", {}),
    ("delete_user", EVE),
    ("delete_group", {"id": "walkers"}),
]
