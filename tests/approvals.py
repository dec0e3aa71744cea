"""Approvals that workflows of a test wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentd.client import queries
from harness import eventually

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from agentd.wire.workflow import Approval


async def wanted_approval(bus: Bus, workflow_id: str, task: str) -> Approval:
    """Return the approval that a task waits for; fails after 60 s."""

    async def waits() -> Approval | None:
        states = {state.workflow_id: state for state in await queries.states(bus)}
        found = states[workflow_id].tasks.get(task) if workflow_id in states else None
        return found.approval if found is not None and found.status == "waiting_approval" else None

    return await eventually(waits, f"the task {task} waits for an approval", 60)
