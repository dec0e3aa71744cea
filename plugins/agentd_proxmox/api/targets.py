"""Determine which guests and other objects an API call is about to change.

These are guests, storages, pools, nodes and users. Names are searched in the path and in every value that is sent, also
inside lists and property strings. A volume or a backup stands for the guest that owns it, and a call that acts on a
whole node represents all guests of that node.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from agentd import NotFound, Rejected, Target, formats, one_line
from agentd_proxmox import targets
from agentd_proxmox.api_tiers import is_on, names_in, owning_vmids
from agentd_proxmox.inventory import GuestLocation

if TYPE_CHECKING:
    from agentd_proxmox.api_schema import Endpoint
    from agentd_proxmox.inventory import Inventory

LABELS: Final = {
    "poolid": "pool",
    "pool": "pool",
    "userid": "user",
    "users": "user",
    "authid": "user",
    "tokens": "user",
    "groupid": "group",
    "groups": "group",
    "roleid": "role",
    "roles": "role",
    "realm": "realm",
    "tokenid": "token",
    "node": "node",
    "nodes": "node",
    "target_node": "node",
    "storage": "storage",
    "target-storage": "storage",
    "targetstorage": "storage",
    "statestorage": "storage",
    "vmstatestorage": "storage",
    "import-working-storage": "storage",
}
"""The kind of label, as protection settings use it, for a variable of a path or a parameter."""
GUESTS: Final = frozenset({"vmid", "vms", "newid", "target-vmid", "guest"})
VOLUMES: Final = re.compile(
    r"DELETE /nodes/\{node\}/\w+/\{vmid\}|POST /nodes/\{node\}/(qemu|lxc)|POST .*/rollback|POST .*/template"
)
"""Methods that delete, overwrite or convert the disks of the guests that they name."""
MANY: Final = re.compile(
    r"POST /nodes/\{node\}/(stopall|suspendall|migrateall|startall|status)"
    r"|POST /cluster/bulk-action/guest/\w+|DELETE /nodes/\{node\}/storage/\{storage\}/prunebackups"
)
"""Methods that act on every guest (of the node) if the call names none."""
LONGEST: Final = 16_384
"""Maximum characters of all parameters that are shown to an approver."""
DETAILED: Final = 20
"""Maximum number of guests that are read one by one; for more, the cluster's list gives the state."""
_VOLUME: Final = re.compile(r"(?:^|[=,;\s])([A-Za-z][A-Za-z0-9_.-]*[A-Za-z0-9]):[^\s,;]+")
_SID: Final = re.compile(r"(?:(?:vm|ct):)?(\d{3,9})(?:-\d+)?\Z")

Values = dict[str, Any]


def labels(endpoint: Endpoint, sent: Values) -> list[str]:
    """Return the labels by which policy can protect what a call names, except guests."""
    found: dict[str, None] = {}
    for name, value in {**endpoint.values, **sent}.items():
        kind = LABELS.get(name) or ("node" if name == "target" and "/migrate" in endpoint.path else "")
        for item in names_in(value) if kind else ():
            found[f"{kind}/{item.partition(':')[2] if kind == 'storage' and ':' in item else item}"] = None
            if kind == "user" and formats.is_token(item):
                found[f"user/{formats.user_of(item)}"] = None
        for storage in _VOLUME.findall(_text(value)):
            found[f"storage/{storage}"] = None
    if endpoint.path == "/storage" and "storage" in sent:
        found[f"storage/{sent['storage']}"] = None
    return list(found)


def guests(endpoint: Endpoint, sent: Values) -> set[int]:
    """Return the guests that a call names.

    It names them by VMID, as an HA resource or a job, or as the owner of a volume.
    """
    found: set[str] = set()
    for name, value in {**endpoint.values, **sent}.items():
        if name in GUESTS:
            found |= {guest for guest in names_in(value) if guest.isdigit()}
        if name in {"sid", "resources"} or (name == "id" and "replication" in endpoint.path):
            found |= {match[1] for item in names_in(value) if (match := _SID.match(item))}
        if name == "upid":
            found |= {part for part in str(value).split(":")[6:7] if part.isdigit()}
        if name not in {"description", "notes", "notes-template", "comment"}:
            found |= owning_vmids(_text(value))
    return {int(guest) for guest in found if 100 <= int(guest) < 1_000_000_000}  # noqa: PLR2004 - Proxmox' own bounds


def _text(value: Any) -> str:  # noqa: ANN401 - text or a list
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def selected(endpoint: Endpoint, sent: Values, places: list[GuestLocation]) -> set[int]:
    """Return the guests that a call acts on without naming them.

    These are all guests, or those of a pool or of a node.
    """
    everywhere = is_on(sent.get("all", "0")) or (MANY.fullmatch(endpoint.key) and not {"vms", "vmid"} & sent.keys())
    pool = str(endpoint.values.get("poolid") or sent.get("poolid") or sent.get("pool") or "")
    if everywhere:
        node = endpoint.values.get("node") if "prunebackups" not in endpoint.path else None
        left_out = set(names_in(sent.get("exclude", "")))
        return {place.vmid for place in places if (not node or place.node == node) and str(place.vmid) not in left_out}
    if pool and (endpoint.path.startswith("/pools") or "backup" in endpoint.path or "vzdump" in endpoint.path):
        return {place.vmid for place in places if place.pool == pool}
    return set()


def _selects(endpoint: Endpoint, sent: Values) -> bool:
    return bool(MANY.fullmatch(endpoint.key) or {"all", "pool", "poolid"} & {*sent, *endpoint.values})


async def changed_guests(inventory: Inventory, endpoint: Endpoint, sent: Values) -> list[Target]:
    """Return each guest that a call is about to change, with its present state."""
    named = guests(endpoint, sent)
    if not named and not _selects(endpoint, sent):
        return []
    places = {place.vmid: place for place in await inventory.places()}
    every = sorted(named | selected(endpoint, sent, list(places.values())))
    values = endpoint.values
    result: list[Target] = []
    for vmid in every:
        place = places.get(vmid)
        if place is None and values.get("vmid") == str(vmid) and values.get("node"):
            kind = "lxc" if "/lxc/" in endpoint.path else "qemu"  # the cluster's list may be 10 s old
            place = GuestLocation(vmid, values["node"], kind, "", "unknown", template=False)
        result.append(await _guest(inventory, vmid, place, endpoint, detailed=len(every) <= DETAILED))
    return result


async def _guest(
    inventory: Inventory, vmid: int, place: GuestLocation | None, endpoint: Endpoint, *, detailed: bool
) -> Target:
    if place is not None and not detailed:
        state = {"name": place.name, "node": place.node, "status": one_line(place.status)}
        return Target(f"guest/{place.vmid}", place.title, state=state, labels=place.target().labels)
    try:
        if place is not None:
            return await targets.guest_target(inventory, place, volumes=bool(VOLUMES.fullmatch(endpoint.key)))
    except NotFound:  # Proxmox reports this itself when the call is sent
        pass
    return Target(f"guest/{vmid}", f"guest {vmid}, which does not exist", state={"exists": False})


def values_as_lines(sent: Values) -> list[str]:
    """Return every value that is sent, complete, one per line.

    Raises Rejected if they are longer than a person can read.
    """
    lines = [f"{name}={_complete_text(value)}" for name, value in sent.items()]
    if sum(map(len, lines)) > LONGEST:
        raise Rejected(f"the parameters have more than {LONGEST} characters, which cannot be shown for approval")
    return lines


def _complete_text(value: Any) -> str:  # noqa: ANN401
    simple = isinstance(value, str) and value.isprintable()
    return value if simple else json.dumps(value)
