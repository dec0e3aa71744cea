"""What our encode and decode add to bare msgspec: the limits on size, the choice of the decoder, the errors' texts."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING

import msgspec

from agentd.wire import codec
from agentd.wire.messages import TaskAssignment, Tier
from bench.systems import REQUEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.conftest import Figures

ROUNDS = 9
TIMES = 20_000
TASK = TaskAssignment(
    task_id="vm_deployment-0123456789.create_vm",
    workflow_id="vm_deployment-0123456789",
    task_type="create_vm",
    assigned_to="mcp-proxmox",
    parameters=dict(REQUEST),
    deadline=datetime(2026, 11, 22, tzinfo=UTC),
    dependencies=["validate_vm_parameters"],
    tier=Tier.OPERATE,
    principal="tester",
)


def _microseconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    for _ in range(TIMES):
        work()
    return (time.perf_counter() - begun) / TIMES * 1e6


def test_wire(figures: Figures) -> None:
    """Goal 8: encode and decode of a task cost at most 1.2 times bare msgspec."""
    encode, decode = msgspec.json.Encoder().encode, msgspec.json.Decoder(TaskAssignment).decode
    pairs = [
        (
            _microseconds(lambda: codec.decode(codec.encode(TASK), TaskAssignment)),
            _microseconds(lambda: decode(encode(TASK))),
        )
        for _ in range(ROUNDS)
    ]

    ours, bare = (median(column) for column in zip(*pairs, strict=True))
    assert codec.decode(codec.encode(TASK), TaskAssignment) == TASK
    figures.add("encode and decode of a task", ours, "us", floor=bare, at_most=1.2)
