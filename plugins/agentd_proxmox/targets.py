"""What a call is about: the guest that is meant, the storage that can, our own task that runs already."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from agentd.errors import GuestLocked, NotFound, NotOurs, ProxmoxUnavailable, Rejected, VmidTaken
from agentd.proxmox.responses import grant
from agentd.wire.messages import Target
from agentd_proxmox import filter_values, guest_model, risks
from agentd_proxmox.inventory import MARGIN

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from agentd.proxmox.responses import Upid
    from agentd.tools.definition import Call
    from agentd_proxmox.inventory import Inventory, Place

    Entry = dict[str, Any]

PAUSE = 0.5


def named(at: Place, name: str) -> None:
    """Refuse a guest that is not called as the caller thinks: ids are given to other guests in time."""
    if not at.name:
        text = f"the name of {at.title} is not known now, so it cannot be compared with {name!r}: nothing was done"
        raise ProxmoxUnavailable(text, delay=2.0)
    if at.name != name:
        raise Rejected(f"{at.title} is not called {name!r}: nothing was done; look which guest is meant")


async def guest(inventory: Inventory, at: Place, *loses: str, volumes: bool = False) -> Target:
    """Return the guest as what a call is about to change, as it is now.

    loses    what goes with it
    volumes  its disks are deleted or overwritten: what protects the storages that they lie on protects it
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
        risks=await risks.of(inventory, at, config, status),
    )


def back(call: Call, tool: str, kind: type[msgspec.Struct], said: Entry) -> None:
    """Say how it is made as it was before, if that tool can say all of it (`kind` are its parameters)."""
    with contextlib.suppress(msgspec.ValidationError):
        msgspec.convert(said, kind)
        call.inverse(tool, said)


def keyed(call: Call, tool: str) -> str:
    """Return a name that only this call gives; raises Rejected for a call without a key."""
    if not call.key:
        raise Rejected(f"{tool}: this call has no key, so what it makes could not be found again")
    return "agentd-" + hashlib.sha256(call.key.encode()).hexdigest()[:12]


@contextlib.contextmanager
def taken_unless_ours() -> Iterator[None]:
    """Raise VmidTaken where a guest with our mark is not ours: the workflow can draw another VMID."""
    try:
        yield
    except NotOurs as error:
        raise VmidTaken(f"the VMID is taken: {error}") from error


def holds(entry: Entry, content: str) -> bool:
    """Tell whether an entry of the cluster's list of storages may hold `content`."""
    return content in str(entry.get("content") or "").split(",")


async def node_known(inventory: Inventory, node: str | None) -> None:
    """Raise NotFound if the cluster has no such node; None and "" are not given."""
    filter_values.known("node", node, [entry.get("node") for entry in await inventory.resources("node")])


async def storage(inventory: Inventory, node: str, name: str | None, content: str) -> Entry:
    """Return the storage `name` of `node`, or its only one for `content`; raises if it is away or for other things.

    From the cluster's list, up to 10 s old: asking a storage itself hangs when it does.
    """
    entries = {e["storage"]: e for e in await inventory.resources("storage") if e.get("node") == node}
    if not entries:
        await node_known(inventory, node)
    if name is None:
        fit = sorted(each for each in entries if holds(entries[each], content))
        if len(fit) != 1:
            raise Rejected(
                f"name the storage: {len(fit)} of {node} hold {content}" + (f" ({', '.join(fit)})" if fit else "")
            )
        name = fit[0]
    if name not in entries:
        raise NotFound(f"there is no storage {name!r} on {node}; there are {', '.join(sorted(entries)) or 'none'}")
    if content and not holds(entries[name], content):
        raise Rejected(f"storage {name} of {node} does not hold {content}, but {entries[name].get('content')}")
    if entries[name].get("status") != "available":
        raise ProxmoxUnavailable(f"storage {name} is not online on {node} ({entries[name].get('status')})", delay=10.0)
    return entries[name]


async def running(inventory: Inventory, node: str, kinds: Collection[str], ident: str) -> list[Upid]:
    """Return the tasks of our token that run on `node` now, of these types and with this id."""
    active = await inventory.active([node])
    return [e for e in active if e.type in kinds and e.id == ident and e.user == inventory.proxmox.user]


async def pause(call: Call, text: str) -> None:
    """Say what is waited for and wait a little; raises GuestLocked when the deadline is near."""
    if call.left() < MARGIN:
        raise GuestLocked(text, delay=5.0)
    call.progress(text)
    await asyncio.sleep(PAUSE)


def held(permissions: dict[str, list[str]], path: str) -> set[str]:
    """Return the privileges on `path`: those of the nearest path above it that the token's list names."""
    parts = path.strip("/").split("/")
    above = ["/" + "/".join(parts[:count]) for count in range(len(parts), 0, -1)] + ["/"]
    return set(next((permissions[each] for each in above if each in permissions), []))


async def blind(inventory: Inventory, storage: str) -> str:
    """Return why an empty list of a storage proves nothing, "" if the token may see what lies there.

    Proxmox leaves out, without a word, what a token may not read (proxmox.md, Envelope): backups above all, for
    which looking (Datastore.Audit) does not suffice.
    """
    path, user = f"/storage/{storage}", inventory.proxmox.user
    if held(await inventory.proxmox.permissions(), path) & {"Datastore.Allocate", "Datastore.AllocateSpace"}:
        return ""
    return (
        f"{user} lacks Datastore.AllocateSpace on {path}, so Proxmox may hide what lies there; to let it look: "
        + grant(path, "Datastore.AllocateSpace", user)
    )


def upid_of(answer: object) -> str | None:
    """Return the UPID that a call answered, None if it was done at once."""
    return answer if isinstance(answer, str) and answer else None
