"""Migrate guests between nodes, and check before whether they can migrate.

The node of the guest shows whether the work is done.  So after a lost answer, the agent checks on which node the guest
is, and whether its own migration task still runs.  A guest under HA is moved by the HA manager: the node's API forwards
the request and its task ends at once (`hamigrate`), so the agent polls the guest until it has arrived.  A migration
that is aborted cleans up: the guest continues on its source node, where a container is started again.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import msgspec

from agentd import (
    AgentdError,
    Call,
    Denied,
    Found,
    NotFound,
    Rejected,
    Repeat,
    TaskFailed,
    TemporaryError,
    Tier,
    Upid,
    one_line,
    tool,
)
from agentd_proxmox import area, targets
from agentd_proxmox.availability import cpu_check, ha_model, preflight
from agentd_proxmox.availability.migration_model import Cpu, Facts, Finding, MigrationRequest
from agentd_proxmox.inventory import MARGIN
from agentd_proxmox.model import fields, guest_model
from agentd_proxmox.targets import upid_of

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from agentd_proxmox.inventory import GuestLocation

    Entry = dict[str, Any]
    T = TypeVar("T")

MOVERS: Final = frozenset({"qmigrate", "vzmigrate", "hamigrate"})
TELL: Final = 2.0
"""Seconds between two reads of the log of a migration."""
_TO: Final = re.compile(r"\bto node '?([A-Za-z0-9-]+)")


class Report(msgspec.Struct, frozen=True):
    """Whether a migration is possible, and all findings, blocking ones first."""

    vmid: int
    name: str
    source: str
    target: str
    running: bool
    ha: bool
    possible: bool
    findings: list[Finding]


class Migrated(msgspec.Struct, frozen=True):
    """The guest on its node now, and the node that it came from.

    moved  false if the guest was on the target already
    """

    guest: fields.Guest
    source: str
    moved: bool


class Migration(area.Area):
    """The tools that migrate guests."""

    optional: ClassVar[area.Optional] = {
        "check_migration": {f"GET /nodes/{{node}}/{kind}/{{vmid}}/migrate" for kind in ("qemu", "lxc")}
    }
    needs: ClassVar[area.Needs] = {
        "check_migration": area.with_path(area.VM, "VM.Audit") | {("Sys.Audit", "/"), ("Sys.Audit", "/nodes/{node}")},
        "migrate_guest": {area.SPACE} | area.with_path("/nodes/{node}", "Sys.Audit"),
    }

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="vm_management")
    async def check_migration(self, call: Call, p: MigrationRequest) -> Report:
        """Check whether a guest can migrate, and what to do about each problem."""
        at = await self.inventory.find(p.vmid, p.name)
        facts = await self._facts(at, p)
        found = preflight.findings(facts, p)
        return Report(
            vmid=at.vmid,
            name=at.name,
            source=at.node,
            target=p.target,
            running=facts.running,
            ha=bool((facts.status.get("ha") or {}).get("managed")),
            possible=not any(finding.blocks for finding in found),
            findings=found,
        )

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="vm_management", stoppable=True)
    async def migrate_guest(self, call: Call, p: MigrationRequest) -> Migrated:
        """Migrate a VM or container to another node, and wait until it is there.

        A running VM moves while it runs, a running container is stopped for it (restart=true).  The call is refused
        before anything is changed if check_migration finds a blocking problem, and changes nothing if the guest is
        there already.  An aborted migration leaves the guest on its node, unless the HA manager moves it.
        """
        at = await self.inventory.find(p.vmid, p.name)
        call.target(at.target())

        async def check() -> Found | None:
            nonlocal at
            at, upid = await self._wait_until_unlocked(call, at.vmid, p.target)
            if upid or at.node == p.target:
                return Found(upid)
            facts = await self._facts(at, p)
            self._refuse(call, at, p, preflight.findings(facts, p))
            call.inverse("migrate_guest", preflight.way_back(facts, p))
            return None

        async def apply() -> str | None:
            running = guest_model.is_powered_on(await self.inventory.status(at))
            return upid_of(await self.proxmox.post(f"{at.path}/migrate", **_sent(at, p, running=running)))

        found = await call.ensure(check, apply)
        if not found.upid:
            return Migrated(await self.inventory.read(at), at.node, moved=False)
        upid = Upid.parse(found.upid)
        try:
            await self._follow(call, found)
        except TaskFailed as error:
            await self._failed(call, at.vmid, p.target, error)
        now = await self._arrived(call, at, p.target, upid)
        return Migrated(await self.inventory.read(now), upid.node, moved=True)

    @staticmethod
    def _refuse(call: Call, at: GuestLocation, p: MigrationRequest, found: list[Finding]) -> None:
        """Raise Rejected for blocking findings; add the others as warnings."""
        if blocking := [finding.line() for finding in found if finding.blocks]:
            raise Rejected(f"{at.title} cannot move to {p.target}: {'; '.join(blocking)}: nothing was done")
        for finding in found:
            call.warn(finding.line())

    async def _facts(self, at: GuestLocation, p: MigrationRequest) -> Facts:
        """Read what the checks need; a target that is not online is not queried."""
        nodes, storages, config, status = await asyncio.gather(
            self.inventory.resources("node"),
            self.inventory.resources("storage"),
            self.inventory.config(at),
            self.inventory.status(at),
        )
        by_node = {str(node["node"]): node for node in nodes}
        facts = Facts(
            at=at,
            config=config,
            status=status,
            nodes=by_node,
            storages={(str(storage["node"]), str(storage["storage"])): storage for storage in storages},
        )
        if at.node == p.target or by_node.get(p.target, {}).get("status") != "online" or status.get("lock"):
            return facts
        conditions, bridges, jobs, snapshots = await asyncio.gather(
            _or_none(self.proxmox.get(f"{at.path}/migrate", target=p.target)),
            _or_none(self.proxmox.get(f"/nodes/{p.target}/network", type="any_bridge")),
            _or_none(self.proxmox.get("/cluster/replication")),
            self._snapshots(at) if config.get("parent") else _nothing(),
        )
        rules, managed = await self._ha(at) if (status.get("ha") or {}).get("managed") else (None, {})
        return Facts(
            at=at,
            config=config,
            status=status,
            nodes=by_node,
            storages=facts.storages,
            conditions=conditions,
            bridges=None if bridges is None else frozenset(str(bridge.get("iface")) for bridge in bridges),
            cpus=await self._cpus(cpu_check.nodes(facts, p)),
            rules=rules,
            managed=managed,
            snapshots=snapshots,
            replicas=None if jobs is None else _targets(jobs, at.vmid),
        )

    async def _snapshots(self, at: GuestLocation) -> dict[str, Entry]:
        """Return the configurations of the snapshots.

        The media and devices of a snapshot move with the guest as well.
        """
        entries: list[Entry] = await self.proxmox.get(f"{at.path}/snapshot") or []
        names = [str(entry["name"]) for entry in entries if entry.get("name") != "current"]
        found = [await self.proxmox.get(f"{at.path}/snapshot/{name}/config") or {} for name in names]
        return dict(zip(names, found, strict=True))

    async def _cpus(self, nodes: tuple[str, ...]) -> tuple[Cpu, ...] | None:
        answers = await asyncio.gather(*(_or_none(self.proxmox.get(f"/nodes/{node}/status")) for node in nodes))
        found = [_cpu(answer.get("cpuinfo") or {}) for answer in answers if answer is not None]
        return tuple(found) if nodes and len(found) == len(nodes) else None

    async def _ha(self, at: GuestLocation) -> tuple[list[ha_model.Rule] | None, dict[str, str]]:
        """Return the HA rules, and the nodes of the guests that HA manages.

        Groups of Proxmox VE 8 are returned as rules.
        """
        resources, places, rules = await asyncio.gather(
            _or_none(self.proxmox.get("/cluster/ha/resources")),
            self.inventory.places(),
            _or_none(ha_model.rules(self.proxmox)),
        )
        where = {ha_model.service(place): place.node for place in places}
        managed = {str(e["sid"]): where[str(e["sid"])] for e in resources or [] if str(e["sid"]) in where}
        managed[ha_model.service(at)] = at.node
        return None if rules is None else rules.rules, managed

    async def _wait_until_unlocked(self, call: Call, vmid: int, target: str) -> tuple[GuestLocation, str]:
        """Wait until nothing holds the guest; return where it is, and our own migration.

        The migration is the UPID of our task to `target`, or "" if none runs.
        """
        while True:
            at = await self.inventory.find(vmid)
            upid, to = ("", "") if at.node == target else await self._running_migration(at)
            if at.node == target or (upid and to == target):
                return at, upid
            text = f"{at.title} is being moved to {to or 'some node'} ({upid})"
            if not upid:
                try:
                    await self.inventory.unlocked(call, at)
                except NotFound:  # it was moved or deleted during the check
                    text = f"{at.title} has just been moved or deleted"
                else:
                    return at, ""
            await targets.wait_a_moment(call, text)

    async def _running_migration(self, at: GuestLocation) -> tuple[str, str]:
        """Return the UPID and target node of our running migration, both "" if none runs."""
        tasks = await self.inventory.active([at.node])
        ours = [e for e in tasks if e.type in MOVERS and e.id == str(at.vmid) and e.user == self.proxmox.user]
        if not ours:
            return "", ""
        entries = await self.proxmox.get(f"/nodes/{at.node}/tasks/{ours[0].text}/log", limit=10) or []
        found = _TO.search(" ".join(str(line.get("t")) for line in entries))
        return ours[0].text, found[1] if found else ""

    async def _follow(self, call: Call, found: Found) -> None:
        """Wait for the task, and report its log as progress."""

        async def tell() -> None:
            while True:
                await asyncio.sleep(TELL)
                try:
                    lines = await self.proxmox.log_tail(found.upid, 1)
                except AgentdError:
                    continue  # `finish` below finds out whether the task still runs
                if lines:
                    call.progress(lines[-1])

        reporter = asyncio.ensure_future(tell())
        try:
            await self.inventory.finish(call, found)
        finally:
            reporter.cancel()

    async def _failed(self, call: Call, vmid: int, target: str, error: TaskFailed) -> None:
        """Raise TaskFailed with the place and state of the guest.

        A guest that arrived although its task failed is only a warning.
        """
        now = await self.inventory.find(vmid)
        if now.node == target:
            call.warn(f"{error}; but {now.title} is there: see {'; '.join(_errors(error)) or 'the log of the task'}")
            return
        status = await self.inventory.status(now)
        lock = f", locked ({one_line(status['lock'])})" if status.get("lock") else ""
        why = "; ".join(_errors(error))
        raise TaskFailed(
            f"{error}{f': {why}' if why else ''}; {now.title} is where it was: {guest_model.state(status)}{lock}",
            log=error.log,
        )

    async def _arrived(self, call: Call, at: GuestLocation, target: str, upid: Upid) -> GuestLocation:
        """Return the place of the guest on `target`; wait for one under HA."""
        idle, pause = time.monotonic(), 0.25
        while True:
            now = await self.inventory.find(at.vmid)
            managed = upid.type == "hamigrate"
            status = await self.inventory.status(now) if managed else {}
            if now.node == target and status.get("lock") != "migrate":
                return now
            if not managed:
                raise TaskFailed(f"the task succeeded, but {now.title} is not on {target}: another client moved it")
            state = await self._ha_state(now, upid)
            if state in {"migrate", "relocate"} or status.get("lock") == "migrate":
                idle = time.monotonic()
            elif time.monotonic() - idle > self.inventory.settings.ha_timeout:
                raise TaskFailed(
                    f"the HA manager accepted it, and {now.title} is {state or 'as before'}: nothing moves it"
                )
            call.progress(f"the HA manager moves {now.title} to {target} ({state or 'state not known'})")
            if call.left() < MARGIN:
                raise TemporaryError(
                    f"the HA manager accepted the move of {now.title} to {target} and has not done it yet"
                )
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 3.0)

    async def _ha_state(self, now: GuestLocation, upid: Upid) -> str:
        """Return the HA state of the guest; raise TaskFailed if its migration failed."""
        entries = await self.proxmox.tasks(upid.node, source="all", vmid=now.vmid, since=upid.start, limit=20)
        for task in entries:
            ended = one_line(task.get("status") or "RUNNING") if task.get("endtime") else ""
            if task.get("type") in {"qmigrate", "vzmigrate"} and ended not in {"", "OK"} and "WARNINGS" not in ended:
                raise TaskFailed(f"the HA manager could not move {now.title}: {ended} ({task['upid']})")
        states = await _or_none(self.proxmox.get("/cluster/ha/status/current")) or []
        one: Entry = next((e for e in states if e.get("sid") == ha_model.service(now)), {})
        return one_line(one.get("crm_state") or one.get("state") or "")


def _cpu(info: Entry) -> Cpu:
    return Cpu(one_line(info.get("model") or ""), frozenset(str(info.get("flags") or "").split()))


async def _nothing() -> dict[str, Entry]:
    return {}


def _targets(jobs: list[Entry], vmid: int) -> frozenset[str]:
    """Return the nodes that a guest is replicated to."""
    return frozenset(one_line(job.get("target")) for job in jobs if str(job.get("guest")) == str(vmid))


async def _or_none(asked: Awaitable[T]) -> T | None:
    """Return the answer, or None if the token may not read it.

    The checks report what they could not read.
    """
    try:
        return await asked
    except (Denied, NotFound):
        return None


def _sent(at: GuestLocation, p: MigrationRequest, *, running: bool) -> Entry:
    """Return the parameters of a migration in the names of Proxmox."""
    pairs = ",".join(f"{source}:{target}" for source, target in sorted(p.storage_map.items()))
    storages = ",".join(filter(None, (p.target_storage, pairs))) or None
    if at.kind == "lxc":
        return {"target": p.target, "restart": True if p.restart and running else None, "target-storage": storages}
    local = True if p.with_local_disks else None
    online = True if p.online and running else None
    return {"target": p.target, "online": online, "with-local-disks": local, "targetstorage": storages}


def _errors(error: TaskFailed) -> list[str]:
    """Return the last three error lines of a migration's log."""
    return [line for line in error.log if re.search(r"\bERROR\b", line)][-3:]
