"""Sizes are proposed from what a guest has used, with the evidence, and only if the change is worth it."""

from __future__ import annotations

from dataclasses import replace

from agentd_specialist.sizing import GIB, Used, propose

IDLE = Used(101, "db", "qemu", 16 * GIB, 8, 70, 3.0 * GIB, 4.0 * GIB, 0.05, 0.4)


def test_an_idle_guest_becomes_smaller() -> None:
    """It keeps its headroom above the 95th percentile, and never gets less than it has used at most."""
    found = propose(IDLE, 0.25)

    assert found is not None
    assert (found.memory, found.cores, found.memory_now, found.cores_now) == (4096, 1, 16384, 8)
    assert found.reason == (
        "its memory was used by 19 % (95th percentile) and at most 25 % of 16384 MiB; "
        "its CPUs were busy for 5 % (95th percentile) of 8 cores"
    )


def test_a_busy_guest_grows_and_a_fitting_one_stays() -> None:
    """A guest that is short of both gets more; one that fits, or is hardly known, gets no proposal."""
    busy = propose(replace(IDLE, memory_p95=15 * GIB, memory_most=16 * GIB, cpu_p95=0.95, cpu_most=1.0), 0.25)
    fits = replace(IDLE, memory_p95=12 * GIB, memory_most=13 * GIB, cpu_p95=0.7, cpu_most=1.0)

    assert busy is not None
    assert (busy.memory, busy.cores) == (19200, 10)
    assert propose(fits, 0.25) is None
    assert propose(replace(IDLE, samples=3), 0.25) is None
