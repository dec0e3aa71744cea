"""Carry out migrations, at most a few at once, each only while its target has room for it.

The cluster is read again before each migration, so a failed or slow one never leads to an overfilled node.  A process
that takes over after a kill starts with the cluster as it is: a guest that has arrived is done, one that is on its way
is waited for, and the steps have the same names, so nothing is moved twice.  A guest that comes back later
stays: the HA manager or another client wants it there.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import msgspec

from agentd import AgentdError, BusUnavailable, Call, Frozen
from agentd_specialist.balance import brevity
from agentd_specialist.balance.model import Move
from agentd_specialist.balance.plan import Left
from agentd_specialist.balance.reading import Scope
from agentd_specialist.balance.steps import Ledger, Step, next_steps
from agentd_specialist.collecting import PROXMOX, Collector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentd_specialist.balance.model import Landscape, Limits

LOOK_AGAIN: Final = 5.0
"""Seconds between two looks at what prevents the next migration."""
PATIENCE: Final = 60.0
"""Seconds without progress after which the rest is left: a lock of a backup or a foreign migration may end."""
RETURNED: Final = 10.0
"""Seconds after which a guest that is not on its target has come back; before that, its arrival may not be known."""
A_MOMENT: Final = 0.01
ENOUGH: Final = 30.0
"""Seconds before the deadline at which nothing more is started."""


class Moved(msgspec.Struct, frozen=True):
    """What was done: the moves that were carried out, and the guests that stayed, with the reasons.

    failed  the number of guests that stayed
    """

    text: str
    moves: list[Move]
    left: list[Left]
    gib: float
    failed: int


class _Migrated(msgspec.Struct, frozen=True):
    """Result of migrate_guest."""

    source: str = ""
    moved: bool = False


class Mover:
    """Carries out the moves of one plan."""

    def __init__(
        self, call: Call, moves: Sequence[Move], limits: Limits, *, containers: bool, local_disks: bool
    ) -> None:
        """Keep the moves in the order in which they may begin."""
        self.call = call
        self.moves = list(moves)
        self.limits = limits
        self.containers = containers
        self.local_disks = local_disks
        self.running: dict[asyncio.Task[str], Move] = {}
        self.done: list[Move] = []
        self.left: dict[int, str] = {}
        self.migrated: dict[tuple[int, str], float] = {}
        self.looks = 0

    async def run(self) -> Moved:
        """Carry out what can be carried out; raises only what stops every migration."""
        try:
            await self._all()
        finally:
            if self.running:
                await asyncio.wait(self.running)  # what runs is completed: its result is recorded
        names = {move.vmid: move for move in self.moves}
        left = [Left(vmid, names[vmid].name, names[vmid].source, why) for vmid, why in sorted(self.left.items())]
        gib = round(sum(move.gib for move in self.done), 3)
        rest = f"; {len(left)} guests were left" if left else ""
        text = f"{len(self.done)} migrations of {gib:.1f} GiB{rest}"
        return Moved(text, brevity.plain(self.done), brevity.first(brevity.short(left), brevity.LEFT), gib, len(left))

    async def _all(self) -> None:
        waited = 0.0
        while True:
            with self.call.allow_stop():  # what runs is completed, and nothing more begins
                await asyncio.sleep(A_MOMENT)
            landscape = await self._look()
            pending = self._pending(landscape)
            self._start(landscape, pending)
            if self.running:
                waited = 0.0
                await self._wait_for_one()
                continue
            if not pending:
                return
            if waited >= PATIENCE or self.call.left() < ENOUGH:
                break
            self.call.progress(f"waiting: {self._why(landscape, pending[0])}")
            await asyncio.sleep(LOOK_AGAIN)
            waited += LOOK_AGAIN
        landscape = await self._look()
        for move in self._pending(landscape):
            self.left.setdefault(move.vmid, self._why(landscape, move))

    async def _look(self) -> Landscape:
        self.looks += 1
        sources = {name for move in self.moves for name in (move.source, move.target)}
        scope = Scope(containers=True, leaving=sources)
        return await Collector(self.call, f"look{self.looks}").landscape(scope, self.limits)

    def _pending(self, landscape: Landscape) -> list[Move]:
        """Return the moves that are not done, the earlier ones of a guest before the later ones."""
        at = {guest.vmid: guest.node for guest in landscape.guests}
        busy = {move.vmid for move in self.running.values()}
        pending: list[Move] = []
        for vmid in dict.fromkeys(move.vmid for move in self.moves):
            if vmid in self.left or vmid in busy:
                continue
            own = [move for move in self.moves if move.vmid == vmid]
            if vmid not in at:
                self.left[vmid] = "it does not run any more"
                continue
            reached = max((number for number, move in enumerate(own, 1) if move.target == at[vmid]), default=0)
            for move in own[:reached]:
                if move not in self.done:
                    self.done.append(move)
            if own[reached:] and at[vmid] not in {own[0].source, *(move.target for move in own)}:
                self.left[vmid] = f"it is on {at[vmid]} now: another client moved it"
            elif own[reached:] and self._is_back(own[reached]):
                self.left[vmid] = f"it was on {own[reached].target}, and HA or another client moved it to {at[vmid]}"
            else:
                pending += own[reached:]
        return sorted(pending, key=self.moves.index)

    def _start(self, landscape: Landscape, pending: Sequence[Move]) -> None:
        """Start what can begin now."""
        if self.call.left() < ENOUGH:
            return
        moving = {g.vmid: g.fixed for g in landscape.guests if "locked (migrate)" in g.fixed}
        first = {move.vmid: move for move in reversed(pending)}
        ours = [move for vmid, move in first.items() if vmid in moving]
        busy = {move.vmid for move in self.running.values()}
        if set(moving) - {move.vmid for move in ours} - busy:
            return  # another client moves a guest: where it goes is not known, so nothing is started beside it
        free = {*moving, *busy}
        guests = tuple(replace(g, fixed="") if g.vmid in free else g for g in landscape.guests)
        ledger = Ledger(replace(landscape, guests=guests), _steps([*self.running.values(), *ours]))
        wanted = [move for move in pending if move not in ours and (move.vmid, move.target) not in self.migrated]
        begun = next_steps(ledger, _steps(wanted))
        for move in [*ours, *(m for step in begun for m in wanted if (m.vmid, m.target) == step[:2])]:
            self.running[asyncio.ensure_future(self._migrate(move))] = move

    async def _wait_for_one(self) -> None:
        ended, _ = await asyncio.wait(self.running, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            move = self.running.pop(task)
            why = task.result()
            self.migrated[move.vmid, move.target] = time.monotonic()
            if why:
                self.left[move.vmid] = why
                self.call.warn(f"{move.title} was not moved to {move.target}: {why}")

    async def _migrate(self, move: Move) -> str:
        """Migrate a guest; return why it was not possible, or ""."""
        parameters = {
            "vmid": move.vmid,
            "target": move.target,
            "restart": self.containers and move.kind == "lxc",
            "with_local_disks": self.local_disks and move.kind == "qemu",
        }
        self.call.progress(move.reason)
        try:
            await self.call.use(PROXMOX, "migrate_guest", parameters, _Migrated, step=f"move-{move.vmid}-{move.target}")
        except (BusUnavailable, Frozen):
            raise
        except AgentdError as error:
            return str(error)
        return ""

    def _is_back(self, move: Move) -> bool:
        """Return whether the guest of a pending move has left its target again: the same step would do nothing."""
        ended = self.migrated.get((move.vmid, move.target))
        return ended is not None and time.monotonic() - ended > RETURNED

    def _why(self, landscape: Landscape, move: Move) -> str:
        others = [g.title for g in landscape.guests if "locked (migrate)" in g.fixed and g.vmid != move.vmid]
        if others:
            return f"{', '.join(others)} is being moved by another client"
        return Ledger(landscape).objection(Step(move.vmid, move.target, move.parked)) or "there was no time left"


def _steps(moves: Sequence[Move]) -> list[Step]:
    return [Step(move.vmid, move.target, move.parked) for move in moves]
