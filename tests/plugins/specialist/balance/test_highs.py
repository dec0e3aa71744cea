"""HiGHS in a process of its own: it is as good as the annealing or better, and no fault of it reaches the plan."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings

from agentd_specialist.balance import highs, solver
from agentd_specialist.balance.highs import Highs
from agentd_specialist.balance.plan import Budget, Goal, plan
from agentd_specialist.balance.problem import build
from bench.balance_clusters import generate
from plugins.specialist.balance.drawn_landscapes import landscapes

if TYPE_CHECKING:
    from agentd_specialist.balance.model import Landscape

GIB = 2**30
FEW = 200
"""Tries of the annealing: too few for a good placement, so that there is something to improve."""


def cost(landscape: Landscape, where: dict[int, str]) -> float:
    """Return the cost of a placement."""
    problem = build(landscape)
    search = solver.Search(problem)
    search.take([problem.names.index(where[unit.members[0].vmid]) for unit in problem.units])
    return search.cost()


def test_what_it_finds_is_better() -> None:
    """A plan of too short a search sends less afterwards, and says how far from the optimum it may be."""
    there = generate(5, 40)
    short = solver.solve(build(there), seconds=9.0, tries=FEW)
    better = solver.solve(build(there), seconds=9.0, tries=FEW, improve=Highs(20.0, GIB))

    assert better.text.startswith("HiGHS: at most ")
    assert cost(there, better.where) < cost(there, short.where)


@given(landscapes())
@settings(max_examples=8, deadline=None)
def test_the_model_is_exact(landscape: Landscape) -> None:
    """Whatever the cluster: its result costs no more than that of the annealing, with the annealing's own measure."""
    short = solver.solve(build(landscape), seconds=9.0, tries=FEW)
    better = solver.solve(build(landscape), seconds=9.0, tries=FEW, improve=Highs(5.0, GIB))

    assert "better" not in better.text
    assert cost(landscape, better.where) <= cost(landscape, short.where) + 1e-6


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise SystemExit(3)", "its process ended with 3"),
        ("print('no JSON')", "JSON is malformed"),
        ('print(\'{"nodes": [], "gap": 0}\')', "found no placement in time"),
        ("import time; time.sleep(60)", "it did not end in time"),
        ("taken = bytearray(300 * 2**20); import time; time.sleep(60)", "MiB of memory, and may use 200"),
    ],
)
def test_its_faults_do_not_reach_the_plan(code: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that fails, hangs, writes nonsense or takes too much memory ends, and the plan is that of before."""
    monkeypatch.setattr(highs, "LATE", 1.0 if "sleep(60)" in code and "taken" not in code else 20.0)
    there = generate(3, 20)
    began = time.monotonic()
    improve = Highs(0.1, 200 * 2**20, (sys.executable, "-c", code))
    found = plan(there, Goal(), Budget(seconds=5.0, tries=FEW, improve=improve))

    assert reason in found.solver
    assert found.moves == plan(there, Goal(), Budget(seconds=5.0, tries=FEW)).moves
    assert time.monotonic() - began < 40
    children = [pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()]
    assert not [pid for pid in children if code in Path(f"/proc/{pid}/cmdline").read_text()]


def test_a_worse_result_is_not_used(tmp_path: Path) -> None:
    """A placement that costs more than the annealing's is not used, and the plan says so."""
    script = tmp_path / "worse.py"
    script.write_text(
        "import json, sys\nchoices = json.load(sys.stdin)['choices']\n"
        "print(json.dumps({'nodes': [max(nodes) for _, _, _, nodes, _, _ in choices], 'gap': 0.0}))\n"
    )
    there = generate(4, 30)
    found = plan(there, Goal(), Budget(tries=4000, seconds=9.0, improve=Highs(5.0, GIB, (sys.executable, str(script)))))

    assert found.solver.endswith("the annealing found a better placement")
    assert found.moves == plan(there, Goal(), Budget(tries=4000, seconds=9.0)).moves


def test_without_memory_it_is_not_started() -> None:
    """Where a control group leaves too little memory, no process is started."""
    improve = Highs(5.0, highs.LEAST - 1, ("/nonexistent",))
    place, text = improve(solver.Search(build(generate(3, 20))))

    assert place == []
    assert "159 MiB of memory are free" in text


def test_secrets_stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the daemon, which may contain credentials, is not that of the process."""
    monkeypatch.setenv("AGENTD_PROXMOX__TOKEN_SECRET", "hush")
    code = "import os, sys; sys.exit(7 if 'hush' in str(os.environ) else 9)"
    improve = Highs(5.0, GIB, (sys.executable, "-c", code))

    assert improve(something_to_do())[1] == "HiGHS was not used: its process ended with 9"


def something_to_do() -> solver.Search:
    """Return a search with something to do."""
    there = generate(3, 20)
    return solver.Search(build(replace(there, limits=replace(there.limits, band=0.0))))
