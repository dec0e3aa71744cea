"""`agentd audit`: list, verify and export audit chains; accept a broken chain.

A chain is read one agent at a time.  An export contains the lines as they are stored, so that `agentd audit verify
--file` can verify it anywhere, without NATS.
"""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Protocol, Self

import click
import msgspec

from agentd.cli.context import App, Group, passes, run_async
from agentd.cli.output import audit_tables, tables
from agentd.errors import Denied, InvalidMessage, UsageError
from agentd.printable import escaped_bytes
from agentd.safety import audit_chain as chains
from agentd.wire import subjects
from agentd.wire.announcements import ControlReply
from agentd.wire.codec import decode
from agentd.wire.names import check_id
from agentd.wire.records import AuditAcceptance, AuditExport, AuditKey, AuditKeys, AuditRecord

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from agentd.bus.jetstream import Bus

ALTERED: Final = 1
"""Exit code if a chain has a fault that is not accepted."""


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """The result of verifying the chain of one agent.

    fault     the first fault that no principal has accepted; `at` is its line, `faults` lists all of them
    accepted  faults that a principal has accepted, with the principal and the reason
    keys      source of the public keys that the signatures were checked with
    trimmed   lines before `first` may have expired
    """

    agent_id: str
    lines: int
    first: int
    last: int
    trimmed: bool = False
    fault: str = ""
    at: int = 0
    faults: list[str] = []
    accepted: list[str] = []
    keys: str = ""


class Source(Protocol):
    """A source of chains: NATS, or an export."""

    top: AuditExport

    def agents(self) -> list[str]:
        """Return the agents that have a chain, a known key or a known head."""
        ...

    def lines(self, agent: str) -> AsyncIterator[AuditRecord | None]:
        """Yield the lines of one chain; None for a line that cannot be decoded."""
        ...


@click.group(cls=Group)
def audit() -> None:
    """List, verify and export the audit of each agent.

    The audit of an agent is a signed hash chain of the changes that it made.
    """


@audit.command()
@click.argument("agent", required=False)
@click.option(
    "--file", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Verify this export instead of NATS."
)
@click.option(
    "--keys",
    "pinned",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="File of public keys to use instead of those in NATS; one per line: AGENT KEY [FIRST LINE].",
)
@passes
def verify(app: App, agent: str | None, file: Path | None, pinned: Path | None) -> None:
    """Verify that no line of a chain was altered or removed.

    Exit code 1 if a chain has a fault; the first faulty line is named.
    """
    known = {} if pinned is None else _pinned(pinned)

    async def work() -> list[Verdict]:
        if file is not None:
            return await verify_chains(Export(file), agent, known)
        async with app.bus() as (bus, _):
            return await verify_chains(await Network.of(bus), agent, known)

    found = run_async(work())
    app.show(found, audit_tables.verdicts)
    sys.exit(ALTERED if any(verdict.fault for verdict in found) else 0)


async def verify_chains(source: Source, agent: str | None, pinned: dict[str, list[AuditKey]]) -> list[Verdict]:
    """Verify one chain or all; the others are read too: they contain its anchors."""
    agents = sorted({*source.agents(), *pinned})
    if agent is not None and agent not in agents:
        raise UsageError(f"agent {agent!r} has written nothing; chains: {', '.join(agents) or 'none yet'}")
    wanted = agents if agent is None else [agent]
    checks: dict[str, chains.ChainCheck] = {}
    for name in wanted:
        top = source.top
        keys = pinned.get(name) or (top.keys[name].keys if name in top.keys else [])
        checks[name] = chains.ChainCheck(name, keys, trimmed=bool(top.max_age or top.since))
        if name in top.heads:
            head = top.heads[name]
            note = chains.Anchor(head.seq, head.hash, head.signer, "the bucket audit", head.timestamp)
            checks[name].anchors.setdefault(head.seq, []).append(note)
    await _collect_anchors(source, agents, checks)
    for name, check in checks.items():
        async for record in source.lines(name):
            check.add(record)
        check.finish()
    return [_verdict(check, source.top, name in pinned) for name, check in checks.items()]


async def _collect_anchors(source: Source, agents: list[str], checks: dict[str, chains.ChainCheck]) -> None:
    """Collect the anchors that the chains of other agents contain."""
    for writer in agents:
        async for record in source.lines(writer):
            if record is None or record.agent_id != writer or record.hash != chains.hash_of(record):
                continue
            for agent, anchor in chains.anchors_in(record):
                if agent in checks and chains.is_signed(record):
                    checks[agent].anchors.setdefault(anchor.seq, []).append(anchor)


