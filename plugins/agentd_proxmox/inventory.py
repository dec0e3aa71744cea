"""Find guests in the cluster, read them, and wait for their locks and tasks."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from agentd import (
    Denied,
    GuestLocked,
    NodeOffline,
    NotFound,
    ProxmoxUnavailable,
    Rejected,
    Target,
    Upid,
    grant,
    one_line,
)
from agentd_proxmox.model import guest_model
from agentd_proxmox.model.fields import Guest, GuestLine

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentd import Call, Found, Proxmox
    from agentd_proxmox.settings import ToolSettings

    Entry = dict[str, Any]

LOCK_PAUSE: Final = 1.0
MARGIN: Final = 5.0
"""Seconds before a call's deadline at which waiting ends, to report what it waited for."""


@dataclass(frozen=True)
class GuestLocation:
    """The location of a guest, and its data in /cluster/resources.

    The data is up to 10 s old, except for the node.
    """

    vmid: int
    node: str
    kind: str
    name: str
    status: str
    template: bool
    tags: tuple[str, ...] = ()
    lock: str = ""
    pool: str = ""
    away: bool = False
    """Whether its node is offline."""

    @property
    def path(self) -> str:
        """The guest's path in the API."""
        return f"/nodes/{self.node}/{self.kind}/{self.vmid}"

    @property
    def title(self) -> str:
        """Its name in messages for people."""
        noun = "VM" if self.kind == "qemu" else "container"
        return f"{noun} {self.vmid}" + (f" '{self.name}'" if self.name else "") + f" on {self.node}"

    def target(self) -> Target:
        """Return the guest as the target of a change, with the labels that may protect it."""
        tags, pools = [f"tag/{tag}" for tag in self.tags], [f"pool/{self.pool}"] if self.pool else []
        return Target(f"guest/{self.vmid}", self.title, labels=[f"guest/{self.name}", *tags, *pools])

    def line(self) -> GuestLine:
        """Return the guest as an entry of a list."""
        return GuestLine(
            self.vmid, self.name, self.node, self.status, type=self.kind, tags=list(self.tags), lock=self.lock
        )


def location_of(entry: Entry) -> GuestLocation:
    """Return the place of a guest, from its entry in /cluster/resources."""
    return GuestLocation(
        vmid=int(entry["vmid"]),
        node=one_line(entry["node"]),
        kind=str(entry.get("type") or "qemu"),
        name=one_line(entry.get("name") or ""),
        status=one_line(entry.get("status") or "unknown"),
        template=bool(entry.get("template")),
        tags=tuple(guest_model.split_tags(entry.get("tags"))),
        lock=one_line(entry.get("lock") or ""),
        pool=one_line(entry.get("pool") or ""),
        away=bool(entry.get("away")),
    )


