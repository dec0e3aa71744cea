"""Find what a call acts on: the guest, a suitable storage, our running task."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd import GuestLocked, NotFound, NotOurs, ProxmoxUnavailable, Rejected, Target, VmidTaken, grant
from agentd_proxmox import risks
from agentd_proxmox.inventory import MARGIN
from agentd_proxmox.model import filter_values, guest_model

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from agentd import Call, Upid
    from agentd_proxmox.inventory import GuestLocation, Inventory

    Entry = dict[str, Any]

PAUSE: Final = 0.5


def check_name(at: GuestLocation, name: str) -> None:
    """Raise Rejected if the guest does not have the name that the caller expects.

    VMIDs are reused: over time, the same VMID may belong to another guest.
    """
    if not at.name:
        raise ProxmoxUnavailable(
            f"the name of {at.title} is not known now, so it cannot be compared with {name!r}: nothing was done",
            delay=2.0,
        )
    if at.name != name:
        raise Rejected(f"{at.title} is not called {name!r}: nothing was done; check which guest is meant")


async def guest_target(inventory: Inventory, at: GuestLocation, *loses: str, volumes: bool = False) -> Target:
    """Return the guest as the target of a change, with its current state.

    loses    what is lost with it
    volumes  its disks are deleted or overwritten: then the protection of their storages applies to the guest, too
    """
    config, status = await asyncio.gather(inventory.config(at), inventory.status(at))
    at = replace(at, tags=tuple(guest_model.split_tags(config.get("tags"))))
    storages = [f"storage/{name}" for name in guest_model.storages(config)] if volumes else []
    return Target(
        name=f"guest/{at.vmid}",
        title=f"{at.title}, {guest_model.state(status)}",
        state={
            "name": at.name,
            "node": at.node,
            "status": guest_model.state(status),
            "configuration": str(config.get("digest") or "")[:16],
        },
        labels=[*at.target().labels, *storages],
        loses=list(loses),
        risks=await risks.risks_of(inventory, at, config, status),
    )


def set_undo(call: Call, tool: str, kind: type[msgspec.Struct], entry: Entry) -> None:
    """Record `tool` as the undo of this call, if its parameters can express `entry`.

    kind  the Struct of the tool's parameters
    """
    with contextlib.suppress(msgspec.ValidationError):
        msgspec.convert(entry, kind)
        call.inverse(tool, entry)


def derived_name(call: Call, tool: str) -> str:
    """Return a name that is unique to this call.

    Raises Rejected for a call without an invocation key.
    """
    if not call.key:
        raise Rejected(f"{tool}: this call has no key, so what it makes could not be found again")
    return "agentd-" + hashlib.sha256(call.key.encode()).hexdigest()[:12]


@contextlib.contextmanager
def not_ours_as_taken() -> Iterator[None]:
    """Turn NotOurs into VmidTaken, so that the workflow can draw another VMID."""
    try:
        yield
    except NotOurs as error:
        raise VmidTaken(f"the VMID is taken: {error}") from error


def may_contain(entry: Entry, content: str) -> bool:
    """Return whether a storage, an entry of the cluster's list, may contain `content`."""
    return content in str(entry.get("content") or "").split(",")


async def check_node(inventory: Inventory, node: str | None) -> None:
    """Raise NotFound if the cluster has no such node; None and "" mean no node."""
    filter_values.check_exists("node", node, [entry.get("node") for entry in await inventory.resources("node")])


async def storage(inventory: Inventory, node: str, name: str | None, content: str) -> Entry:
    """Return the storage `name` of `node`, or the only one that holds `content`.

    Raises an error if it does not exist, is not online or does not hold `content`.  The data is from the cluster's
    list, which is up to 10 s old: a query to a storage that hangs would hang, too.
    """
    entries = {e["storage"]: e for e in await inventory.resources("storage") if e.get("node") == node}
    if not entries:
        await check_node(inventory, node)
    if name is None:
        fit = sorted(key for key in entries if may_contain(entries[key], content))
        if len(fit) != 1:
            raise Rejected(
                f"name the storage: {len(fit)} of {node} hold {content}" + (f" ({', '.join(fit)})" if fit else "")
            )
        name = fit[0]
    if name not in entries:
        raise NotFound(f"there is no storage {name!r} on {node}; there are {', '.join(sorted(entries)) or 'none'}")
    if content and not may_contain(entries[name], content):
        raise Rejected(f"storage {name} of {node} does not hold {content}, but {entries[name].get('content')}")
    if entries[name].get("status") != "available":
        raise ProxmoxUnavailable(f"storage {name} is not online on {node} ({entries[name].get('status')})", delay=10.0)
    return entries[name]


async def running_tasks(inventory: Inventory, node: str, kinds: Collection[str], ident: str) -> list[Upid]:
    """Return the running tasks of our token on `node`, of these types and this id."""
    active = await inventory.active([node])
    return [e for e in active if e.type in kinds and e.id == ident and e.user == inventory.proxmox.user]


async def wait_a_moment(call: Call, text: str) -> None:
    """Report progress and wait for a moment.

    Raises GuestLocked when the deadline is near.
    """
    if call.left() < MARGIN:
        raise GuestLocked(text, delay=5.0)
    call.progress(text)
    await asyncio.sleep(PAUSE)


def privileges_on(permissions: dict[str, list[str]], path: str) -> set[str]:
    """Return the privileges on `path`.

    They are those of `path` itself or of its nearest parent in the token's list.
    """
    parts = path.strip("/").split("/")
    above = ["/" + "/".join(parts[:count]) for count in range(len(parts), 0, -1)] + ["/"]
    return set(next((permissions[parent] for parent in above if parent in permissions), []))


async def hidden_reason(inventory: Inventory, storage: str) -> str:
    """Return why an empty list of a storage proves nothing, or "".

    It is "" if the token may see everything on the storage.
    Proxmox leaves out, without an error, what a token may not read (proxmox.md, Envelope): above all backups, for
    which Datastore.Audit is not enough.
    """
    path, user = f"/storage/{storage}", inventory.proxmox.user
    if privileges_on(await inventory.proxmox.permissions(), path) & {"Datastore.Allocate", "Datastore.AllocateSpace"}:
        return ""
    return (
        f"{user} lacks Datastore.AllocateSpace on {path}, so Proxmox may hide what is there; to let it read: "
        + grant(path, "Datastore.AllocateSpace", user)
    )


def upid_of(answer: object) -> str | None:
    """Return the UPID in an answer, or None if the call was done at once."""
    return answer if isinstance(answer, str) and answer else None