def _verdict(check: chains.ChainCheck, top: AuditExport, given: bool) -> Verdict:  # noqa: FBT001 - of verify_chains alone
    open_ = [problem for problem in check.problems if not problem.accepted]
    fault, at = (open_[0].text, open_[0].seq) if open_ else ("", 0)
    more = [f"and {check.more} more"] if check.more else []
    source = "the bucket audit" if check.agent_id in top.keys else ""
    return Verdict(
        check.agent_id,
        check.lines,
        check.first,
        check.last,
        check.trimmed and check.first > 1,
        fault,
        at,
        [problem.text for problem in open_] + more,
        [f"{problem.text} (accepted by {problem.accepted})" for problem in check.problems if problem.accepted],
        "--keys" if given else source or "none: nothing proves who wrote it",
    )


def _pinned(file: Path) -> dict[str, list[AuditKey]]:
    """Return the public keys of a file; raises UsageError for a line that is no key."""
    found: dict[str, list[AuditKey]] = {}
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        parts = line.partition("#")[0].split()
        if not parts:
            continue
        wrong = len(parts) not in {2, 3} or not re.fullmatch(r"U[A-Z2-7]{55}", parts[1])
        if wrong or not "".join(parts[2:]).isdecimal() * len(parts[2:]) == len(parts[2:]):
            raise UsageError(f"{file}:{number}: {line[:80]!r} is not AGENT KEY [FIRST LINE], with a key like UDQ7…")
        found.setdefault(parts[0], []).append(AuditKey(parts[1], int(parts[2]) if parts[2:] else 1))
    return {agent: sorted(keys, key=lambda key: key.first) for agent, keys in found.items()}


@audit.command()
@click.argument("agent", required=False)
@click.option("--since", help="Only lines since this time: 2026-08-01, 2026-08-01T12:00Z, 7d, 12h.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Output file; default: standard output."
)
@passes
def export(app: App, agent: str | None, since: str | None, output: Path | None) -> None:
    """Export audit chains as JSON lines.

    The first line contains keys and heads. The lines of the chains follow as they are stored, so that
    `agentd audit verify --file` can verify them.
    """
    from agentd.cli.records.export import open_output, parse_time

    after = None if since is None else parse_time(since, "--since")

    async def work(lines: IO[bytes]) -> int:
        count = 0
        async with app.bus() as (bus, _):
            network = await Network.of(bus)
            lines.write(msgspec.json.encode(msgspec.structs.replace(network.top, since=after)) + b"\n")
            for name in [agent] if agent else await _agents(bus):
                async for line in _exported(bus, check_id(name, "agent"), after):
                    lines.write(escaped_bytes(line) + b"\n")
                    count += 1
        return count

    with open_output(output) as lines:
        count = run_async(work(lines))
    click.echo(f"{count} lines written{f' to {output}' if output else ''}", err=True)


def _names(key: str) -> tuple[str, str]:
    """Return the stored key; of a call (`<principal>=<key>`) also the caller's key."""
    return key, key.rpartition("=")[2]


@audit.command()
@click.argument("agent")
@click.option("--reason", required=True, help="Reason why the faults are accepted; recorded in the chain.")
@passes
def accept(app: App, agent: str, reason: str) -> None:
    """Accept the faults of a chain, so that AGENT works again.

    Needs tier destroy. An agent with a faulty chain changes nothing until the faults are accepted. Missing lines stay
    missing, and `agentd audit verify` continues to report the accepted faults.
    """

    async def work() -> ControlReply:
        async with app.bus() as (bus, config):
            subject = subjects.accept(config.principal, check_id(agent, "agent"))
            return await bus.request(subject, AuditAcceptance(reason), ControlReply)

    reply = run_async(work())
    app.show(reply, tables.control)
    sys.exit(0 if reply.done else Denied.exit_code)


@audit.command(name="list")
@click.argument("agent", required=False)
@click.option("--since", default="1d", show_default=True, help="Only changes since this time.")
@click.option("--principal", default="", help="Only changes that this principal requested or approved.")
@click.option(
    "--tool", default="", help="Only calls of this tool; 'audit anchor' lists the notes about heads of chains."
)
@click.option("--key", default="", help="Only this workflow, task or call.")
@passes
def list_(app: App, agent: str | None, since: str, principal: str, tool: str, key: str) -> None:  # noqa: PLR0913, PLR0917
    """List the changes that agents made.

    Each line shows who requested it, who approved it, what was done and how it ended.
    """
    from agentd.cli.records.export import parse_time

    after = parse_time(since, "--since")

    def wanted(record: AuditRecord) -> bool:
        return (
            principal in {"", record.principal, record.approved_by}
            and (record.tool == tool if tool else record.tool != chains.ANCHOR)
            and (not key or any(name == key or name.startswith(f"{key}.") for name in _names(record.key)))
        )

    async def work() -> list[AuditRecord]:
        async with app.bus() as (bus, _):
            agents = [agent] if agent else await _agents(bus)
            found = [record for name in agents async for record in _chain(bus, name, after) if wanted(record)]
            return sorted(found, key=lambda record: record.timestamp)

    app.show(run_async(work()), audit_tables.audit)


