"""Run workflows while everything goes wrong, then let the checker judge.

    python tests/system/chaos/run.py [--seed N] [--minutes M] [--cluster]

Three orchestrators, four workers, the simulated Proxmox and one nats-server (or three) work; plan.py draws what is
asked for and what goes wrong, from a seed that is printed.  The last line has the figures, the exit code is the
verdict.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import sys
import tempfile
from pathlib import Path

if __package__ in {None, ""}:
    sys.path[0] = str(Path(__file__).parents[2])

from pve.client import FakePve
from system.chaos import checker, cluster, evidence, plan
from system.chaos.clients import Clients
from system.chaos.processes import Processes, with_plugin

POISON = "poison"
"""Part of the id of a workflow whose task kills its agent, each time."""
SETTLE = 150.0
"""Seconds after the last fault within which all must be quiet: some acknowledgements are asked for after 30."""


def say(text: str) -> None:
    """Print the progress, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def chaos(given: argparse.Namespace, folder: Path) -> int:
    """Run it; return 0 if every invariant holds."""
    seconds = given.minutes * 60
    size = cluster.SIZE if given.cluster else 1
    with cluster.Cluster(folder / "nats", size) as nats, FakePve(directory=folder / "pve") as pve:
        pve.durations(qmclone=1.0, qmcreate=0.7, qmstart=0.3, qmdestroy=0.3)
        kinds = frozenset(plan.FAULTS) if given.cluster else plan.ONE_SERVER
        if given.cluster and not nats.parts:
            say("PARTITIONS LEFT OUT: this machine allows no network namespaces; the three stand on loopback")
            kinds -= {"partition"}
        requests = plan.requests(given.seed, seconds, given.pace, poison=given.poison)
        faults = [] if given.calm else plan.faults(given.seed, seconds, given.gap, kinds, len(nats.nodes))

        def crashes(name: str, start: int) -> tuple[str, str]:
            return plan.crashes(name, given.crash, POISON if given.poison else ""), f"{given.seed} {name} {start}"

        async with Processes(folder, nats, pve, crashes) as processes:
            client = await evidence.connect(nats.urls)
            clients = Clients(client, requests)
            async with evidence.Recorder(client) as recorder, asyncio.TaskGroup() as group:
                group.create_task(clients.ask())
                group.create_task(processes.inject(faults))
            await processes.recover()
            wanted = clients.wanted()
            (folder / "ids.json").write_text(json.dumps(wanted, indent=1))
            stopped = asyncio.create_task(clients.give_up())
            took, left = await evidence.settle(client, [item["id"] for item in wanted], checker.TERMINAL, given.settle)
            stopped.cancel()
            await clients.end()
            found = await evidence.read(client, pve.control, wanted, recorder)
            await client.close()
            restarts = processes.count()
        (folder / "world.json").write_text(json.dumps({"requests": found.requests, "tasks": found.tasks}, indent=1))
        violations = checker.judge(found)
    say(checker.report(violations))
    for item in left:
        say(f"not settled: {item}")
    figures = ", ".join(f"{kind} {number}" for kind, number in sorted(restarts.items()))
    verdict = "FAILED" if violations or left else "passed"
    say(
        f"chaos {verdict}: seed {given.seed}, {len(wanted)} workflows ({clients.summary(found.events)}), "
        f"faults: {figures or 'none'}; lost {checker.lost(violations)}, doubled {checker.twice(violations)}, "
        f"settled {took:.1f} s after the last fault"
    )
    return 1 if violations or left else 0


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long requests and faults come")
    parser.add_argument("--cluster", action="store_true", help="three nats-servers instead of one")
    parser.add_argument("--pace", type=float, default=2.5, help="seconds between two requests, on average")
    parser.add_argument("--gap", type=float, default=3.0, help="seconds between two faults, on average")
    parser.add_argument("--crash", type=float, default=0.004, help="chance to die at each crash point")
    parser.add_argument("--settle", type=float, default=SETTLE, help="seconds that it may take until all is quiet")
    parser.add_argument(
        "--no-poison",
        dest="poison",
        action="store_false",
        help="without the task that kills its agent, each time",
    )
    parser.add_argument("--calm", action="store_true", help="without faults")
    parser.add_argument("--keep", type=Path, help="a folder for logs and data, kept")
    given = parser.parse_args()
    if given.seed is None:
        given.seed = random.SystemRandom().randrange(100_000)
        sys.argv += ["--seed", str(given.seed)]
    if given.calm:
        given.crash, given.poison = 0.0, False
    return given


def main() -> int:
    """Run, in namespaces of our own where they may be had."""
    given = arguments()
    os.umask(0o077)  # a token in a folder that is kept is as private as in a temporary one
    cluster.isolate()
    say(f"seed {given.seed}: {given.minutes:g} min on {'three nats-servers' if given.cluster else 'one nats-server'}")
    with contextlib.ExitStack() as stack:
        if given.keep is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        else:
            folder = given.keep
            folder.mkdir(mode=0o700, parents=True, exist_ok=False)
        os.environ["PYTHONPATH"] = with_plugin()
        return asyncio.run(chaos(given, folder))


if __name__ == "__main__":
    sys.exit(main())
