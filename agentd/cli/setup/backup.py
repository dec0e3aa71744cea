"""`agentd backup` and `agentd restore`: all streams of a cluster, as files."""

from __future__ import annotations

from pathlib import Path

import click

from agentd.cli.context import App, passes, run_async
from agentd.cli.output import tables
from agentd.errors import UsageError


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@passes
def backup(app: App, directory: Path) -> None:
    """Write all streams to a new directory.

    Agents may run meanwhile. The directory is complete when it exists under its name. It holds all that the cluster
    knows, the audit and approvals too: only its owner may read it. Uses the credentials of [bus.admin].
    """
    from agentd.bus.setup import snapshots

    if directory.exists():
        raise UsageError(f"{directory} exists already: name a new directory")
    part = directory.with_name(f"{directory.name}.part")
    part.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def work() -> list[str]:
        async with app.bus(admin=True) as (bus, _):
            counts = {name: await snapshots.save(bus, name, part) for name in snapshots.STREAMS}
            return [f"{name}: {count} messages" for name, count in counts.items()]

    lines = run_async(work())
    part.rename(directory)
    app.show(lines, tables.lines)


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--replace", is_flag=True, help="Replace streams that have messages; what they hold is lost.")
@passes
def restore(app: App, directory: Path, *, replace: bool) -> None:
    """Restore all streams from a backup.

    Stop every agent first. What was done after the backup is not known to the restored workflows and may be done again:
    read the list of unfinished workflows before the agents start. Uses the credentials of [bus.admin].
    """
    from agentd.bus.setup import snapshots

    async def work() -> list[str]:
        async with app.bus(admin=True) as (bus, _):
            stream = "" if replace else await snapshots.in_use(bus)
            if stream:
                raise UsageError(f"{stream} has messages; --replace deletes them")
            return [
                f"{stream}: {await snapshots.restore(bus, stream, directory)} messages" for stream in snapshots.STREAMS
            ]

    app.show([*run_async(work()), "now run `agentd provision`, then start the agents"], tables.lines)