class ForeignMessage(msgspec.Struct, frozen=True):
    """A message in the chain of an agent that is not its line, as exports keep it."""

    stands_in: str
    message: bytes


async def _exported(bus: Bus, agent: str, since: datetime | None) -> AsyncIterator[bytes]:
    """Yield the lines of an agent for an export; raises UsageError if it has none."""
    from agentd.bus.stream_reader import scan

    empty = True
    async for stored in scan(bus, subjects.AUDIT, subjects.audit(agent)):
        empty = False
        try:
            record = stored.decode(AuditRecord)
        except InvalidMessage:
            record = None
        if record is None or record.agent_id != agent:
            yield msgspec.json.encode(ForeignMessage(agent, stored.data))
        elif since is None or record.timestamp >= since:
            yield msgspec.json.encode(record)
    if empty:
        raise await _no_chain_error(bus, agent)


class Network:
    """The chains as they are stored in NATS."""

    def __init__(self, bus: Bus, top: AuditExport, there: list[str]) -> None:
        """Verify the chains with `top` (keys and heads); `there`: agents with a chain."""
        self.top = top
        self._bus = bus
        self._there = there

    @classmethod
    async def of(cls, bus: Bus) -> Self:
        """Read keys, heads and the maximum age of lines."""
        found = await bus.kv_values(subjects.CHAINS, AuditKeys, "key.")
        keys = {agent: entry.value for agent, entry in found.items() if entry.value and entry.value.agent_id == agent}
        noted = await bus.kv_values(subjects.CHAINS, AuditRecord, "head.")
        heads = {agent: entry.value for agent, entry in noted.items() if entry.value is not None}
        info = await bus.api(f"STREAM.INFO.{subjects.AUDIT}")
        top = AuditExport(bus.server_time(), keys, heads, info["config"].get("max_age", 0) / 1e9)
        return cls(bus, top, await _agents(bus))

    def agents(self) -> list[str]:
        """Return every agent that has a chain, a key or a head."""
        return [*self._there, *self.top.keys, *self.top.heads]

    async def lines(self, agent: str) -> AsyncIterator[AuditRecord | None]:
        """Yield the lines as they are stored."""
        from agentd.bus.stream_reader import scan

        async for stored in scan(self._bus, subjects.AUDIT, subjects.audit(check_id(agent, "agent"))):
            try:
                yield stored.decode(AuditRecord)
            except InvalidMessage:
                yield None


class Export:
    """The chains of an export file; the file is read again for each chain."""

    def __init__(self, file: Path) -> None:
        """Read the first line (keys and heads), which an export without signatures lacks."""
        self._file = file
        self._there: dict[str, None] = {}
        with file.open("rb") as lines:
            first = lines.readline()
        self._topped = b'"exported"' in first.partition(b":")[0]
        nothing = AuditExport(datetime.now(UTC), {})
        self.top = decode(first, AuditExport) if self._topped else nothing
        for agent, _ in self._all():
            self._there[agent] = None
        if not self._there:
            raise UsageError(f"{file}: no line in it")

    def _all(self) -> Iterator[tuple[str, AuditRecord | None]]:
        with self._file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if number == 1 and self._topped:
                    continue
                try:
                    if line.startswith(b'{"stands_in":'):
                        yield decode(line, ForeignMessage).stands_in, None
                        continue
                    record = decode(line, AuditRecord)
                    yield record.agent_id, record
                except InvalidMessage as error:
                    raise InvalidMessage(f"{self._file}:{number}: {error}") from error

    def agents(self) -> list[str]:
        """Return the agents whose lines the file contains."""
        return list(self._there)

    async def lines(self, agent: str) -> AsyncIterator[AuditRecord | None]:
        """Yield the lines of one agent."""
        for of, record in self._all():
            if of == agent:
                yield record


async def _agents(bus: Bus) -> list[str]:
    """Return the agents that have a chain, sorted."""
    info = await bus.api(f"STREAM.INFO.{subjects.AUDIT}", {"subjects_filter": subjects.audit("*")})
    return sorted(subject.rpartition(".")[2] for subject in info["state"].get("subjects") or {})


async def _chain(bus: Bus, agent: str, since: datetime | None = None) -> AsyncIterator[AuditRecord]:
    """Yield the lines of an agent since `since`; raises UsageError if it has none."""
    from agentd.bus.stream_reader import scan

    empty = True
    async for stored in scan(bus, subjects.AUDIT, subjects.audit(check_id(agent, "agent"))):
        empty = False
        try:
            record = stored.decode(AuditRecord)
        except InvalidMessage as error:
            click.echo(f"message {stored.seq} is no line of {agent}, and is left out: {error}", err=True)
            continue
        if since is None or record.timestamp >= since:
            yield record
    if empty:
        raise await _no_chain_error(bus, agent)


async def _no_chain_error(bus: Bus, agent: str) -> UsageError:
    return UsageError(f"agent {agent!r} has written nothing; chains: {', '.join(await _agents(bus)) or 'none yet'}")
