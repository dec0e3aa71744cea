"""High availability (HA): what the HA manager does, and which guests it manages.

The HA manager keeps a guest in the state that its resource requests: `stopped` shuts the guest down, `ignored` leaves
it alone.  A change carries the digest that Proxmox returned with the resource, so that a concurrent change is not
overwritten.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import Meta

from agentd import Call, Found, NotFound, Rejected, Repeat, TaskFailed, Tier, formats, one_line, tool
from agentd_proxmox import area, blind_token, changes, targets
from agentd_proxmox.availability.ha_model import Rule, rules, service
from agentd_proxmox.model import convert, fields, pages
from agentd_proxmox.model.fields import GuestName

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentd_proxmox.inventory import GuestLocation

    Entry = dict[str, Any]

RESOURCES: Final = "/cluster/ha/resources"
State = Literal["started", "stopped", "disabled", "ignored"]
Times = Annotated[int, Meta(ge=0, le=1000)]
Group = Annotated[formats.ConfigId, Meta(description="name of an HA group (Proxmox VE 8)")]


class Resource(msgspec.Struct, frozen=True, omit_defaults=True):
    """A guest under HA: the requested state, and the state that the manager reports."""

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
    """The HA status: quorum, master, one page of the resources, and all rules.

    nodes       state of the local HA manager of each node
    states      number of resources in each state
    rules_from  `rules` with Proxmox VE 9, `groups` with 8
    """

    quorate: bool
    master: str
    nodes: dict[str, str]
    states: dict[str, int]
    resources: list[Resource]
    rules_from: str
    rules: list[Rule]
    next: str = ""


class CreateHaResource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The guest, and how the HA manager treats it.

    state         started keeps it running, stopped keeps it off, ignored leaves it alone
    max_restart   attempts to start it again on its node
    max_relocate  attempts to start it on other nodes
    failback      it moves back to the node that it prefers
    group         for Proxmox VE 8; Proxmox VE 9 has rules instead
    """

    vmid: fields.Vmid
    state: State = "started"
    max_restart: Times = 1
    max_relocate: Times = 1
    failback: bool | None = None
    group: Group | None = None
    comment: fields.Comment = ""


class UpdateHaResource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The HA settings to change; an omitted one is kept.

    digest  from list_ha: the call is refused if the resource has changed since
    """

    vmid: fields.Vmid
    state: State | None = None
    max_restart: Times | None = None
    max_relocate: Times | None = None
    failback: bool | None = None
    group: Group | None = None
    comment: fields.Comment | None = None
    digest: str = ""


class DeleteHaResource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The guest, by VMID and name; the guest itself is not changed.

    purge   also remove it from the HA rules
    digest  from list_ha: the call is refused if the resource has changed since
    """

    vmid: fields.Vmid
    guest: GuestName
    purge: bool = True
    digest: str = ""


