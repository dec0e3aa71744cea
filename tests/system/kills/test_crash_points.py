"""Kill a process between any two writes: the workflow completes, and the world was changed once.

Each point of `agentd.crash_points` is reached by a real daemon in a process of its own, which dies there by SIGKILL
and is started again, as systemd would. What happened is counted by the simulator, which knows nothing of agentd.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentd.crash_points import POINTS
from system.kills.restarting_daemons import EMPTY, TEMPLATE, RestartingDaemons, deploy, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agentd.bus.jetstream import Bus
    from harness import Net

ORCHESTRATORS = {"before-commit", "after-commit", "in-outbox", "before-input-ack"}


@pytest.fixture
async def bus(net: Net) -> AsyncIterator[Bus]:
    """Return a provisioned connection; Proxmox tasks take long enough for a kill to land inside."""
    assert net.pve is not None
    net.pve.durations(qmclone=0.7, qmcreate=0.7, qmstart=0.3)
    async with net.client() as connection:
        yield connection


def _cases() -> list[tuple[str, str, dict[str, object]]]:
    cases: list[tuple[str, str, dict[str, object]]] = []
    for point in POINTS:
        if point in ORCHESTRATORS:
            cases.append((point, "orchestrator", TEMPLATE))
            continue
        cases.append((point, "mcp-bridge", TEMPLATE))
        if point in {"after-claim", "after-post"}:
            cases.append((point, "mcp-bridge", EMPTY))
        if point in {"after-claim", "after-done", "before-ack"}:
            cases.append((point, "specialist", TEMPLATE))
    return cases


@pytest.mark.parametrize(
    ("point", "victim", "requested"),
    _cases(),
    ids=lambda item: item if isinstance(item, str) else "clone" if "template" in item else "new",
)
async def test_a_process_is_killed_between_two_writes(
    net: Net, bus: Bus, tmp_path: Path, point: str, victim: str, requested: dict[str, object]
) -> None:
    """With any process killed the VM is created, configured, started and reported once."""
    reached = tmp_path / "crash"
    reached.mkdir()
    daemons = RestartingDaemons(net)
    daemons.environment[victim] = {"AGENTD_TEST_CRASH": point, "AGENTD_TEST_CRASH_DIR": str(reached)}
    async with daemons:
        took = await deploy(bus, "once", requested)
        await settled(bus, net, "once")

    assert (reached / point).exists()
    assert daemons.restarts == [(victim, -9)]
    assert took < 30, "a dead and restarted process stalls its work for seconds, not for ack_wait"
