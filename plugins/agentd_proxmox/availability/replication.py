"""Replication: copies of a guest's disks on another node, made on a schedule.

A guest has one job for each target node, so a repeated call finds the job that it created.  A run is not a Proxmox
task: a call makes the job due, the scheduler of the guest's node starts it within a minute, and the state of the job
shows the result.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final

import msgspec
from msgspec import Meta

from agentd import (
    AgentdError,
    Call,
    Found,
    NotFound,
    Rejected,
    Repeat,
    Target,
    TaskFailed,
    TemporaryError,
    Tier,
    formats,
    one_line,
    tool,
)
from agentd_proxmox import area, blind_token, changes, targets
from agentd_proxmox.availability.replication_model import (
    Replica,
    by_id,
    differences,
    old_values,
    replica_of,
    unchanged_digest,
)
from agentd_proxmox.inventory import MARGIN
from agentd_proxmox.model import dropped_values, fields, pages
from agentd_proxmox.model.fields import GuestName, Schedule

if TYPE_CHECKING:
    Entry = dict[str, Any]

LOG_LINES: Final = 10
JOBS: Final = "/cluster/replication"
JobId = formats.Replication
Rate = Annotated[float, Meta(ge=1, le=1_000_000, description="MB/s at most")]


class ListReplications(pages.Paged, frozen=True, forbid_unknown_fields=True):
    """Filters for the jobs, and the page to return.

    vmid     the jobs of one guest; omitted: of all guests
    failing  only jobs that fail
    """

    vmid: fields.Vmid | None = None
    failing: bool = False


class ReplicaPage(msgspec.Struct, frozen=True):
    """The number of jobs, the number that fail, and one page of jobs sorted by ID.

    unread  nodes whose jobs could not be read, with the reason
    """

    total: int
    failing: int
    jobs: list[Replica]
    unread: dict[str, str] = {}
    next: str = ""


class ReplicationSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The replication job."""

    id: JobId


class ReplicaStatus(msgspec.Struct, frozen=True):
    """A job, its digest, and the last log lines of its last run."""

    job: Replica
    digest: str
    log: list[str]


