"""Dead letters: given-up messages, stored with the reason.

They are open until a person has closed them.  The server's own advisories name a terminated message, but in a work
queue the message itself is then gone [seen].  So a consumer stores the message here first and terminates it only then;
if it cannot be stored, it is delivered again.  The body of a dead letter is the unchanged message; the header LETTER
holds everything else as JSON, because an original header, such as a rollup, would act on AI_DEAD.

    ai.dead.given-up.<consumer>.<key>   a consumer could not handle a message: it is gone from its stream
    ai.dead.poisoned.<queue>.<key>      an assignment that killed the agents that ran it; its workflow was informed
    ai.dead.broken.<consumer>.<key>     an input that ended its workflow, because it could not be processed
    ai.dead.mark.<letter>               what was done with a letter, written by compare-and-set: it is replayed once
    $JS.EVENT.ADVISORY.…                messages that another client terminated, such as an external agent

A replay publishes a message again on its subject, and only a message that an orchestrator gave up: workers may write
dead letters too, and must not be able to have a signal or a completion published.  A message that fails again becomes a
new letter that names the first.  Only people start replays, so there is no loop.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from agentd.bus.stream_reader import SIZE, scan
from agentd.errors import BusFull, Denied, InvalidMessage, NotFound, PermanentError, StaleWrite, TooManyWaiting
from agentd.wire import secrets, subjects
from agentd.wire.codec import convert, now, plain
from agentd.wire.messages import Zoned
from agentd.wire.records import DeadLetter, DeadMark

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from agentd.bus.stored import Stored

GIVEN_UP: Final = "given-up"
POISONED: Final = "poisoned"
BROKEN: Final = "broken"
ENDED: Final = "ended"
"""Reasons for a letter; ENDED is for the server's advisories."""

OPEN: Final = "open"
REPLAYING: Final = "replaying"
REPLAYED: Final = "replayed"
CLOSED: Final = "closed"

LETTER: Final = "Agentd-Letter"
"""Header with a DeadLetter as JSON."""
REPLAY: Final = "Agentd-Replay"
"""Header of a replayed message: the number of its letter."""
MAX_REASON: Final = 2000
MAX_HEADERS: Final = 16 * 1024
"""Largest reason in characters, and largest size of the message's headers in bytes, that a letter keeps."""
HEADER_RESERVE: Final = 512
"""Bytes of a message that are reserved for the protocol and our other headers."""
TAKEOVER: Final = timedelta(seconds=60)
"""Time after which an unfinished replay counts as aborted, and may be started again."""

_REPLAYED_FROM: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    subjects.ORCH_REQUESTS: (subjects.REQUESTS, (subjects.WORKFLOW_REQUEST,)),
    subjects.ORCH_INPUT: (subjects.INPUT, (subjects.TASK_COMPLETE, "ai.workflows.signal.")),
    subjects.ORCH_DUE: (subjects.WORKFLOWS, ("ai.workflows.due.",)),
}
"""Consumers of the orchestrators: the stream that each reads, and the prefixes of subjects that may be replayed."""


class Letter(msgspec.Struct, frozen=True, omit_defaults=True):
    """One dead letter as it is listed.

    number     its sequence in AI_DEAD: its number for `agentd dead-letters`
    fixed      why it cannot be replayed; empty if it can
    state      open, replaying, replayed or closed; `closed_by` and `closed_at` say by whom and when
    """

    number: int
    when: datetime
    why: str
    stream: str
    subject: str
    reason: str
    agent_id: str
    size: int = 0
    sequence: int = 0
    consumer: str = ""
    delivered: int = 1
    cut: bool = False
    replay_of: int = 0
    fixed: str = ""
    state: str = OPEN
    closed_by: str = ""
    closed_at: datetime | None = None
    replayed_as: int = 0

    @property
    def open(self) -> bool:
        """Return whether a person still has to replay or close it."""
        return self.state in {OPEN, REPLAYING}


class Body(msgspec.Struct, frozen=True):
    """The message of a letter; `text` is None if `data` is not UTF-8."""

    headers: dict[str, str]
    text: str | None
    data: bytes


class _Advisory(msgspec.Struct, frozen=True):
    """The server's advisory about a terminated or too often delivered message."""

    type: str
    stream: str
    consumer: str
    stream_seq: int
    timestamp: Zoned
    deliveries: int = 1
    reason: str = ""


# -- storing --------------------------------------------------------------------------------------------------------


