"""`agentd audit`: what was done by whom, and whether each agent's chain is as it was written.

A chain is read one agent at a time.  An export is the lines as they are stored, so that it can be judged again
anywhere, without NATS, by `agentd audit verify --file`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import click
import msgspec

from agentd import audit as chains
from agentd import subjects
from agentd.errors import InvalidMessage, UsageError
from agentd.messages import AuditRecord, decode
from agentd.printable import escaped_bytes
from agentd.shell import App, passes, run_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from datetime import datetime

    from agentd.bus import Bus

ALTERED: Final = 1
"""Exit code when a chain is not as it was written."""


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the chain of one agent stands; `trimmed` says that lines before `first` have expired."""

    agent_id: str
    lines: int
    first: int
    last: int
    trimmed: bool = False
    fault: str = ""
    at: int = 0


def judge(agent: str, records: list[AuditRecord]) -> Verdict:
    """Return the verdict on one chain; one that begins behind line 1 has been trimmed by its retention."""
    trimmed = bool(records) and records[0].seq > 1
    found = chains.verify(records, trimmed=trimmed)
    stranger = next((each for each in records if each.agent_id != agent), None)
    fault, at = ("", 0) if found is None else (found.text, found.seq)
    if found is None and stranger is not None:
        fault, at = f"line {stranger.seq} is of {stranger.agent_id}, and stands among those of {agent}", stranger.seq
    first, last = (records[0].seq, records[-1].seq) if records else (0, 0)
    return Verdict(agent, len(records), first, last, trimmed, fault, at)


@click.group()
def audit() -> None:
    """Show, verify and export what was done: one hash chain for each agent."""


@audit.command()
@click.argument("agent", required=False)
@click.option("--file", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="An export, not NATS.")
@passes
def verify(app: App, agent: str | None, file: Path | None) -> None:
    """Tell whether every line is as it was written; exit code 1 names the first that is not."""

    async def work() -> list[Verdict]:
        async with app.bus() as (bus, _):
            agents = [agent] if agent else await _agents(bus)
            return [judge(each, [record async for record in _chain(bus, each)]) for each in agents]

    found = run_async(work()) if file is None else [judge(each, lines) for each, lines in _read(file, agent).items()]
    app.show(found, "verdicts")
    sys.exit(ALTERED if any(each.fault for each in found) else 0)


@audit.command()
@click.argument("agent", required=False)
@click.option("--since", help="Written at this time or later: 2026-08-01, 2026-08-01T12:00Z, 7d, 12h.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="A file; default: stdout.")
@passes
def export(app: App, agent: str | None, since: str | None, output: Path | None) -> None:
    """Write the lines as they are stored, one a line, so that `verify --file` can judge them again."""
    from agentd.cli_export import lines_to, moment

    after = None if since is None else moment(since, "--since")

    async def work(lines: IO[bytes]) -> int:
        count = 0
        async with app.bus() as (bus, _):
            for each in [agent] if agent else await _agents(bus):
                async for record in _chain(bus, each, after):
                    lines.write(escaped_bytes(msgspec.json.encode(record)) + b"\n")
                    count += 1
        return count

    with lines_to(output) as lines:
        count = run_async(work(lines))
    click.echo(f"{count} lines written{f' to {output}' if output else ''}", err=True)


def _names(key: str) -> tuple[str, str]:
    """Return a key, and of a call (`<principal>=<key>`) also how its caller named it."""
    return key, key.rpartition("=")[2]


@audit.command(name="list")
@click.argument("agent", required=False)
@click.option("--since", default="1d", show_default=True, help="Written at this time or later.")
@click.option("--principal", default="", help="Only what this principal asked for, or approved.")
@click.option("--tool", default="", help="Only calls of this tool.")
@click.option("--key", default="", help="Only this workflow, task or call.")
@passes
def list_(app: App, agent: str | None, since: str, principal: str, tool: str, key: str) -> None:  # noqa: PLR0913, PLR0917
    """List what was done: who asked, who approved, what it was and how it ended."""
    from agentd.cli_export import moment

    after = moment(since, "--since")

    def wanted(record: AuditRecord) -> bool:
        return (
            principal in {"", record.principal, record.approved_by}
            and tool in {"", record.tool}
            and (not key or any(name == key or name.startswith(f"{key}.") for name in _names(record.key)))
        )

    async def work() -> list[AuditRecord]:
        async with app.bus() as (bus, _):
            agents = [agent] if agent else await _agents(bus)
            found = [record for each in agents async for record in _chain(bus, each, after) if wanted(record)]
            return sorted(found, key=lambda record: record.timestamp)

    app.show(run_async(work()), "audit")


async def _agents(bus: Bus) -> list[str]:
    """Return the agents that have a chain."""
    info = await bus.api(f"STREAM.INFO.{subjects.AUDIT}", {"subjects_filter": subjects.audit("*")})
    return sorted(each.rpartition(".")[2] for each in info["state"].get("subjects") or {})


async def _chain(bus: Bus, agent: str, since: datetime | None = None) -> AsyncIterator[AuditRecord]:
    """Yield the lines of one agent; raises UsageError when it has none."""
    from agentd.scan import scan

    empty = True
    async for stored in scan(bus, subjects.AUDIT, subjects.audit(subjects.check_id(agent, "agent"))):
        empty = False
        record = stored.decode(AuditRecord)
        if since is None or record.timestamp >= since:
            yield record
    if empty:
        there = ", ".join(await _agents(bus)) or "none yet"
        message = f"agent {agent!r} has written nothing; chains: {there}"
        raise UsageError(message)


def _read(file: Path, agent: str | None) -> dict[str, list[AuditRecord]]:
    """Return the chains of an export; raises InvalidMessage that names the line which is none."""
    found: dict[str, list[AuditRecord]] = {}
    with file.open("rb") as lines:
        for record in _records(file, lines):
            if agent in {None, record.agent_id}:
                found.setdefault(record.agent_id, []).append(record)
    if not found:
        message = f"{file}: no line{f' of {agent}' if agent else ''} in it"
        raise UsageError(message)
    return found


def _records(file: Path, lines: Iterable[bytes]) -> Iterator[AuditRecord]:
    for number, line in enumerate(lines, 1):
        try:
            yield decode(line, AuditRecord)
        except InvalidMessage as error:
            message = f"{file}:{number}: {error}"
            raise InvalidMessage(message) from error
