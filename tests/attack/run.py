"""Attack a running network with every known way to destroy, or to write, without the right to: `make attack`.

One daemon runs beside a simulated Proxmox VE; the attackers are a principal of tier operate (oscar), one of tier read
(rita), an AI client without a token, and a raw NATS client.  Each attack is tried, then the network is checked: the
simulated Proxmox has received no write that the attacker could not send openly, the guests are as they were, and the
network still works.  The exit code is 0 only if every attack was refused.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

if __package__ in {None, ""}:
    sys.path[0] = str(Path(__file__).parents[1])

from attack import approvals, destroying, writing
from attack.stage import Breach, Stage

ATTACKS = (*destroying.ATTACKS, *approvals.ATTACKS, *writing.ATTACKS)


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def attack(folder: Path, names: list[str]) -> int:
    """Run the attacks of these names, all if there are none; return how many were not refused."""
    succeeded = 0
    chosen = [found for found in ATTACKS if not names or found.__name__ in names]
    async with Stage(folder) as stage:
        say(f"ready; {len(chosen)} attacks")
        for step in chosen:
            begun = time.monotonic()
            try:
                await stage.prepare()
                await step(stage)
                await stage.check()
            except Breach as breach:
                succeeded += 1
                say(f"BREACH   {step.__name__}: {breach}")
            else:
                promise = (step.__doc__ or "").splitlines()[0]
                say(f"refused  {step.__name__} ({time.monotonic() - begun:.1f} s): {promise}")
    say(f"{len(chosen) - succeeded} of {len(chosen)} attacks refused")
    return succeeded


def main() -> int:
    """Run what the command line names; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="attacks to run; all by default")
    given = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="agentd-attack-") as folder:
        succeeded = asyncio.run(attack(Path(folder), given.names))
    say(f"{time.monotonic() - begun:.0f} s")
    return 1 if succeeded else 0


if __name__ == "__main__":
    sys.exit(main())
