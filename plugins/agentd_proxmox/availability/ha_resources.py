"""High availability: what the HA manager does, and which guests it looks after.

A guest under HA is kept in the state that its resource asks for: `stopped` shuts it down, `ignored` leaves it alone.
Changes carry Proxmox' digest of what was read, so that nobody's change is overwritten.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from agentd import formats
from agentd.errors import ConfigChanged, NotFound, Rejected, TaskFailed
from agentd.proxmox.responses import one_line
from agentd.tools.definition import Call, Found, Repeat, tool
from agentd.wire.messages import Tier
from agentd_proxmox import fields, methods, pages, targets
from agentd_proxmox.availability.ha_model import Rule, rules, service
from agentd_proxmox.fields import GuestName

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentd_proxmox.inventory import Inventory, Place
    from agentd_proxmox.methods import Calls

    Entry = dict[str, Any]

LISTS = (*methods.PLACES, *methods.HA_LISTS[:2])
PAGE = 25
RESOURCES = "/cluster/ha/resources"
State = Literal["started", "stopped", "disabled", "ignored"]
Times = Annotated[int, Meta(ge=0, le=1000)]
Comment = Annotated[str, Meta(max_length=1024)]
Group = Annotated[formats.ConfigId, Meta(description="name of an HA group (Proxmox VE 8)")]


class ListHa(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which page of the resources."""

    limit: pages.Limit = PAGE
    cursor: pages.Cursor = ""


class Resource(msgspec.Struct, frozen=True, omit_defaults=True):
    """A guest under HA: the state that is asked for, and what the manager says of it."""

    sid: str
    vmid: int
    name: str
    node: str
    requested: str
    state: str
    max_restart: int = 1
    max_relocate: int = 1
    failback: bool = True
    group: str = ""
    comment: str = ""
    digest: str = ""


class HaOverview(msgspec.Struct, frozen=True):
    """Quorum, master, the manager of each node, how many resources are in which state, one page, and all rules.

    rules_from is `rules` with Proxmox VE 9 and `groups` with 8.
    """

    quorate: bool
    master: str
    nodes: dict[str, str]
    states: dict[str, int]
    resources: list[Resource]
    rules_from: str
    rules: list[Rule]
    next: str = ""