class CreateReplication(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The guest, the target node, and the schedule."""

    vmid: fields.Vmid
    target: fields.Node
    schedule: Schedule = "*/15"
    rate: Rate | None = None
    comment: fields.Comment = ""
    enabled: bool = True


class UpdateReplication(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of the job to change; an omitted one is kept.

    digest  from get_replication: the call is refused if the job has changed since
    """

    id: JobId
    schedule: Schedule | None = None
    rate: Rate | None = None
    comment: fields.Comment | None = None
    enabled: bool | None = None
    digest: str = ""


class DeleteReplication(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The job, and the name of its guest.

    keep    keep the copies on the target
    force   delete the job at once, whatever is on the target: for a target that no longer exists
    """

    id: JobId
    guest: GuestName
    keep: bool = False
    force: bool = False
    digest: str = ""


class DeletedReplication(changes.Deleted, frozen=True):
    """The deleted job; Proxmox deletes it with its next run.

    gone  if false, the next run deletes the job and its copies
    """

    gone: bool = True


class Replication(area.Area):
    """The tools for replication."""

    shown_to: ClassVar[area.ShownTo] = {"list_replications": blind_token.VMS}
    needs: ClassVar[area.Needs] = {
        "list_replications": area.with_path(area.VM, "VM.Audit"),
        "get_replication": area.with_path(area.VM, "VM.Audit"),
        "run_replication": area.with_path(area.VM, "VM.Replicate"),
        "create_replication": area.with_path(area.VM, "VM.Audit", "VM.Replicate"),
        "update_replication": area.with_path(area.VM, "VM.Replicate"),
        "delete_replication": area.with_path(area.VM, "VM.Audit", "VM.Replicate"),
    }

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cluster_management")
    async def list_replications(self, call: Call, p: ListReplications) -> ReplicaPage:
        """List the replication jobs with their state.

        Needs one request for all jobs, and one for each node.
        """
        entries, where = await asyncio.gather(self.proxmox.get(JOBS), self._where())
        if p.vmid is not None and p.vmid not in {int(e["guest"]) for e in entries or []}:
            await self.inventory.find(p.vmid, away=True)  # an unknown VMID is an error, not an empty list
        entries = [e for e in entries or [] if p.vmid in {None, int(e["guest"])}]
        nodes = sorted({where.get(int(e["guest"]), str(e.get("source") or "")) for e in entries} - {""})
        answers = await asyncio.gather(*map(self._states, nodes))
        states = {k: v for answer in answers if isinstance(answer, dict) for k, v in answer.items()}
        unread = {n: one_line(e) for n, e in zip(nodes, answers, strict=True) if isinstance(e, AgentdError)}
        jobs = [replica_of(entry, where, states.get(str(entry["id"]))) for entry in entries]
        wanted = [job for job in jobs if job.fails or not p.failing]
        empty = ReplicaPage(len(jobs), sum(bool(job.fails) for job in jobs), [], unread)
        return pages.fill(empty, "jobs", wanted, by_id, p)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cluster_management")
    async def get_replication(self, call: Call, p: ReplicationSelector) -> ReplicaStatus:
        """Show a replication job: its last run, the result, and the end of its log."""
        entry = await self._known(p.id)
        job = await self._read(entry)
        lines = await self.proxmox.get(f"/nodes/{job.source}/replication/{p.id}/log", limit=0) or []
        log = [one_line(line.get("t") or "") for line in lines][-LOG_LINES:]
        return ReplicaStatus(job, one_line(entry.get("digest") or ""), log)

    @tool(tier=Tier.OPERATE, repeat=Repeat.IDEMPOTENT, capability="cluster_management")
    async def run_replication(self, call: Call, p: ReplicationSelector) -> Replica:
        """Run a replication job now, and wait until it has run.

        The call makes the job due; the scheduler of the node starts due jobs once a minute.  A second call before that
        does not cause a second run.
        """
        entry = await self._known(p.id)
        before = await self._read(entry)
        if not before.enabled or before.removing:
            state = "is being removed" if before.removing else "is off: update_replication with enabled=true"
            raise Rejected(f"the replication job {p.id} {state}")
        title = f"replication job {p.id} of {before.vmid} to {before.target}"
        call.target(Target(f"replication/{p.id}", title, labels=[f"guest/{before.vmid}"]))

        async def apply() -> None:
            await self.proxmox.post(f"/nodes/{before.source}/replication/{p.id}/schedule_now")

        await call.ensure(_nothing, apply)
        pause = 0.25
        while True:
            now = await self._read(entry)
            if now.fails > before.fails:
                raise TaskFailed(f"the replication job {p.id} ran and failed: {now.error or 'no reason is known'}")
            if now.last_sync != before.last_sync and now.last_sync is not None:
                return now
            call.progress(f"the replication job {p.id} is due: the scheduler of {before.source} runs once a minute")
            if call.left() < MARGIN:
                raise TemporaryError(f"the replication job {p.id} is due, and has not run yet")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 5.0)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="cluster_management")
    async def create_replication(self, call: Call, p: CreateReplication) -> Replica:
        """Replicate a guest's disks to another node on a schedule.

        A guest has one job for each target node.
        """
        at = await self.inventory.find(p.vmid, away=True)
        if p.target == at.node:
            raise Rejected(f"target: {at.title} is there itself; choose another node")
        nodes = sorted(str(entry["node"]) for entry in await self.inventory.resources("node"))
        if p.target not in nodes:
            raise Rejected(f"target: there is no node {p.target!r}; there are {', '.join(nodes)}")
        call.target(at.target())
        wanted = {
            "schedule": p.schedule,
            "rate": p.rate,
            "comment": p.comment or None,
            "disable": None if p.enabled else True,
        }

        async def plan() -> changes.Planned:
            mine = [e for e in await self.proxmox.get(JOBS) or [] if int(e["guest"]) == p.vmid]
            taken = {int(str(e["id"]).partition("-")[2]) for e in mine}
            same = next((e for e in mine if e.get("target") == p.target), None)
            if same is None:
                free = next(number for number in range(len(taken) + 1) if number not in taken)
                name = f"{p.vmid}-{free}"
                call.inverse("delete_replication", {"id": name, "guest": at.name})
                return lambda: self.proxmox.post(JOBS, id=name, type="local", target=p.target, **wanted)
            if same.get("remove_job") or (other := differences(same, wanted)):
                what = "being removed" if same.get("remove_job") else f"there with another {', '.join(other)}"
                raise Rejected(f"the replication job {same['id']} of {at.title} to {p.target} is {what}")
            return Found()

        await changes.change(call, plan)
        entries = await self.proxmox.get(JOBS) or []
        made = next((e for e in entries if (int(e["guest"]), e.get("target")) == (p.vmid, p.target)), None)
        if made is None:
            raise TaskFailed(f"Proxmox reports success, but {at.title} has no replication job to {p.target}")
        return await self._read(made)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="cluster_management")
    async def update_replication(self, call: Call, p: UpdateReplication) -> Replica:
        """Change a replication job: its schedule, its rate, or whether it is enabled."""
        wanted: Entry = {
            "schedule": p.schedule,
            "rate": p.rate,
            "comment": p.comment,
            "disable": None if p.enabled is None else not p.enabled,
        }
        if all(value is None for value in wanted.values()):
            raise Rejected("update_replication: give what to change")

        async def plan() -> changes.Planned:
            entry = await self._known(p.id)
            call.target(Target(f"guest/{entry['guest']}", f"replication job {p.id}"))
            if not (other := differences(entry, wanted)):
                return Found()
            digest = unchanged_digest(entry, p.digest)
            call.inverse("update_replication", {"id": p.id} | old_values(replica_of(entry, {}, None), other))
            sent = dropped_values.changed_parameters(wanted, wanted, {"disable"})
            return lambda: self.proxmox.put(f"{JOBS}/{p.id}", digest=digest or None, **sent)

        await changes.change(call, plan)
        entry = await self._known(p.id)
        if other := differences(entry, wanted):
            raise TaskFailed(f"Proxmox reports success, but the job {p.id} has another {', '.join(other)}")
        return await self._read(entry)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="cluster_management")
    async def delete_replication(self, call: Call, p: DeleteReplication) -> DeletedReplication:
        """Delete a replication job and, without `keep`, the copies that it made.

        Proxmox deletes both with the next run of the job.
        """
        vmid = int(p.id.partition("-")[0])
        at = await self.inventory.find(vmid, away=True)
        targets.check_name(at, p.guest)

        was: list[Replica] = []

        async def plan() -> changes.Planned:
            entry = await self._one(p.id)
            if entry is None or (entry.get("remove_job") and not p.force):
                return Found()
            digest = unchanged_digest(await self._known(p.id), p.digest)
            job = replica_of(entry, {vmid: at.node}, None)
            lost = f"the copies of {at.title} on {job.target}" if not p.keep else f"newer copies on {job.target}"
            guest = at.target()
            labels = [guest.name, *guest.labels]
            call.target(Target(f"replication/{p.id}", f"replication job {p.id}", {"digest": digest}, labels, [lost]))
            again = ["schedule", "rate", "comment", "disable"]
            call.inverse("create_replication", {"vmid": vmid, "target": job.target} | old_values(job, again))
            was[:] = [job]
            return lambda: self.proxmox.delete(f"{JOBS}/{p.id}", keep=p.keep or None, force=p.force or None)

        await changes.change(call, plan)
        entry = await self._one(p.id)
        if entry is not None and not entry.get("remove_job"):
            raise TaskFailed(f"Proxmox reports success, but the job {p.id} stays: another client created it again")
        return DeletedReplication(p.id, bool(was), msgspec.to_builtins(was[0]) if was else None, gone=entry is None)

    async def _where(self) -> dict[int, str]:
        return {place.vmid: place.node for place in await self.inventory.places()}

    async def _states(self, node: str) -> dict[str, Entry] | AgentdError:
        """Return the states of a node's jobs, or the error if they cannot be read."""
        try:
            return {str(job["id"]): job for job in await self.proxmox.get(f"/nodes/{node}/replication") or []}
        except AgentdError as error:
            return error

    async def _one(self, name: str) -> Entry | None:
        """Return a job, or None.

        It is read from the list, because Proxmox answers a request for a missing job with an error of its own.
        """
        return next((dict(e) for e in await self.proxmox.get(JOBS) or [] if e.get("id") == name), None)

    async def _known(self, name: str) -> Entry:
        """Return a job with its digest; raise NotFound if it does not exist."""
        entries = await self.proxmox.get(JOBS) or []
        names = sorted(one_line(entry["id"]) for entry in entries)
        if name not in names:
            raise NotFound(f"there is no replication job {name}; there are {', '.join(names) or 'none'}")
        return dict(await self.proxmox.get(f"{JOBS}/{name}"))

    async def _read(self, entry: Entry) -> Replica:
        where = await self._where()
        node = where.get(int(entry["guest"]), str(entry.get("source") or ""))
        states = await self._states(node)
        if isinstance(states, AgentdError):
            raise states
        return replica_of(entry, where, states.get(str(entry["id"])))


async def _nothing() -> None:
    """Return None: making a job due again is harmless, it still runs once."""