class Inventory:
    """Reads guests for the tools; has no state of its own."""

    def __init__(self, proxmox: Proxmox, settings: ToolSettings) -> None:
        """Use the client `proxmox`, and the waiting times of `settings`."""
        self.proxmox = proxmox
        self.settings = settings

    async def resources(self, kind: str) -> list[Entry]:
        """Return /cluster/resources of one kind.

        Raises Denied if the list is empty because the token has no rights.
        """
        entries: list[Entry] = await self.proxmox.get("/cluster/resources", type=kind) or []
        if not entries and not await self.proxmox.permissions():
            raise Denied(
                f"the token {self.proxmox.user} has no rights, so Proxmox shows it nothing; to let it read: "
                + grant("/", "VM.Audit", self.proxmox.user)
            )
        return entries

    async def places(self) -> list[GuestLocation]:
        """Return every guest that the token may see, sorted by VMID.

        The name of a guest is "" while it is not known.
        """
        entries = await self.completed(await self.resources("vm"))
        return sorted(map(location_of, entries), key=lambda guest: guest.vmid)

    async def completed(self, entries: list[Entry]) -> list[Entry]:
        """Add the data of guests that the cluster's list lacks for up to 10 s.

        The data is read from the guests' nodes (proxmox.md, Guests).  A guest of an offline node stays as it is listed,
        with `away` set.
        """
        unsure = [entry for entry in entries if entry.get("status") in {None, "unknown"} or not entry.get("name")]
        if not unsure:
            return entries
        nodes = {str(entry.get("node")): entry.get("status") for entry in await self.proxmox.get("/nodes") or []}
        offline = {name for name, state in nodes.items() if state == "offline"}
        wanted = sorted({(str(e["node"]), str(e.get("type") or "qemu")) for e in unsure if e["node"] not in offline})
        lists = await asyncio.gather(*(self._listed(node, kind) for node, kind in wanted))
        known = {int(entry["vmid"]): entry for found in lists for entry in found}
        for entry in unsure:
            more = known.get(int(entry["vmid"]), {})
            entry.update({key: more[key] for key in ("name", "status", "template", "tags", "lock") if key in more})
            entry["away"] = entry["node"] in offline
        return entries

    async def _listed(self, node: str, kind: str) -> list[Entry]:
        """Return the guests of one kind on a node; [] if the node does not answer."""
        try:
            return await self.proxmox.get(f"/nodes/{node}/{kind}") or []
        except (ProxmoxUnavailable, NotFound, Denied):
            return []

    async def now(self, places: Iterable[GuestLocation]) -> list[GuestLocation]:
        """Return places with the current status of the guests.

        The cluster's list shows a stopped VM as running while it is backed up.
        """
        found = list(places)
        asked = [at for at in found if at.status == "running" and at.lock == "backup" and at.kind == "qemu"]
        states = await asyncio.gather(*(self._state(at) for at in asked))
        changed = {at.vmid: state for at, state in zip(asked, states, strict=True)}
        return [replace(at, status=changed.get(at.vmid, at.status)) for at in found]

    async def _state(self, at: GuestLocation) -> str:
        try:
            return guest_model.state(await self.status(at))
        except (ProxmoxUnavailable, NotFound, Denied):
            return "unknown"

    async def node_names(self) -> set[str]:
        """Return the names of the nodes of the cluster."""
        return {str(entry["node"]) for entry in await self.proxmox.get("/nodes") or []}

    async def at(self, vmid: int) -> GuestLocation | None:
        """Return the place of the guest `vmid`, or None."""
        return next((guest for guest in await self.places() if guest.vmid == vmid), None)

    async def find(self, vmid: int | None, name: str = "", *, vm: bool = False, away: bool = False) -> GuestLocation:
        """Return the place of a guest, given by its VMID or its name.

        Raises NotFound; Rejected if the name is not unique, or if `vm` is set and it is not a VM; NodeOffline if its
        node is offline, unless `away` says that the node is not needed.
        """
        if (vmid is None) == (not name):
            raise Rejected("name the guest by its vmid or by its name, one of both")
        places = await self.places()
        found = [guest for guest in places if (guest.vmid == vmid if vmid is not None else guest.name == name)]
        if name and (nameless := [at for at in places if not at.name]):
            self._check_nameless(name, found, nameless)
        if not found:
            raise NotFound(f"there is no guest {vmid or name!r}, or {self.proxmox.user} may not see it (VM.Audit)")
        if len(found) > 1:
            where = ", ".join(guest.title for guest in found)
            raise Rejected(f"{len(found)} guests are called {name!r}: {where}; name one by its vmid")
        if vm and found[0].kind != "qemu":
            raise Rejected(f"{found[0].title} is not a VM")
        if found[0].away and not away:
            raise NodeOffline(
                f"{found[0].title}: the node {found[0].node} is offline, so nothing is known of the guest now",
                delay=3.0,
            )
        return found[0]

    @staticmethod
    def _check_nameless(name: str, found: list[GuestLocation], nameless: list[GuestLocation]) -> None:
        """Raise an error if a guest whose name is not known may have the name `name`."""
        titles = ", ".join(at.title for at in nameless)
        text = f"whether a guest is called {name!r} is not known: the names of {titles} are not known now"
        if not all(at.away for at in nameless):
            raise ProxmoxUnavailable(f"{text}; Proxmox learns them within 10 s", delay=2.0)
        if not found:
            raise NodeOffline(f"{text}, for their node is offline; name it by its vmid", delay=3.0)

    async def config(self, at: GuestLocation) -> guest_model.Config:
        """Return the guest's configuration, including pending changes."""
        return dict(await self.proxmox.get(f"{at.path}/config"))

    async def status(self, at: GuestLocation) -> Entry:
        """Return the current status of the guest."""
        return dict(await self.proxmox.get(f"{at.path}/status/current"))

    async def read(self, at: GuestLocation) -> Guest:
        """Return the guest with its current configuration and status."""
        config, status = await asyncio.gather(self.config(at), self.status(at))
        return guest_model.guest(at.vmid, at.node, at.kind, config, status)

    async def finish(self, call: Call, found: Found) -> None:
        """Wait for the task that was found or started, and pass its warnings on."""
        if found.upid:
            call.progress(f"waiting for {found.upid}")
            for line in await self.proxmox.wait(found.upid, call.left()):
                call.warn(line)

    async def active(self, nodes: Iterable[str]) -> list[Upid]:
        """Return the running tasks on `nodes`.

        Tasks of other users are included only if the token may see them.
        """
        found: list[Upid] = []
        for node in sorted(set(nodes)):
            found += [Upid.parse(task["upid"]) for task in await self.proxmox.tasks(node, source="active", limit=500)]
        return found

    async def unlocked(self, call: Call, at: GuestLocation, *, besides: str = "") -> Entry:
        """Wait until the guest is not locked, and return its status.

        Raises GuestLocked after the waiting time.  Call it before a task is started: Proxmox accepts power, resize and
        snapshot tasks on a locked guest, and then they fail.

        besides  a lock that is ignored
        """
        until = time.monotonic() + min(self.settings.lock_timeout, call.left() - MARGIN)
        pause = LOCK_PAUSE / 4
        while True:
            status = await self.status(at)
            lock = one_line(status.get("lock") or "")
            if lock in {"", besides} or (besides and guest_model.is_prelaunched(status)):
                return status
            call.progress(f"waiting: {at.title} is locked ({lock})")
            if time.monotonic() >= until:
                raise GuestLocked(f"{at.title} is locked ({lock}){await self._holder(at)}", delay=10.0)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LOCK_PAUSE * 4)

    async def _holder(self, at: GuestLocation) -> str:
        held = [task for task in await self.active([at.node]) if task.id in {str(at.vmid), ""}]
        if not held:
            return " and no task that runs here names it: an older one may have left the lock behind"
        return " by " + ", ".join(f"{task.type} of {task.user} ({task.text})" for task in held)
