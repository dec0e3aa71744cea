"""Sizes that fit what guests have used; pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import msgspec

GIB: Final = 2**30
MIB: Final = 2**20
SAMPLES: Final = 24
"""Points in time without which nothing is proposed."""
WORTH: Final = 0.2
"""A change by less than this share is not proposed."""
STEP: Final = 256
LEAST: Final = 512
"""MiB: a memory is a multiple of the one and not less than the other."""
BUSY: Final = 0.85
"""Share of memory or CPU above which a guest is short of it."""


@dataclass(frozen=True)
class Used:
    """What a guest has and has used: memory in bytes, cpu as a share of its cores.

    memory_p95, cpu_p95, memory_most, cpu_most  95th percentile and maximum of the samples
    """

    vmid: int
    name: str
    kind: str
    memory: int
    cores: int
    samples: int
    memory_p95: float
    memory_most: float
    cpu_p95: float
    cpu_most: float


class SizeProposal(msgspec.Struct, frozen=True):
    """A size for a guest, and why: memory in MiB."""

    vmid: int
    name: str
    type: str
    memory: int
    cores: int
    memory_now: int
    cores_now: int
    reason: str


def propose(used: Used, headroom: float) -> SizeProposal | None:
    """Return a size for a guest, or None if its present one fits; headroom is a share."""
    if used.samples < SAMPLES or used.memory <= 0 or used.cores <= 0:
        return None
    memory, why_memory = _memory(used, headroom)
    cores, why_cores = _cores(used, headroom)
    now = used.memory // MIB
    if memory == now and cores == used.cores:
        return None
    reasons = [text for text, changed in ((why_memory, memory != now), (why_cores, cores != used.cores)) if changed]
    return SizeProposal(used.vmid, used.name, used.kind, memory, cores, now, used.cores, "; ".join(reasons))


def _memory(used: Used, headroom: float) -> tuple[int, str]:
    """Return a memory in MiB and the evidence.

    What a VM without a guest agent uses includes its page cache, so a memory that looks full is not proposed to grow
    by more than the headroom.
    """
    now = used.memory // MIB
    wanted = max(used.memory_p95 * (1 + headroom), used.memory_most) / MIB
    target = max(LEAST, math.ceil(wanted / STEP) * STEP)
    text = f"its memory was used by {100 * used.memory_p95 / used.memory:.0f} % (95th percentile) and at most "
    text += f"{100 * used.memory_most / used.memory:.0f} % of {now} MiB"
    grows = target > now and used.memory_p95 / used.memory > BUSY
    shrinks = target < now * (1 - WORTH)
    return (target if grows or shrinks else now), text


def _cores(used: Used, headroom: float) -> tuple[int, str]:
    wanted = max(used.cpu_p95 * (1 + headroom), 0.0) * used.cores
    target = max(1, math.ceil(wanted))
    text = f"its CPUs were busy for {100 * used.cpu_p95:.0f} % (95th percentile) of {used.cores} cores"
    grows = target > used.cores and used.cpu_p95 > BUSY
    shrinks = target <= used.cores * (1 - WORTH) and used.cpu_most < 1.0
    return (target if grows or shrinks else used.cores), text