class AddHa(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which guest, and how it is looked after.

    state         started keeps it running, stopped keeps it off, ignored leaves it alone
    max_restart   tries to start it again on its node, max_relocate on others
    failback      it goes back to the node that it prefers
    group         of Proxmox VE 8; rules stand in its place in 9
    """

    vmid: fields.Vmid
    state: State = "started"
    max_restart: Times = 1
    max_relocate: Times = 1
    failback: bool | None = None
    group: Group | None = None
    comment: Comment = ""


class UpdateHa(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to change; what is left out stays.  digest: of list_ha, refuses a resource that changed since."""

    vmid: fields.Vmid
    state: State | None = None
    max_restart: Times | None = None
    max_relocate: Times | None = None
    failback: bool | None = None
    group: Group | None = None
    comment: Comment | None = None
    digest: str = ""


class RemoveHa(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which guest, named too; it stays as it is.  purge: rules forget it as well.  digest: of list_ha."""

    vmid: fields.Vmid
    guest: GuestName
    purge: bool = True
    digest: str = ""


class RemovedHa(msgspec.Struct, frozen=True):
    """The resource as it was, null if the guest was not under HA."""

    sid: str
    resource: Resource | None


class Ha:
    """The tools for what is under HA."""

    calls: ClassVar[Calls] = {
        "list_ha": (*methods.PLACES, *methods.HA_LISTS),
        "add_ha_resource": (*LISTS, "POST /cluster/ha/resources"),
        "update_ha_resource": (*LISTS, "PUT /cluster/ha/resources/{sid}"),
        "remove_ha_resource": (*LISTS, *methods.READ, "DELETE /cluster/ha/resources/{sid}"),
    }

    def __init__(self, inventory: Inventory) -> None:
        """Keep where the cluster is reached."""
        self.inventory = inventory
        self.proxmox = inventory.proxmox

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cluster_management")
    async def list_ha(self, call: Call, p: ListHa) -> HaOverview:  # noqa: ARG002 - every tool has a call
        """Show high availability: the manager, the guests that it looks after, and the rules that bind them."""
        states, found = await asyncio.gather(self._states(), rules(self.proxmox))
        resources = await self._resources(states)
        shown, after = pages.page(resources, lambda resource: resource.sid, p.limit, p.cursor)
        tally: dict[str, int] = {}
        for resource in resources:
            tally[resource.state] = tally.get(resource.state, 0) + 1
        by_type = {kind: [e for e in states if e.get("type") == kind] for kind in ("quorum", "master", "lrm")}
        return HaOverview(
            quorate=any(int(e.get("quorate") or 0) for e in by_type["quorum"]),
            master=one_line(next((e.get("status") or "" for e in by_type["master"]), "")),
            nodes={one_line(e["node"]): _between(e) for e in by_type["lrm"]},
            states=tally,
            resources=shown,
            rules_from=found.source,
            rules=found.rules,
            next=after,
        )

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="cluster_management")
    async def add_ha_resource(self, call: Call, p: AddHa) -> Resource:
        """Put a guest under HA: the manager keeps it in the state that is asked for, and moves it off a dead node."""
        at = await self.inventory.find(p.vmid, away=True)
        if at.template:
            raise Rejected(f"{at.title} is a template: there is nothing to keep running")
        call.target(at.target())
        wanted = {
            "state": p.state,
            "max_restart": p.max_restart,
            "max_relocate": p.max_relocate,
            "failback": p.failback,
            "group": p.group,
            "comment": p.comment or None,
        }

        async def seen() -> Found | None:
            entry = await self._entry(at)
            if entry is None:
                call.inverse("remove_ha_resource", {"vmid": at.vmid, "guest": at.name})
                return None
            if other := _differs(entry, wanted):
                raise Rejected(f"{at.title} is under HA with another {', '.join(other)}: update_ha_resource changes it")
            return Found()

        async def act() -> None:
            await self.proxmox.post(RESOURCES, sid=service(at), **wanted)

        await call.once(seen, act)
        return await self._there(at, wanted)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="cluster_management")
    async def update_ha_resource(self, call: Call, p: UpdateHa) -> Resource:
        """Change how a guest is looked after; `state` starts it, shuts it down or leaves it alone."""
        at = await self.inventory.find(p.vmid, away=True)
        wanted: Entry = {
            "state": p.state,
            "max_restart": p.max_restart,
            "max_relocate": p.max_relocate,
            "failback": p.failback,
            "group": p.group,
            "comment": p.comment,
        }
        if all(value is None for value in wanted.values()):
            raise Rejected("update_ha_resource: say what to change")
        call.target(at.target())
        digest: list[str] = []

        async def seen() -> Found | None:
            entry = await self._entry(at)
            if entry is None:
                raise NotFound(f"{at.title} is not under HA: add_ha_resource puts it there")
            if not (other := _differs(entry, wanted)):
                return Found()
            digest[:] = [_unchanged(at, entry, p.digest)]
            call.inverse("update_ha_resource", {"vmid": at.vmid} | _before(_resource(entry, at, ""), other))
            return None

        async def act() -> None:
            gone = ",".join(key for key, value in wanted.items() if value == "") or None
            sent = {key: value for key, value in wanted.items() if value not in ("", None)}
            await self.proxmox.put(f"{RESOURCES}/{service(at)}", delete=gone, digest=digest[0] or None, **sent)

        await call.once(seen, act)
        return await self._there(at, wanted)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="cluster_management")
    async def remove_ha_resource(self, call: Call, p: RemoveHa) -> RemovedHa:
        """Take a guest out of HA: it stays as it is, and nobody starts it elsewhere when its node dies."""
        at = await self.inventory.find(p.vmid, away=True)
        targets.named(at, p.guest)
        was: list[Resource] = []

        async def seen() -> Found | None:
            entry = await self._entry(at)
            if entry is None:
                return Found()
            _unchanged(at, entry, p.digest)
            was.append(_resource(entry, at, ""))
            lost = "its place under HA: nobody starts it elsewhere when its node dies"
            call.target(await targets.guest(self.inventory, at, lost))
            call.inverse("add_ha_resource", {"vmid": at.vmid} | _before(was[0], ["state", *_KEPT]))
            return None

        async def act() -> None:
            await self.proxmox.delete(f"{RESOURCES}/{service(at)}", purge=None if p.purge else False)

        await call.once(seen, act)
        if await self._entry(at) is not None:
            raise TaskFailed(f"Proxmox says that it was done, and {at.title} is under HA: somebody put it back")
        return RemovedHa(service(at), was[0] if was else None)

    async def _states(self) -> list[Entry]:
        return await self.proxmox.get("/cluster/ha/status/current") or []

    async def _resources(self, states: list[Entry]) -> list[Resource]:
        entries, places = await asyncio.gather(self.proxmox.get(RESOURCES), self.inventory.places())
        at = {service(place): place for place in places}
        said = {str(entry.get("sid")): one_line(entry.get("crm_state") or entry.get("state") or "") for entry in states}
        return [_resource(entry, at.get(str(entry["sid"])), said.get(str(entry["sid"]), "")) for entry in entries or []]

    async def _entry(self, at: Place) -> Entry | None:
        """Return the guest's resource from the list: a missing one is an error of its own to Proxmox."""
        entries = await self.proxmox.get(RESOURCES) or []
        return next((dict(entry) for entry in entries if entry.get("sid") == service(at)), None)

    async def _there(self, at: Place, wanted: Entry) -> Resource:
        entry = await self._entry(at)
        if entry is None or (other := _differs(entry, wanted)):
            what = "it is not under HA" if entry is None else f"its {', '.join(other)} is another"
            raise TaskFailed(f"Proxmox says that it was done, and of {at.title} {what}: somebody changed it")
        states = {str(state.get("sid")): state for state in await self._states()}
        one = states.get(service(at), {})
        return _resource(entry, at, one_line(one.get("crm_state") or one.get("state") or ""))


def _unchanged(at: Place, entry: Entry, digest: str) -> str:
    """Return Proxmox' digest of a resource; raises ConfigChanged if it is not the one that was seen."""
    now = one_line(entry.get("digest") or "")
    if digest and digest != now:
        raise ConfigChanged(f"HA of {at.title} was changed since it was read: look again, then decide again")
    return now


_KEPT = ("max_restart", "max_relocate", "comment")


def _before(was: Resource, options: Iterable[str]) -> Entry:
    """Return options of a resource as they were, as parameters of our tools."""
    state = {"enabled": "started"}.get(was.requested, was.requested)
    have = {"state": state, "failback": was.failback, "group": was.group or None, "comment": was.comment}
    have |= {"max_restart": was.max_restart, "max_relocate": was.max_relocate}
    return {key: have[key] for key in options}


_USUAL: Entry = {"state": "started", "max_restart": 1, "max_relocate": 1, "failback": 1}


def _differs(entry: Entry, wanted: Entry) -> list[str]:
    """Return the options that are not as wanted; None means: as it is."""
    have = _USUAL | {"state": "started"} | entry
    have["state"] = {"enabled": "started"}.get(str(have["state"]), have["state"])
    plain = {key: int(value) if isinstance(value, bool) else value for key, value in wanted.items()}
    return [key for key, value in plain.items() if value is not None and one_line(have.get(key, "")) != one_line(value)]


def _resource(entry: Entry, at: Place | None, state: str) -> Resource:
    sid = one_line(entry["sid"])
    return Resource(
        sid=sid,
        vmid=int(sid.partition(":")[2]),
        name=at.name if at is not None else "",
        node=at.node if at is not None else "",
        requested=one_line(entry.get("state") or "started"),
        state=state or "not known",
        max_restart=int(entry.get("max_restart", 1)),
        max_relocate=int(entry.get("max_relocate", 1)),
        failback=bool(int(entry.get("failback", 1))),
        group=one_line(entry.get("group") or ""),
        comment=one_line(entry.get("comment") or ""),
        digest=one_line(entry.get("digest") or ""),
    )


def _between(entry: Entry) -> str:
    """Return the state in a line like `pve1 (active, Mon Nov 2 …)`."""
    text = one_line(entry.get("status") or "")
    return text.partition("(")[2].rpartition(")")[0] or text