class Ha(area.Area):
    """The tools for HA resources."""

    shown_to: ClassVar[area.ShownTo] = {"list_ha": blind_token.CLUSTER}

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cluster_management")
    async def list_ha(self, call: Call, p: pages.Paged) -> HaOverview:
        """Show the HA status: the manager, the guests under HA, and their rules."""
        states, found = await asyncio.gather(self._states(), rules(self.proxmox))
        resources = await self._resources(states)
        tally: dict[str, int] = {}
        for resource in resources:
            tally[resource.state] = tally.get(resource.state, 0) + 1
        by_type = {kind: [e for e in states if e.get("type") == kind] for kind in ("quorum", "master", "lrm")}
        empty = HaOverview(
            quorate=any(int(e.get("quorate") or 0) for e in by_type["quorum"]),
            master=one_line(next((e.get("status") or "" for e in by_type["master"]), "")),
            nodes={one_line(e["node"]): _state_of_line(e) for e in by_type["lrm"]},
            states=tally,
            resources=[],
            rules_from=found.source,
            rules=found.rules,
        )
        return pages.fill(empty, "resources", resources, lambda resource: resource.sid, p)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="cluster_management")
    async def create_ha_resource(self, call: Call, p: CreateHaResource) -> Resource:
        """Put a guest under HA, so that it is started elsewhere if its node fails.

        The HA manager keeps the guest in the requested state.
        """
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

        async def plan() -> changes.Planned:
            entry = await self._entry(at)
            if entry is None:
                call.inverse("delete_ha_resource", {"vmid": at.vmid, "guest": at.name})
                return lambda: self.proxmox.post(RESOURCES, sid=service(at), **wanted)
            if other := _differs(entry, wanted):
                raise Rejected(f"{at.title} is under HA with another {', '.join(other)}: update_ha_resource changes it")
            return Found()

        await changes.change(call, plan)
        return await self._there(at, wanted)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="cluster_management")
    async def update_ha_resource(self, call: Call, p: UpdateHaResource) -> Resource:
        """Change the HA settings of a guest.

        `state` starts the guest, shuts it down, or leaves it alone.
        """
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
            raise Rejected("update_ha_resource: give what to change")
        call.target(at.target())

        async def plan() -> changes.Planned:
            entry = await self._entry(at)
            if entry is None:
                raise NotFound(f"{at.title} is not under HA: create_ha_resource puts it there")
            if not (other := _differs(entry, wanted)):
                return Found()
            digest = one_line(entry.get("digest") or "")
            changes.check_unchanged(f"HA of {at.title}", p.digest, digest)
            call.inverse("update_ha_resource", {"vmid": at.vmid} | _before(_resource(entry, at, ""), other))
            gone = ",".join(key for key, value in wanted.items() if value == "") or None
            sent = {key: value for key, value in wanted.items() if value not in ("", None)}
            return lambda: self.proxmox.put(f"{RESOURCES}/{service(at)}", delete=gone, digest=digest or None, **sent)

        await changes.change(call, plan)
        return await self._there(at, wanted)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="cluster_management")
    async def delete_ha_resource(self, call: Call, p: DeleteHaResource) -> changes.Deleted:
        """Remove a guest from HA; its current state is kept.

        It is no longer started on another node when its node fails.
        """
        at = await self.inventory.find(p.vmid, away=True)
        targets.check_name(at, p.guest)

        async def find() -> Resource | None:
            entry = await self._entry(at)
            return None if entry is None else _resource(entry, at, "")

        async def plan(was: Resource) -> changes.Send:
            changes.check_unchanged(f"HA of {at.title}", p.digest, was.digest)
            lost = "its place under HA: it is not started elsewhere when its node fails"
            call.target(await targets.guest_target(self.inventory, at, lost))
            call.inverse("create_ha_resource", {"vmid": at.vmid} | _before(was, ["state", *_KEPT]))
            return lambda: self.proxmox.delete(f"{RESOURCES}/{service(at)}", purge=None if p.purge else False)

        return await changes.delete(call, changes.Item("HA resource", service(at), find), plan)

    async def _states(self) -> list[Entry]:
        return await self.proxmox.get("/cluster/ha/status/current") or []

    async def _resources(self, states: list[Entry]) -> list[Resource]:
        entries, places = await asyncio.gather(self.proxmox.get(RESOURCES), self.inventory.places())
        at = {service(place): place for place in places}
        crm = {str(entry.get("sid")): one_line(entry.get("crm_state") or entry.get("state") or "") for entry in states}
        return [_resource(entry, at.get(str(entry["sid"])), crm.get(str(entry["sid"]), "")) for entry in entries or []]

    async def _entry(self, at: GuestLocation) -> Entry | None:
        """Return the HA resource of a guest, or None.

        It is read from the list, because Proxmox answers a request for a missing resource with an error of its own.
        """
        entries = await self.proxmox.get(RESOURCES) or []
        return next((dict(entry) for entry in entries if entry.get("sid") == service(at)), None)

    async def _there(self, at: GuestLocation, wanted: Entry) -> Resource:
        entry = await self._entry(at)
        if entry is None or (other := _differs(entry, wanted)):
            what = "it is not under HA" if entry is None else f"its {', '.join(other)} is another"
            raise TaskFailed(f"Proxmox reports success, but {what}: another client changed HA of {at.title}")
        states = {str(state.get("sid")): state for state in await self._states()}
        one = states.get(service(at), {})
        return _resource(entry, at, one_line(one.get("crm_state") or one.get("state") or ""))


_KEPT: Final = ("max_restart", "max_relocate", "comment")


def _before(was: Resource, options: Iterable[str]) -> Entry:
    """Return the old values of `options`, as parameters of our tools."""
    state = {"enabled": "started"}.get(was.requested, was.requested)
    have = {"state": state, "failback": was.failback, "group": was.group or None, "comment": was.comment}
    have |= {"max_restart": was.max_restart, "max_relocate": was.max_relocate}
    return {key: have[key] for key in options}


_USUAL: Final[Entry] = {"state": "started", "max_restart": 1, "max_relocate": 1, "failback": 1}


def _differs(entry: Entry, wanted: Entry) -> list[str]:
    """Return the options that differ from `wanted`; None there means unchanged."""
    have = _USUAL | {"state": "started"} | entry
    have["state"] = {"enabled": "started"}.get(str(have["state"]), have["state"])
    plain = {key: int(value) if isinstance(value, bool) else value for key, value in wanted.items()}
    return [key for key, value in plain.items() if value is not None and one_line(have.get(key, "")) != one_line(value)]


def _resource(entry: Entry, at: GuestLocation | None, state: str) -> Resource:
    sid = one_line(entry["sid"])
    return convert.entry(
        Resource,
        entry,
        sid=sid,
        vmid=int(sid.partition(":")[2]),
        name=at.name if at is not None else "",
        node=at.node if at is not None else "",
        requested=convert.text(entry.get("state"), "started"),
        state=state or "not known",
    )


def _state_of_line(entry: Entry) -> str:
    """Return the state from a status line like `pve1 (active, Mon Nov 2 …)`."""
    text = one_line(entry.get("status") or "")
    return text.partition("(")[2].rpartition(")")[0] or text