async def store_dead_letter(bus: Bus, why: str, consumer: str, letter: DeadLetter, data: bytes) -> None:
    """Store a message as a dead letter; the same message twice gives one letter.

    Raises BusError.
    """
    key = f"{letter.sequence}-{round(letter.stored.timestamp() * 1000)}"
    letter, data = _fit(letter, data, bus.max_payload)
    subject, expect = subjects.dead(why, consumer, key), 0
    while True:
        try:
            await bus.store(subject, data, expect=expect, headers={LETTER: _header(letter)})
        except StaleWrite:
            existing = await bus.every(subjects.DEAD, subject)
            if any(LETTER in stored.headers for stored in existing):
                return  # stored before, by an agent that died before it terminated the message
            expect = existing[-1].seq if existing else 0  # the subject has only answers of the server
        else:
            return


def _fit(letter: DeadLetter, data: bytes, limit: int) -> tuple[DeadLetter, bytes]:
    """Return letter and data, redacted and cut to what fits into one message.

    agentd accepts no message so large that its end would have to be cut, so nothing useful is lost.
    """
    replay = letter.headers.get(REPLAY, "")
    given, data = data, secrets.of_message(data)
    headers = {secrets.redacted(name): secrets.redacted(value) for name, value in letter.headers.items()}
    hidden = data != given or headers != letter.headers
    letter = msgspec.structs.replace(letter, headers=headers, reason=secrets.redacted(letter.reason))
    whole = len(json.dumps(letter.headers)) <= MAX_HEADERS and len(letter.reason) <= MAX_REASON
    letter = msgspec.structs.replace(
        letter,
        reason=letter.reason[:MAX_REASON],
        headers=letter.headers if whole else {},
        cut=hidden or not whole,
        size=len(given),
        replay_of=int(replay) if replay.isascii() and replay.isdigit() and len(replay) < 20 else 0,  # noqa: PLR2004
    )
    space = limit - len(_header(letter)) - HEADER_RESERVE
    if len(data) <= space:
        return letter, data
    return msgspec.structs.replace(letter, cut=True), data[: max(space, 0)]


def _header(letter: DeadLetter) -> str:
    """Return a letter as one line of ASCII."""
    return json.dumps(plain(letter))


# -- reading --------------------------------------------------------------------------------------------------------


async def letters(bus: Bus) -> list[Letter]:
    """Return every dead letter with its state, the oldest first; without bodies."""
    # Read in this order: an advisory is stored after the letter that explains it, and a mark after both.
    advisories = [_from_advisory(stored) async for stored in scan(bus, subjects.DEAD, *subjects.ADVISORIES)]
    kept = [
        _letter(stored, why)
        for why in (GIVEN_UP, POISONED, BROKEN)
        async for stored in scan(bus, subjects.DEAD, subjects.dead(why, "*", "*"), headers_only=True)
    ]
    newest = await bus.newest_many(subjects.DEAD, subjects.ALL_DEAD_MARKS, DeadMark)
    marks = {_number(subject): mark.value for subject, mark in newest.items() if mark.value is not None}
    explained = {(letter.stream, letter.consumer, letter.sequence) for letter in kept}
    unexplained = [
        letter for letter in advisories if letter and (letter.stream, letter.consumer, letter.sequence) not in explained
    ]
    found = sorted([*kept, *unexplained], key=lambda letter: letter.number)
    return [_with_mark(letter, marks.get(letter.number)) for letter in found]


async def count_open(bus: Bus) -> dict[str, int]:
    """Return the number of open letters of each stream."""
    open_ = [letter.stream for letter in await letters(bus) if letter.open]
    return {stream: open_.count(stream) for stream in open_}


async def find(bus: Bus, number: int) -> Letter:
    """Return the letter with this number; raises NotFound."""
    for letter in await letters(bus):
        if letter.number == number:
            return letter
    raise NotFound(
        f"there is no dead letter {number}; `agentd dead-letters list --all` lists them, and they stay 30 days"
    )


async def read_body(bus: Bus, letter: Letter) -> Body:
    """Return the message of a letter; raises NotFound if it is gone."""
    if letter.why == ENDED:
        stored = await bus.message(letter.stream, letter.sequence)
        if stored is None:
            raise NotFound(f"letter {letter.number} is an advisory of the server; the message has left {letter.stream}")
        return _body(stored.headers, stored.data)
    stored = await bus.message(subjects.DEAD, letter.number)
    if stored is None:
        raise NotFound(f"letter {letter.number} has just expired")
    return _body(_read(stored).headers, stored.data)


def _body(headers: dict[str, str], data: bytes) -> Body:
    try:
        return Body(headers, data.decode(), data)
    except UnicodeDecodeError:
        return Body(headers, None, data)


def _read(stored: Stored) -> DeadLetter:
    try:
        return convert(json.loads(stored.headers.get(LETTER, "{}")), DeadLetter)
    except ValueError as error:
        raise InvalidMessage(f"{LETTER}: {error}") from error


