"""Publishes an agent's audit chain; the chain itself is pure (audit_chain.py).

Each agent has one subject and one chain: with a chain per agent 21,300 records a second were written, with one shared
chain 1,461, with three conflicts per record.  A record that cannot be written is an error for the call that it
records.

The agent compares what is stored with what it remembers of its own head.  A record that it did not write, or a missing
record that it wrote, raises an alarm that only a principal ends (`accept`): until then nothing that changes something
begins.  Records are still written, after the agent's own last one, so that running work is recorded.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any, Final

from agentd.errors import AuditBroken, BusError, InvalidMessage, Rejected, StaleWrite
from agentd.safety.audit_chain import ACCEPT, AuditChain, hash_of
from agentd.safety.signing import Head, Memory, Signer, valid
from agentd.wire import subjects
from agentd.wire.announcements import CriticalError
from agentd.wire.codec import now
from agentd.wire.messages import Tier
from agentd.wire.records import AuditKey, AuditKeys, AuditRecord

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from agentd.bus.stored import Newest, Stored
    from agentd.telemetry.logs import Logger

MAX_UNCONFIRMED: Final = 16
"""Unanswered writes that are remembered: the last of them may be stored."""


class AuditLog:
    """The audit chain of one agent, as stored in AI_AUDIT.

    signer  signs each record; without one, a key is created that only this process has
    memory  what the agent remembers of its chain across restarts
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
        """Use this bus; `open`, or the first write, reads the head."""
        self.alarm = "" if memory is None else memory.alarm
        self.newest: AuditRecord | None = None
        """The last record of this process that is not just a note of other chains' heads."""
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
        self._at = 0  # of the last record in the stream
        self._unconfirmed: dict[str, Head] = {}
        self._opened = False
        self._stream = "" if memory is None else memory.stream
        self._lock = asyncio.Lock()

    def know(self, signer: Signer, memory: Memory) -> None:
        """Use this key and memory; call it before anything is written."""
        self.signer, self._memory = signer, memory
        self.alarm, self._stream = memory.alarm, memory.stream

    # -- the head -----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Read the keys and the head once, and compare them with the memory.

        Raises BusError.
        """
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
        remembered = await self._remembered_head()
        self._seq = 0 if stored is None else stored.seq
        line = await self._last_line(stored, 1)
        self._at = 0 if line is None else line.seq
        record = None if line is None else self._own_record(line)
        problem = _head_fault(line, record, remembered)
        if problem:
            self._raise(problem)
            self._head = remembered or (None if record is None else Head(record.seq, record.hash))
        else:
            self._head = None if record is None else Head(record.seq, record.hash)
        await self._same_stream()
        self._opened = True

    async def _pin(self, public: str, stored: Stored | None) -> None:
        """Pin our key if this agent has none; raise the alarm if another one is pinned."""
        while True:
            pinned = await self._pinned_keys()
            if pinned.value is not None or pinned.doubt:
                self._keys = [] if pinned.value is None else pinned.value.keys
                if pinned.doubt:
                    self._raise(f"its pinned keys cannot be understood ({pinned.doubt})")
                if self._keys and self._keys[-1].public != public:
                    self._raise(
                        f"its key {public[:12]}… is not the pinned one ({self._keys[-1].public[:12]}…): "
                        "it was replaced, its state directory was lost, or another daemon has this id; "
                        f"if the reason is known: `agentd audit accept {self._agent} --reason TEXT`"
                    )
                return
            keys = [AuditKey(public, _unsigned_until(stored) + 1)]
            try:
                await self._store_keys(keys, pinned.seq)
            except StaleWrite:
                continue
            return

    async def _pinned_keys(self) -> Newest[AuditKeys]:
        key = subjects.audit_key(self._agent)
        return await self._bus.kv_read(subjects.CHAINS, key, AuditKeys, lambda keys: keys.agent_id == self._agent)

    async def _store_keys(self, keys: list[AuditKey], expect: int) -> None:
        key = subjects.audit_key(self._agent)
        await self._bus.kv_put(subjects.CHAINS, key, AuditKeys(self._agent, keys), expect=expect)
        self._keys = keys

    async def _remembered_head(self) -> Head | None:
        """Return the latest head of this chain that the agent or the bucket remembers."""
        heads = [] if self._memory is None or self._memory.head is None else [self._memory.head]
        key = subjects.audit_head(self._agent)
        noted = await self._bus.kv_read(subjects.CHAINS, key, AuditRecord, self._is_ours)
        if noted.value is not None:
            heads.append(Head(noted.value.seq, noted.value.hash))
        return max(heads, default=None)

    def _own_record(self, stored: Stored) -> AuditRecord | None:
        """Return the record in a message if this agent wrote it, else None."""
        try:
            record = stored.decode(AuditRecord)
        except InvalidMessage:
            return None
        return record if self._is_ours(record) else None

    def _is_ours(self, record: AuditRecord) -> bool:
        """Return whether this agent wrote a record.

        Records from before the agent signed have no signature.
        """
        expected = next((key.public for key in reversed(self._keys) if key.first <= record.seq), "")
        if record.agent_id != self._agent or record.hash != hash_of(record):
            return False
        return not expected or (record.signer == expected and valid(expected, record.hash, record.signature))

    async def _last_line(self, stored: Stored | None, since: int) -> Stored | None:
        """Return the last message that is a record, from stream sequence `since` on.

        A message that is not a record says nothing about the chain: the server writes the acknowledgement of a publish
        to the reply subject that the publisher named, which may be this one.  It is noted as unreadable and skipped.
        """
        if stored is None or self._bus.read(stored, AuditRecord) is not None:
            return stored
        last = None
        async for message in self._bus.walk(subjects.AUDIT, self._subject, since=since):
            if self._bus.read(message, AuditRecord) is not None:
                last = message
        return last

    async def check_head(self) -> None:
        """Check that our head is still stored as the last record; writes nothing.

        Raises BusError.
        """
        async with self._lock:
            await self._open()
            await self._same_stream()
            await self._compare()

    async def _compare(self) -> None:
        """Compare the last stored record with ours."""
        stored = await self._bus.last(subjects.AUDIT, self._subject)
        if (0 if stored is None else stored.seq) != self._seq:
            await self._adopt_stored(stored)

    async def _same_stream(self) -> None:
        """Raise the alarm if the stream was created again since this agent wrote."""
        created = str((await self._bus.api(f"STREAM.INFO.{subjects.AUDIT}"))["created"])
        before, self._stream = self._stream, created
        if before and before != created and self._head is not None:
            self._raise(f"the stream was recreated at {created[:19]}")

    async def _adopt_stored(self, stored: Stored | None) -> None:
        """Take over what is stored instead of our last record.

        Raises the alarm if it is not ours.
        """
        self._seq = 0 if stored is None else stored.seq
        beyond = self._seq > self._at
        stored = await self._last_line(stored, max(1, self._at))
        at_line, self._at = self._at, 0 if stored is None else stored.seq
        if beyond and self._at == at_line:
            return  # our record is still the last one; the messages after it are not records
        record = None if stored is None else self._own_record(stored)
        at = 0 if self._head is None else self._head.seq
        if record is not None and record.process == self.process and record.hash in self._unconfirmed:
            self._head = self._unconfirmed[record.hash]
        elif record is not None and record.seq > at:
            self._raise(f"line {record.seq} is of another process ({record.process or 'unknown'}) that has our key")
            self._head = Head(record.seq, record.hash)
        elif record is not None and record.seq < at:
            self._raise(f"line {record.seq} is the last one, and this agent has written line {at}: the end was cut off")
        elif record is not None and self._head is not None and record.hash == self._head.hash:
            self._raise(f"line {at} is not where this agent wrote it: the stream was recreated")
        else:
            text = "the chain is gone" if stored is None else "the last line is not one that this agent wrote"
            self._raise(f"{text}; its own last line is {at}")
        self._unconfirmed.clear()

    # -- the alarm ----------------------------------------------------------------------------------------------------

    def check(self, tool: str) -> None:
        """Raise AuditBroken if there is an alarm that is not acknowledged."""
        if self.alarm:
            raise AuditBroken(
                f"{tool}: nothing was done: the audit of {self._agent} is not as the agent wrote it: {self.alarm}; "
                f"check it with `agentd audit verify`, then `agentd audit accept {self._agent} --reason TEXT`"
            )

    def _raise(self, problem: str) -> None:
        """Keep the alarm, log it and publish it."""
        if self.alarm:
            return
        self.alarm = problem
        if self._memory is not None:
            self._memory.keep(self._head or self._memory.head, problem, self._stream)
        if self._log is not None:
            self._log.error("the audit of this agent is not as the agent wrote it", reason=problem)
        self._bus.spawn(self._publish_alarm(problem))

    async def _publish_alarm(self, problem: str) -> None:
        text = f"the audit of {self._agent} is not as the agent wrote it: {problem}"
        try:
            await self._bus.publish(subjects.critical_error(self._agent), CriticalError(self._agent, text, now()))
        except BusError as error:
            if self._log is not None:
                self._log.error("the alarm cannot be published", reason=str(error))

    async def accept(self, principal: str, reason: str) -> str:
        """End the alarm for a principal and return the acknowledged problem.

        A record of the chain documents it.
        """
        await self.open()
        problem = self.alarm
        if not problem:
            raise Rejected(f"the audit of {self._agent} is as the agent wrote it: there is nothing to accept")
        async with self._lock:
            await self._pin_again()
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

    async def _pin_again(self) -> None:
        """Pin our key from the next record on, if another one was pinned."""
        if self.signer is None or not self._keys:
            return
        if self._keys[-1].public == self.signer.public:
            return
        pinned = await self._pinned_keys()
        first = 1 if self._head is None else self._head.seq + 1
        await self._store_keys([*self._keys, AuditKey(self.signer.public, first)], pinned.seq)

    # -- records ------------------------------------------------------------------------------------------------------

    async def write(  # noqa: PLR0913 - an audit record has these fields
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
        """Add a record to the chain and store it; raises BusUnavailable if that fails."""
        async with self._lock:
            await self._open()
            if self._unconfirmed:  # the last write was not answered: read first whether it was stored
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
                if await self._store(record):
                    break
            if not anchor:
                self.newest = record

    async def _store(self, record: AuditRecord) -> bool:
        """Store a record; return whether it is now the head.

        It is not if another record was stored first.
        """
        head = Head(record.seq, record.hash)
        self._unconfirmed[record.hash] = head
        if len(self._unconfirmed) > MAX_UNCONFIRMED:
            del self._unconfirmed[next(iter(self._unconfirmed))]
        try:
            self._seq = await self._bus.store(self._subject, record, expect=self._seq)
        except StaleWrite:
            del self._unconfirmed[record.hash]
            await self._adopt_stored(await self._bus.last(subjects.AUDIT, self._subject))
            return False
        self._at = self._seq
        self._unconfirmed.clear()
        self._head = head
        if self._memory is not None:
            self._memory.keep(head, self.alarm, self._stream)
        return True


def _unsigned_until(stored: Stored | None) -> int:
    """Return the last unsigned record of a chain, 0 for a new chain.

    Such a chain began before its agent signed.
    """
    try:
        record = None if stored is None else stored.decode(AuditRecord)
    except InvalidMessage:
        return 0
    return record.seq if record is not None and not record.signature else 0


def _head_fault(stored: Stored | None, record: AuditRecord | None, remembered: Head | None) -> str:
    """Return what is wrong with the last stored record, "" if nothing.

    remembered  the last record that the agent remembers
    """
    at = 0 if remembered is None else remembered.seq
    if stored is None:
        return f"the chain is gone; its own last line is {at}" if remembered else ""
    if record is None:
        return f"the last line is not one that this agent wrote; its own last line is {at}"
    if record.seq < at:
        return f"line {record.seq} is the last one, and this agent has written line {at}: the end was cut off"
    if remembered is not None and record.seq == at and record.hash != remembered.hash:
        return f"line {at} is not the one that this agent wrote: the chain was rewritten"
    return ""
