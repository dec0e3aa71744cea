"""Delete old backups by a rule: exactly those that the preview showed.

Proxmox itself decides what a rule keeps (`keep-last` and so on); protected backups and those that do not have the
standard name always stay.  preview_prune shows the decision and a digest of it; prune_backups with that digest deletes
nothing else, although time has passed.  Afterwards the storage is read again, so the result says what is really gone
and what is left.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import Meta

from agentd import Call, ConfigChanged, Found, Rejected, Repeat, Target, TaskFailed, Tier, one_line, tool
from agentd_proxmox import area, changes, targets
from agentd_proxmox.model import fields, pages

Keep = Annotated[int, Meta(ge=0, le=10_000)]
SHOWN: Final = 20


class PruneRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The storage, the guest (default: all), and how many backups to keep."""

    storage: fields.Storage
    node: fields.Node
    vmid: fields.Vmid | None = None
    type: Literal["", "qemu", "lxc"] = ""
    keep_last: Keep = 0
    keep_hourly: Keep = 0
    keep_daily: Keep = 0
    keep_weekly: Keep = 0
    keep_monthly: Keep = 0
    keep_yearly: Keep = 0


class PruneBackups(PruneRule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rule of the preview, and the digest of the preview."""

    digest: Annotated[str, Meta(min_length=1, description="`digest` of preview_prune")]


class Pruned(msgspec.Struct, frozen=True, omit_defaults=True):
    """A backup and the decision of the rule: keep, remove, protected or renamed."""

    volid: str
    time: datetime
    mark: str
    vmid: int = 0


class Preview(msgspec.Struct, frozen=True):
    """What a rule would do: counts, and the first backups to delete, oldest first."""

    keep: int
    remove: int
    protected: int
    removed: list[Pruned]
    digest: str


class Outcome(msgspec.Struct, frozen=True):
    """The backups that were deleted, and those that should be deleted but still exist."""

    removed: list[str]
    left: list[str]


class Pruning(area.Area):
    """Tools that delete old backups."""

    needs: ClassVar[area.Needs] = {
        "preview_prune": area.with_path(area.STORAGE, "Datastore.Audit"),
        "prune_backups": area.with_path(area.STORAGE, "Datastore.Allocate", "Datastore.Audit"),
    }

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="backup_management")
    async def preview_prune(self, call: Call, p: PruneRule) -> Preview:
        """Show which backups prune_backups would delete by a rule; nothing is deleted."""
        marked = await self._marked(p)
        removed = [backup for backup in marked if backup.mark == "remove"]
        return Preview(
            keep=sum(backup.mark == "keep" for backup in marked),
            remove=len(removed),
            protected=sum(backup.mark in {"protected", "renamed"} for backup in marked),
            removed=removed[:SHOWN],
            digest=_digest(removed),
        )

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="backup_management")
    async def prune_backups(self, call: Call, p: PruneBackups) -> Outcome:
        """Delete the backups that preview_prune showed.

        Nothing is deleted if the rule now selects other backups.
        """
        seen: list[Pruned] = []

        async def plan() -> changes.Planned:
            seen[:] = [backup for backup in await self._marked(p) if backup.mark == "remove"]
            if not seen:
                return Found()
            if _digest(seen) != p.digest:
                raise ConfigChanged(
                    f"the rule selects other backups on {p.storage} now ({len(seen)}): preview_prune shows them; "
                    "nothing was done"
                )
            call.target(_target(p, seen))
            return lambda: self.proxmox.delete(_path(p), **_rule(p))

        found = await changes.change(call, plan)
        try:
            await self.inventory.finish(call, found)
        except TaskFailed as error:
            outcome = await self._outcome(p, seen)
            raise TaskFailed(
                f"{error}; {len(outcome.removed)} backups are deleted, left are: {', '.join(outcome.left) or 'none'}",
                log=error.log,
            ) from error
        outcome = await self._outcome(p, seen)
        if outcome.left:
            call.warn(
                f"{len(outcome.left)} backups that should be deleted still exist: {', '.join(outcome.left[:SHOWN])}"
            )
        return outcome

    async def _outcome(self, p: PruneRule, seen: list[Pruned]) -> Outcome:
        existing = {backup.volid for backup in await self._marked(p)}
        return Outcome(
            [backup.volid for backup in seen if backup.volid not in existing],
            [e.volid for e in seen if e.volid in existing],
        )

    async def _marked(self, p: PruneRule) -> list[Pruned]:
        if not any(_keep(p).values()):
            raise Rejected("prune: the rule keeps nothing; give at least one keep_… above 0 (a rule without keeps all)")
        await targets.storage(self.inventory, p.node, p.storage, "backup")
        entries: list[dict[str, Any]] = await self.proxmox.get(_path(p), **_rule(p)) or []
        marked = [
            Pruned(
                one_line(e["volid"]),
                datetime.fromtimestamp(int(e.get("ctime") or 0), UTC),
                one_line(e["mark"]),
                int(e.get("vmid") or 0),
            )
            for e in entries
        ]
        return sorted(marked, key=lambda backup: (backup.time, backup.volid))


def _keep(p: PruneRule) -> dict[str, int]:
    return {name.replace("_", "-"): value for name, value in msgspec.structs.asdict(p).items() if "keep_" in name}


def _path(p: PruneRule) -> str:
    return f"/nodes/{p.node}/storage/{p.storage}/prunebackups"


def _rule(p: PruneRule) -> dict[str, str | int | None]:
    keep = ",".join(f"{name}={value}" for name, value in _keep(p).items() if value)
    return {"prune-backups": keep, "vmid": p.vmid, "type": p.type or None}


def _digest(removed: list[Pruned]) -> str:
    return pages.digest(sorted(backup.volid for backup in removed))


def _target(p: PruneRule, removed: list[Pruned]) -> Target:
    """Return the backups as the target of the deletion."""
    guests = sorted({backup.vmid for backup in removed if backup.vmid})
    return Target(
        name=f"backups/{p.storage}",
        title=f"{len(removed)} backups on {p.storage}",
        state={"backups": _digest(removed)},
        labels=[f"storage/{p.storage}", *(f"guest/{guest}" for guest in guests)],
        loses=[f"{backup.volid} of {backup.time:%Y-%m-%d %H:%M}" for backup in removed],
    )
