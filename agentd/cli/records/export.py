"""`agentd export`: workflows as JSON lines, to archive them or to query with jq.

One workflow is one line: its whole state from its last event, with tasks, attempts and timeline.  Results that the
state holds by reference are inserted.  Only the ids that were written are kept in memory, so that a workflow that
changes during the export is written once.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import click
import msgspec

from agentd.cli import completion
from agentd.cli.context import App, passes, run_async
from agentd.errors import AgentdError, BusUnavailable, InvalidMessage, UsageError
from agentd.printable import escaped_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentd.bus.jetstream import Bus
    from agentd.bus.stored import Stored

REPORT_EVERY: Final = 1.0
"""Seconds between two progress messages."""


class Interrupted(AgentdError):
    """The user has interrupted the export with Ctrl-C."""

    exit_code = 130


class Head(msgspec.Struct, frozen=True):
    """The fields of a workflow that decide whether it is exported."""

    workflow_id: str
    status: str
    workflow_type: str
    updated: datetime


class ExportFilter(msgspec.Struct, frozen=True):
    """The filter of an export; None means no restriction."""

    since: datetime | None = None
    until: datetime | None = None
    kind: str | None = None
    status: str | None = None

    def takes(self, head: Head) -> bool:
        """Return whether a workflow passes the filter."""
        return (
            (self.since is None or head.updated >= self.since)
            and (self.until is None or head.updated < self.until)
            and self.kind in {None, head.workflow_type}
            and self.status in {None, head.status}
        )


class Export:
    """Writes workflows to a file and counts them."""

    def __init__(self, choice: ExportFilter, lines: IO[bytes]) -> None:
        """Write the workflows that pass `choice` to `lines`."""
        self.written = 0
        self.seen = 0
        self.unreadable = 0
        self._choice = choice
        self._lines = lines
        self._reported_at = time.monotonic()
        self._ids: set[str] = set()

    @staticmethod
    async def _read(bus: Bus, stored: Stored) -> tuple[Head | None, bytes]:
        """Return the newest readable state as JSON, and its fields for the filter."""
        from agentd.wire.codec import encode
        from agentd.wire.subjects import WORKFLOWS
        from agentd.wire.workflow import Workflow

        head = bus.read(stored, Head)
        if head is not None and stored.subject.endswith(f".{head.workflow_id}"):
            return head, stored.data
        found = await bus.newest(WORKFLOWS, stored.subject, Workflow)
        if found.value is None or not stored.subject.endswith(f".{found.value.workflow_id}"):
            return None, b""
        state = found.value
        return Head(state.workflow_id, str(state.status), state.workflow_type, state.updated), encode(state)

    async def take(self, bus: Bus, stored: Stored) -> None:
        """Write one workflow if it passes the filter."""
        self.seen += 1
        head, data = await self._read(bus, stored)
        if head is None:
            self.unreadable += 1
            return
        if head.workflow_id not in self._ids and self._choice.takes(head):
            self._ids.add(head.workflow_id)
            self._lines.write(escaped_bytes(await with_results(bus, data)) + b"\n")
            self.written += 1
        if time.monotonic() - self._reported_at >= REPORT_EVERY:
            self._reported_at = time.monotonic()
            click.echo(f"{self.seen} workflows seen, {self.written} written", err=True)


async def with_results(bus: Bus, data: bytes) -> bytes:
    """Return a state as JSON with the referenced results that still exist."""
    if b'"$stored"' not in data:
        return data
    return msgspec.json.encode(await _expanded(bus, msgspec.json.decode(data)))


async def _expanded(bus: Bus, value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, list):
        return [await _expanded(bus, item) for item in value]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("$stored"), str) and "bytes" in value:
        from agentd.tools import large_results

        try:
            found = await large_results.fetch_stored(bus, value)
        except InvalidMessage as error:
            click.echo(f"{error}; what refers to it is written as it is", err=True)
            return value
        return value if found is None else found
    return {key: await _expanded(bus, item) for key, item in value.items()}


@click.command()
@click.option("--since", help="Only workflows changed since this time: 2026-08-01, 2026-08-01T12:00Z, 7d, 12h.")
@click.option("--until", help="Only workflows not changed since this time.")
@click.option("--type", "kind", help="Only workflows of this type.")
@completion.STATUS
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Output file; default: standard output."
)
@passes
def export(  # noqa: PLR0913, PLR0917 - one parameter for each option
    app: App, since: str | None, until: str | None, kind: str | None, status: str | None, output: Path | None
) -> None:
    """Export workflows as JSON lines, one line each.

    Each line contains the whole state of a workflow. Progress is printed on standard error. With -o, the file is
    complete when it exists under its name.
    """
    choice = ExportFilter(
        None if since is None else parse_time(since, "--since"),
        None if until is None else parse_time(until, "--until"),
        kind,
        status,
    )
    part = None if output is None else output.with_name(f"{output.name}.part")
    with open_output(part) as lines:
        done = _run(app, choice, lines, part)
    if part is not None and output is not None:
        os.replace(part, output)  # noqa: PTH105 - the sentence reads as it is
    where = "" if output is None else f" to {output}"
    skipped = f"; {done.unreadable} cannot be read" if done.unreadable else ""
    click.echo(f"{done.written} workflows written{where}{skipped}", err=True)


@contextlib.contextmanager
def open_output(part: Path | None) -> Iterator[IO[bytes]]:
    """Open `part` for writing, and sync it at the end; None is standard output."""
    if part is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        with part.open("wb") as lines:
            yield lines
            lines.flush()
            os.fsync(lines.fileno())
    except OSError as error:
        raise UsageError(f"cannot write {error.filename or part}: {error.strerror}") from error


def _run(app: App, choice: ExportFilter, lines: IO[bytes], part: Path | None) -> Export:
    started: list[Export] = []

    async def work() -> Export:
        from agentd.bus.stream_reader import scan
        from agentd.wire import subjects

        async with app.bus() as (bus, _):
            exporting = Export(choice, lines)
            started.append(exporting)
            async for stored in scan(bus, subjects.WORKFLOWS, subjects.ALL_EVENTS, last=True):
                await exporting.take(bus, stored)
            return exporting

    try:
        return run_async(work())
    except BrokenPipeError:  # the reader has closed the pipe, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return started[0]
    except (AgentdError, KeyboardInterrupt) as error:
        if not started:
            raise
        note = "what was written is not all" if part is None else f"{part} holds what was written until then"
        why = str(error) or "Ctrl-C"
        message = f"interrupted after {started[0].written} workflows ({why}); {note}; run it again"
        raise BusUnavailable(message) if isinstance(error, AgentdError) else Interrupted(message) from error


def parse_time(text: str, option: str) -> datetime:
    """Parse a date, a time (UTC without a zone), or `7d`, `12h`, `30min` before now."""
    from datetime import timedelta

    for unit, name in (("min", "minutes"), ("h", "hours"), ("d", "days")):
        number = text.removesuffix(unit)
        if number != text and number.isascii() and number.isdigit() and len(number) < 6:  # noqa: PLR2004
            return datetime.now(UTC) - timedelta(**{name: int(number)})
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"{option}: {text!r} is no time; write 2026-08-01, 2026-08-01T12:00Z, 7d, 12h or 30min"
        ) from error
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