def _letter(stored: Stored, why: str) -> Letter:
    consumer = stored.subject.split(".")[3]
    try:
        read = _read(stored)
    except InvalidMessage as error:  # not written by agentd: other clients may publish here, so show it as it is
        size = int(stored.headers.get(SIZE, len(stored.data)))
        reason = f"not a letter of agentd's: {error}"
        return Letter(stored.seq, stored.time, why, subjects.DEAD, stored.subject, reason, "", size, fixed=reason)
    return Letter(
        number=stored.seq,
        when=stored.time,
        why=why,
        stream=read.stream,
        subject=read.subject,
        reason=read.reason,
        agent_id=read.agent_id,
        size=read.size,
        sequence=read.sequence,
        consumer=consumer,
        delivered=read.delivered,
        cut=read.cut,
        replay_of=read.replay_of,
        fixed=_replay_obstacle(why, consumer, read),
    )


def _replay_obstacle(why: str, consumer: str, letter: DeadLetter) -> str:
    """Return why a letter cannot be replayed; "" if it can."""
    if why == POISONED:
        return "its workflow has counted that attempt as failed and accepts no other: request the work again"
    if why == BROKEN:
        return "its workflow has ended because of it: request the work again"
    if letter.cut:
        return "it was too large to be kept whole"
    stream, prefixes = _REPLAYED_FROM.get(consumer, ("", ()))
    if letter.stream != stream or not letter.subject.startswith(prefixes):
        return f"only what an orchestrator gave up is published again; this was {consumer}'s"
    return ""


def _from_advisory(stored: Stored) -> Letter | None:
    """Return an advisory as a letter; None for streams that are not agentd's."""
    try:
        read = stored.decode(_Advisory)
    except InvalidMessage:
        return None
    if not read.stream.startswith("AI_"):
        return None
    ended = read.type.endswith("terminated")
    reason = read.reason or ("ended without a reason" if ended else f"delivered {read.deliveries} times without an end")
    return Letter(
        number=stored.seq,
        when=read.timestamp,
        why=ENDED,
        stream=read.stream,
        subject="",
        reason=reason,
        agent_id="",
        sequence=read.stream_seq,
        consumer=read.consumer,
        delivered=read.deliveries,
        fixed="agentd did not give it up: only the server's advisory exists",
    )


def _with_mark(letter: Letter, mark: DeadMark | None) -> Letter:
    if mark is None:
        return letter
    return msgspec.structs.replace(
        letter, state=mark.action, closed_by=mark.principal, closed_at=mark.timestamp, replayed_as=mark.sequence
    )


def _number(subject: str) -> int:
    last = subject.rpartition(".")[2]
    return int(last) if last.isdigit() else 0


# -- closing --------------------------------------------------------------------------------------------------------


async def replay(bus: Bus, letter: Letter, principal: str) -> int:
    """Publish the message of a letter again on its subject, once.

    Returns its new sequence.

    The mark is written first, so that two people cannot replay the same letter.  An aborted replay can be started again
    after a minute: the readers of these messages handle a repeated message as one.
    Raises PermanentError for a letter that is closed or cannot be replayed, BusError.
    """
    if letter.fixed:
        raise PermanentError(f"letter {letter.number} cannot be replayed: {letter.fixed}")
    found = await read_body(bus, letter)
    mark = await _mark(bus, letter, REPLAYING, principal)
    own = {name: value for name, value in found.headers.items() if not name.lower().startswith("nats-")}
    try:
        sequence = await bus.store(letter.subject, found.data, headers=own | {REPLAY: str(letter.number)})
    except (BusFull, TooManyWaiting, Denied):  # certainly not stored
        await bus.store(subjects.dead_mark(letter.number), DeadMark(OPEN, principal, now()), expect=mark)
        raise
    done = DeadMark(REPLAYED, principal, now(), sequence)
    await bus.store(subjects.dead_mark(letter.number), done, expect=mark)
    return sequence


async def close(bus: Bus, letter: Letter, principal: str) -> None:
    """Close a letter without a replay; it can still be read.  Raises PermanentError."""
    await _mark(bus, letter, CLOSED, principal)


async def _mark(bus: Bus, letter: Letter, action: str, principal: str) -> int:
    """Write the mark that closes a letter or starts its replay; return its sequence."""
    subject = subjects.dead_mark(letter.number)
    before = await bus.newest(subjects.DEAD, subject, DeadMark)
    mark = before.value  # a mark that cannot be read closes nothing
    if mark is not None:
        aborted = mark.action == REPLAYING and now() - mark.timestamp > TAKEOVER
        if mark.action != OPEN and not aborted:
            raise PermanentError(
                f"letter {letter.number} was {mark.action} by {mark.principal} at {mark.timestamp:%F %T} UTC"
            )
    try:
        return await bus.store(subject, DeadMark(action, principal, now()), expect=before.seq)
    except StaleWrite as error:
        raise PermanentError(f"letter {letter.number}: another client has just closed it") from error
