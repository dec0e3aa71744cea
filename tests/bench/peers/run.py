"""Drive proximo-proxmox, proxmox-mcp-plus, mcp-proxmox and agentd through the hard cases, on one simulated cluster.

    python tests/bench/peers/run.py [--cache DIR] [--python PATH] [--out DIR] [--only NAME…] [--case WORD]

The peers come from PyPI, agentd from this tree, each by pip into an environment of its own below the cache; they are
asked over MCP, the peers by stdio, agentd by streamable HTTP.  DIR/RESULTS.md is the table, DIR/results.json has every
call and answer.  What the servers answer is data: it is quoted, and never acted on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

if __package__ in {None, ""}:
    sys.path[0] = str(Path(__file__).parents[2])

from bench.peers.cases import CASES, Arena
from bench.peers.contestants import OURS, PEERS, Contestant, Ground
from bench.peers.servers import ROOT, Record, installed, python_of
from pve.client import FakePve

HERE = Path(__file__).parent
DURATIONS = {"default": 0.3}
CASE_LIMIT = 180.0
HEAD = """\
# Side by side

{when}, Python {python}, in one run against the simulated Proxmox VE of `tests/pve` (tasks take 0.3 s):

{versions}

agentd is this tree at {commit}{kept}. `python tests/bench/peers/run.py` writes this anew; every call and
answer of the run lies in `results.json`.

"done", "failed" and "under way" are what the server said; behind it stands what was so. A server that hands out a task
and has a tool to ask for it was asked until the task was over ("polled"). Tokens are bytes/4 of what the client gets.
**Bold** is what we hold for right: the server says how it ended and that is so, nothing is done twice, nothing is left
behind unnamed. A start that is refused at once for its lock, and says so, is right too.

"""
NOTES = """
- A cell of `tools/list` and of the list has no right or wrong of its own; fewer tokens are better, and a list is bold
  below 1,000 tokens by one API call.
- The list: the peers' lists of VMs leave the two containers out.
- "the same call once more" is a new request to agentd over MCP, for MCP gives it no id. A request
  with an id (`agentd submit --id`, or over NATS) is the same request for 30 days: the row below.
- "four draw": where there is a tool for the next VMID, all four draw before any of them creates. mcp-proxmox draws
  within its create. It is a race, so the number differs from run to run; agentd draws at random.
- "create and start": only mcp-proxmox has one call for both; for agentd it is the workflow `vm_deployment`, by
  `agentd submit` and `agentd retry`, not over MCP. The others leave it to their caller.
"""


def say(text: str) -> None:
    """Print the progress, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def measured(contestant: Contestant, case: str, binaries: Path, pve: FakePve, scratch: Path) -> Record:
    """Run one case with one server, on a cluster as it was at first."""
    _, run, options = CASES[case]
    pve.reset()
    pve.durations(**DURATIONS)
    record = Record(case, contestant.name)
    ground = Ground(pve, options.get("token", "full"), scratch)
    try:
        async with asyncio.timeout(CASE_LIMIT):
            await run(Arena(contestant, binaries, ground, record))
    except Exception as error:  # noqa: BLE001 - a case that breaks is a row of the table, and says so
        record.cell, record.good = f"not measured: {type(error).__name__}: {error}"[:200], None
    say(f"{case} · {contestant.name}: {record.cell}")
    return record


def table(records: list[Record], names: list[str], started: dict[str, str]) -> str:
    """Return the records as a table, a row a case."""
    cells = {(record.case, record.server): f"**{record.cell}**" if record.good else record.cell for record in records}
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines.append(f"| fresh install starts | {' | '.join(started.get(name, '') for name in names)} |")
    for case, (unit, _, _) in CASES.items():
        if any(record.case == case for record in records):
            row = [cells.get((case, name), "").replace("|", "→") for name in names]
            lines.append(f"| {case} ({unit}) | {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Install, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentd" / "peers"
    parser.add_argument("--cache", type=Path, default=cache, help="where the environments lie")
    parser.add_argument("--python", default=sys.executable, help="3.12 or newer: proximo-proxmox wants that")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--only", nargs="*", default=[], help="names of servers")
    parser.add_argument("--case", default="", help="a part of a case's name")
    parser.add_argument("--keep", action="store_true", help="use the environments that are there")
    given = parser.parse_args()
    everybody: list[Contestant] = [*PEERS, OURS]
    contestants: list[Contestant] = [item for item in everybody if not given.only or item.name in given.only]
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for contestant in contestants:
        say(f"installing {contestant.package}")
        found[contestant.name] = installed(contestant, given.cache.absolute(), python_of(given.python), keep=given.keep)
    records: list[Record] = []
    with FakePve(cluster="demo") as pve, tempfile.TemporaryDirectory() as scratch:
        for number, case in enumerate(name for name in CASES if given.case in name):
            for contestant in contestants:
                place = Path(scratch) / f"{number}-{contestant.name}"
                place.mkdir()
                records.append(asyncio.run(measured(contestant, case, found[contestant.name][0], pve, place)))
    write(given, records, {name: versions for name, (_, versions) in found.items()})
    return 0


def write(given: argparse.Namespace, records: list[Record], versions: dict[str, dict[str, Any]]) -> None:
    """Write the table and every answer, and show the table."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "no commit"
    ran = subprocess.run([given.python, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    when = f"{datetime.now(UTC):%Y-%m-%d}"
    told = "\n".join(
        f"- {', '.join(f'{name} {version}' for name, version in item.items() if version)}" for item in versions.values()
    )
    listed = {record.server: record.cell for record in records if record.case == "tools/list"}
    started = {name: "**yes**" if name in listed and "not measured" not in listed[name] else "no" for name in versions}
    kept = ", as an earlier run installed it" if given.keep else ""
    text = HEAD.format(when=when, python=ran, versions=told, commit=commit, kept=kept)
    text += table(records, list(versions), started) + NOTES
    raw = {"when": when, "python": ran, "machine": platform.machine(), "commit": commit, "versions": versions}
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "RESULTS.md").write_text(text, encoding="utf-8")
    everything = {**raw, "records": [asdict(record) for record in records]}
    (given.out / "results.json").write_text(
        json.dumps(everything, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    say(text)


if __name__ == "__main__":
    sys.exit(main())
