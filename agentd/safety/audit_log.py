"""Publishes an agent's audit chain; the chain itself is pure (audit.py).

Each agent has one subject and one chain: its own chains took 21,300 records a second, one shared chain 1,461
with three conflicts a record.  A record that cannot be written is an error for whoever wanted to act.

The agent holds what is stored against what it remembers of its own head.  What it did not write, or what it wrote and
is not there, raises an alarm that only a principal ends (`accept`): until then nothing is begun that changes something.
Lines are written on all the same, after the agent's own last one, so that what runs is noted.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any, Final

from agentd.errors import AuditBroken, BusError, InvalidMessage, Rejected, StaleWrite
from agentd.safety.audit_chain import ACCEPT, AuditChain, hash_of
from agentd.safety.signing import Head, Memory, Signer, valid
from agentd.wire import subjects
from agentd.wire.codec import now
from agentd.wire.messages import AuditKey, AuditKeys, AuditRecord, CriticalError, Tier

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus, Newest, Stored
    from agentd.telemetry.logs import Logger

UNSURE: Final = 16
"""Lines whose writing was not answered that are remembered: the last of them may be stored."""


class Ledger:
    """The audit chain of one agent, as AI_AUDIT keeps it.

    signer  signs each line; without one a key is made that this process alone has
    memory  what the agent remembers of its chain over its restarts
    """

    def __init__(
        self,
        bus: Bus,
        agent_id: str,
        *,
        signer: Signer | None = None,
        memory: Memory | None = None,
        log: Logger | None = None,
    ) -> None:
        """Keep where to write; the head is read by `open`, or when the first record is written."""
        self.alarm = "" if memory is None else memory.alarm
        self.newest: AuditRecord | None = None
        """The last line that is more than a note of other chains' heads; written by this process."""
        self.signer = signer
        self.process = secrets.token_hex(4)
        self._bus = bus
        self._agent = agent_id
        self._subject = subjects.audit(agent_id)
        self._memory = memory
        self._log = log
        self._keys: list[AuditKey] = []
        self._head: Head | None = None
        self._seq = 0  # of the last message in the stream
        self._at = 0  # of the last line in the stream
        self._unsure: dict[str, Head] = {}
        self._opened = False
        self._stream = "" if memory is None else memory.stream
        self._lock = asyncio.Lock()

    def know(self, signer: Signer, memory: Memory) -> None:
        """Take over the key and what is remembered; before anything is written."""
        self.signer, self._memory = signer, memory
        self.alarm, self._stream = memory.alarm, memory.stream

    # -- the head -----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Read the keys and the head, once, and hold them against what is remembered; raises BusError."""
        async with self._lock:
            await self._open()

    async def _open(self) -> None:
        if self._opened:
            return
        if self.signer is None:
            self.signer = await asyncio.to_thread(Signer.new)
        public = self.signer.public
        stored = await self._bus.last(subjects.AUDIT, self._subject)
        await self._pin(public, stored)
        known = await self._known()
        self._seq = 0 if stored is None else stored.seq
        line = await self._last_line(stored, 1)
        self._at = 0 if line is None else line.seq
        found = None if line is None else self._own(line)
        problem = _lost(line, found, known)
        if problem:
            self._raise(problem)
            self._head = known or (None if found is None else Head(found.seq, found.hash))
        else:
            self._head = None if found is None else Head(found.seq, found.hash)
        await self._same_stream()
        self._opened = True

    async def _pin(self, public: str, stored: Stored | None) -> None:
        """Pin our key if this agent has none yet; another one is a reason for an alarm."""
        while True:
            pinned = await self._pinned_keys()
            if pinned.value is not None or pinned.doubt:
                self._keys = [] if pinned.value is None else pinned.value.keys
                if pinned.doubt:
                    self._raise(f"its pinned keys cannot be understood ({pinned.doubt})")
                if self._keys and self._keys[-1].public != public:
                    self._raise(
                        f"its key {public[:12]}… is not the pinned one ({self._keys[-1].public[:12]}…): "
                        "its state directory was lost, or another daemon has this id"
                    )
                return
            keys = [AuditKey(public, _unsigned_until(stored) + 1)]
            try:
                await self._pinned(keys, pinned.seq)
            except StaleWrite:
                continue
            return

    async def _pinned_keys(self) -> Newest[AuditKeys]:
        key = subjects.audit_key(self._agent)
        return await self._bus.kv_read(subjects.CHAINS, key, AuditKeys, lambda keys: keys.agent_id == self._agent)

    async def _pinned(self, keys: list[AuditKey], expect: int) -> None:
        key = subjects.audit_key(self._agent)
        await self._bus.kv_put(subjects.CHAINS, key, AuditKeys(self._agent, keys), expect=expect)
        self._keys = keys

    async def _known(self) -> Head | None:
        """Return the latest head of this chain that the agent itself, or the bucket, remembers."""
        found = [] if self._memory is None or self._memory.head is None else [self._memory.head]
        key = subjects.audit_head(self._agent)
        noted = await self._bus.kv_read(subjects.CHAINS, key, AuditRecord, self._wrote)
        if noted.value is not None:
            found.append(Head(noted.value.seq, noted.value.hash))
        return max(found, default=None)

    def _own(self, stored: Stored) -> AuditRecord | None:
        """Return a line if this agent wrote it."""
        try:
            record = stored.decode(AuditRecord)
        except InvalidMessage:
            return None
        return record if self._wrote(record) else None

    def _wrote(self, record: AuditRecord) -> bool:
        """Return whether this agent wrote a line; one of before it signed has no signature."""
        wanted = next((each.public for each in reversed(self._keys) if each.first <= record.seq), "")
        if record.agent_id != self._agent or record.hash != hash_of(record):
            return False
        return not wanted or (record.signer == wanted and valid(wanted, record.hash, record.signature))

    async def _last_line(self, stored: Stored | None, since: int) -> Stored | None:
        """Return the last message that is a line, at or after the stream sequence `since`.

        What is no line at all says nothing about the chain: the server writes the acknowledgement of a publish to
        whatever reply subject the publisher named, this one too.  It is noted and skipped.
        """
        if stored is None or self._bus.read(stored, AuditRecord) is not None:
            return stored
        last = None
        async for message in self._bus.walk(subjects.AUDIT, self._subject, since=since):
            if self._bus.read(message, AuditRecord) is not None:
                last = message
        return last

    async def look(self) -> None:
        """Look whether our head is still there and the last, without writing; raises BusError."""
        async with self._lock:
            await self._open()
            await self._same_stream()
            await self._compare()

    async def _compare(self) -> None:
        """Hold the last line that is stored against ours."""
        stored = await self._bus.last(subjects.AUDIT, self._subject)
        if (0 if stored is None else stored.seq) != self._seq:
            await self._differs(stored)

    async def _same_stream(self) -> None:
        """Raise the alarm if the stream is another one than that in which this agent has written."""
        made = str((await self._bus.api(f"STREAM.INFO.{subjects.AUDIT}"))["created"])
        before, self._stream = self._stream, made
        if before and before != made and self._head is not None:
            self._raise(f"the stream was made anew at {made[:19]}")

    async def _differs(self, stored: Stored | None) -> None:
        """Take over what lies in the stream in the place of our last line; raise the alarm if it is not ours."""
        self._seq = 0 if stored is None else stored.seq
        beyond = self._seq > self._at
        stored = await self._last_line(stored, max(1, self._at))
        at_line, self._at = self._at, 0 if stored is None else stored.seq
        if beyond and self._at == at_line:
            return  # our line is still the last one; what came after it is no line
        record = None if stored is None else self._own(stored)
        at = 0 if self._head is None else self._head.seq
        if record is not None and record.process == self.process and record.hash in self._unsure:
            self._head = self._unsure[record.hash]
        elif record is not None and record.seq > at:
            self._raise(f"line {record.seq} is of another process ({record.process or 'unknown'}) that has our key")
            self._head = Head(record.seq, record.hash)
        elif record is not None and record.seq < at:
            self._raise(f"line {record.seq} is the last one, and this agent has written line {at}: the end was cut off")
        elif record is not None and self._head is not None and record.hash == self._head.hash:
            self._raise(f"line {at} lies elsewhere than where this agent wrote it: the stream was made anew")
        else:
            what = "the chain is gone" if stored is None else "the last line is not one that this agent wrote"
            self._raise(f"{what}; its own last line is {at}")
        self._unsure.clear()

    # -- the alarm ----------------------------------------------------------------------------------------------------

    def check(self, tool: str) -> None:
        """Raise AuditBroken if the chain is not as this agent wrote it and nobody has acknowledged that."""
        if self.alarm:
            raise AuditBroken(
                f"{tool}: nothing was done: the audit of {self._agent} is not as it was written: {self.alarm}; "
                f"look with `agentd audit verify`, then `agentd audit accept {self._agent} --reason TEXT`"
            )

    def _raise(self, problem: str) -> None:
        """Keep the alarm, and say it wherever it is heard."""
        if self.alarm:
            return
        self.alarm = problem
        if self._memory is not None:
            self._memory.keep(self._head or self._memory.head, problem, self._stream)
        if self._log is not None:
            self._log.error("the audit of this agent is not as it was written", reason=problem)
        self._bus.spawn(self._tell(problem))

    async def _tell(self, problem: str) -> None:
        text = f"the audit of {self._agent} is not as it was written: {problem}"
        try:
            await self._bus.publish(subjects.critical_error(self._agent), CriticalError(self._agent, text, now()))
        except BusError as error:
            if self._log is not None:
                self._log.error("the alarm is not heard by others", reason=str(error))

    async def accept(self, principal: str, reason: str) -> str:
        """End the alarm for a principal, by a line of the chain that says so; return what was acknowledged."""
        await self.open()
        problem = self.alarm
        if not problem:
            raise Rejected(f"the audit of {self._agent} is as it was written: there is nothing to accept")
        async with self._lock:
            await self._pin_anew()
        await self.write(
            principal=principal,
            tool=ACCEPT,
            tier=Tier.DESTROY,
            phase="after",
            key="audit.accept",
            arguments={"reason": reason, "problem": problem},
            outcome="accepted",
        )
        self.alarm = ""
        if self._memory is not None:
            self._memory.keep(self._head, "", self._stream)
        return problem

    async def _pin_anew(self) -> None:
        """Pin our key from the next line on, if another one was pinned."""
        if self.signer is None or not self._keys:
            return
        if self._keys[-1].public == self.signer.public:
            return
        pinned = await self._pinned_keys()
        first = 1 if self._head is None else self._head.seq + 1
        await self._pinned([*self._keys, AuditKey(self.signer.public, first)], pinned.seq)

    # -- lines --------------------------------------------------------------------------------------------------------

    async def write(  # noqa: PLR0913 - one line of the audit has these columns
        self,
        *,
        principal: str,
        tool: str,
        tier: Tier,
        phase: str,
        key: str,
        arguments: dict[str, Any] | None = None,
        outcome: str = "",
        upid: str = "",
        approved_by: str = "",
        anchor: bool = False,
    ) -> None:
        """Add a record to the chain and store it; raises BusUnavailable when it cannot be written."""
        async with self._lock:
            await self._open()
            if self._unsure:  # the last write was not answered: what became of it is read first
                await self._compare()
            while True:
                record = AuditChain(self._agent, self._head, self.process, self.signer).next(
                    now(),
                    principal=principal,
                    tool=tool,
                    tier=tier,
                    phase=phase,
                    key=key,
                    arguments=arguments or {},
                    outcome=outcome,
                    upid=upid,
                    approved_by=approved_by,
                )
                if await self._stored(record):
                    break
            if not anchor:
                self.newest = record

    async def _stored(self, record: AuditRecord) -> bool:
        """Store a line; return whether it is the head now, or another one was there."""
        head = Head(record.seq, record.hash)
        self._unsure[record.hash] = head
        if len(self._unsure) > UNSURE:
            del self._unsure[next(iter(self._unsure))]
        try:
            self._seq = await self._bus.store(self._subject, record, expect=self._seq)
        except StaleWrite:
            del self._unsure[record.hash]
            await self._differs(await self._bus.last(subjects.AUDIT, self._subject))
            return False
        self._at = self._seq
        self._unsure.clear()
        self._head = head
        if self._memory is not None:
            self._memory.keep(head, self.alarm, self._stream)
        return True


def _unsigned_until(stored: Stored | None) -> int:
    """Return the last line of a chain that began before its agent signed, 0 for a new chain."""
    try:
        record = None if stored is None else stored.decode(AuditRecord)
    except InvalidMessage:
        return 0
    return record.seq if record is not None and not record.signature else 0


def _lost(stored: Stored | None, found: AuditRecord | None, known: Head | None) -> str:
    """Say what is wrong with the last line that is stored, given the last one that is known; "" for nothing."""
    at = 0 if known is None else known.seq
    if stored is None:
        return f"the chain is gone; its own last line is {at}" if known else ""
    if found is None:
        return f"the last line is not one that this agent wrote; its own last line is {at}"
    if found.seq < at:
        return f"line {found.seq} is the last one, and this agent has written line {at}: the end was cut off"
    if known is not None and found.seq == at and found.hash != known.hash:
        return f"line {at} is not the one that this agent wrote: the chain was written anew"
    return ""
