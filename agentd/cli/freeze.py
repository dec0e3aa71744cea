"""`agentd freeze` and `agentd thaw`: stop and allow changes in the whole network."""

from __future__ import annotations

import re
import sys
from typing import Final

import click

from agentd.cli.context import App, passes, run_async
from agentd.cli.output import tables
from agentd.errors import Denied, UsageError
from agentd.safety import freeze as freezing
from agentd.wire.announcements import NetworkReply, NetworkRequest

_UNITS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}


def parse_duration(text: str) -> float:
    """Return a duration like 90s, 15min, 4h or 2d in seconds; raises UsageError."""
    found = re.fullmatch(r"([0-9]{1,6})(s|m|min|h|d)", text)
    seconds = 0 if found is None else int(found[1]) * _UNITS[found[2]]
    if not 1 <= seconds <= freezing.LONGEST:
        raise UsageError(f"--for: {text!r} is not a time from 1s to {freezing.LONGEST / 86_400:.0f}d, like 15min or 4h")
    return float(seconds)


def _ask(app: App, request: NetworkRequest) -> None:
    async def work() -> NetworkReply:
        async with app.bus() as (bus, config):
            return await freezing.ask(bus, config.principal, request)

    reply = run_async(work())
    app.show(reply, tables.control)
    sys.exit(0 if reply.done else Denied.exit_code)


@click.command()
@click.option("--reason", required=True, help="Reason; shown to everyone whose work waits.")
@click.option(
    "--for", "duration", help="End the freeze after this time: 15min, 4h, 2d. Default: only by `agentd thaw`."
)
@passes
def freeze(app: App, reason: str, duration: str | None) -> None:
    """Freeze the network: no agent changes anything.

    Reads and dry runs continue. Running tasks finish. Workflows wait. Needs tier operate.
    """
    _ask(app, NetworkRequest("freeze", reason, None if duration is None else parse_duration(duration)))


@click.command()
@click.option("--reason", default="", help="Reason; recorded in the audit.")
@passes
def thaw(app: App, reason: str) -> None:
    """End a freeze.

    Allowed for the principal that froze the network, and for principals of tier destroy.
    """
    _ask(app, NetworkRequest("thaw", reason))
