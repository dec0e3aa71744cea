"""The audit chain of one agent: who did what; pure, audit_log.py publishes it.

Each record holds the hash of the one before it and the agent's signature, so that nothing else can change, remove, move
or add a record unnoticed.  A chain alone cannot show that its end was cut off: therefore its head is anchored in the
chains of other agents (anchors.py), and the agent remembers its own.

Secrets are never part of a record, not even as a hash: the digest is over the arguments without them, because the hash
of a short password can be guessed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd.config.secret_files import is_secret
from agentd.safety.signing import Head, valid
from agentd.wire.codec import digest, encode
from agentd.wire.records import AuditRecord
from agentd.wire.secrets import redacted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from agentd.safety.signing import Signer
    from agentd.wire.messages import Tier
    from agentd.wire.records import AuditKey

HIDDEN: Final = "***"
MAX_TEXT: Final = 256
"""Characters of one argument that are kept.

The rest is counted, and covered by the digest.
"""
MAX_ARGUMENTS: Final = 4096
"""Largest size in bytes of all arguments of a record.

A record must never be too large to be written.
"""

ALTERED: Final = "altered"
MISSING: Final = "missing"
REORDERED: Final = "reordered"
FOREIGN: Final = "foreign"
CUT: Final = "cut"
REWRITTEN: Final = "rewritten"
TWICE: Final = "two processes"
UNREADABLE: Final = "unreadable"
ACCEPT: Final = "audit accept"
ANCHOR: Final = "audit anchor"
MOST_PROBLEMS: Final = 20
"""Problems of one chain that are kept; the others are only counted."""


@dataclass(frozen=True)
class Problem:
    """A record of a chain that is not as it was written.

    It has its sequence number, a reason, a sentence, and who has acknowledged it.
    """

    seq: int
    reason: str
    text: str
    accepted: str = ""


@dataclass(frozen=True)
class Anchor:
    """What another agent, or the bucket, has noted about one record of a chain."""

    seq: int
    hash: str
    signer: str
    by: str
    at: datetime


def is_signed(record: AuditRecord) -> bool:
    """Return whether a record is signed with the key that it names."""
    return bool(record.signature) and valid(record.signer, record.hash, record.signature)


def anchors_in(record: AuditRecord) -> Iterator[tuple[str, Anchor]]:
    """Yield the heads of other chains that a record notes: agent and anchor."""
    heads = record.arguments.get("heads") if record.tool == ANCHOR else None
    for entry in heads if isinstance(heads, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("seq"), int):
            head = {name: str(entry.get(name, "")) for name in ("agent", "hash", "signer")}
            anchor = Anchor(entry["seq"], head["hash"], head["signer"], record.agent_id, record.timestamp)
            yield head["agent"], anchor


@dataclass
class ChainCheck:
    """Checks the records of one chain, in stored order; it keeps only the problems.

    keys     the valid keys, each with the first record that it signs; empty: records need not be signed
    anchors  what others have noted about this chain
    trimmed  old records may have been removed: the first one that exists is trusted
    """

    agent_id: str
    keys: Sequence[AuditKey] = ()
    anchors: dict[int, list[Anchor]] = field(default_factory=dict)
    trimmed: bool = False
    problems: list[Problem] = field(default_factory=list)
    more: int = 0
    lines: int = 0
    first: int = 0
    last: int = 0
    _place: int = 1
    _doubtful: int = 0
    _hash: str | None = ""
    _process: str = ""
    _over: set[str] = field(default_factory=set)
    _accepted: tuple[datetime, str] | None = None

    def add(self, record: AuditRecord | None) -> None:
        """Check the next record; None is a message that cannot be decoded."""
        self.lines += 1
        reason, text = (UNREADABLE, "cannot be decoded") if record is None else self._foreign_reason(record)
        if record is None or reason:
            self._add_problem(self._place, reason, f"line {self._place} {text}")
            self._doubtful += 1  # it may replace a record, or be an additional message
            return
        if not self.first:
            self.first = record.seq
            if self.trimmed:
                self._place, self._hash = record.seq, None
        self._check_link(record)
        self._check_single_writer(record)
        self._check_anchors(record)
        self._place, self._hash, self._doubtful = max(self._place, record.seq + 1), record.hash, 0
        self.last = max(self.last, record.seq)
        if record.tool == ACCEPT:
            self._accept(record)

    def finish(self) -> None:
        """Check the anchors of records that were not found."""
        for seq in sorted(self.anchors):
            if self.first and self.trimmed and seq < self.first:
                continue
            anchor = self.anchors[seq][0]
            if seq > self.last:
                text = f"the chain ends at line {self.last}, and {anchor.by} has seen line {seq}: its end was cut off"
            else:
                text = f"line {seq}, which {anchor.by} has seen, is not there"
            accepted = self._accepted is not None and anchor.at <= self._accepted[0]
            self._add_problem(seq, CUT, text, self._accepted[1] if self._accepted and accepted else "")
        self.anchors.clear()

    def _foreign_reason(self, record: AuditRecord) -> tuple[str, str]:
        """Return why the agent did not write this record; two empty texts if it did."""
        if record.hash != hash_of(record):
            return ALTERED, "was altered: its hash does not match its content"
        if record.agent_id != self.agent_id:
            return FOREIGN, f"is of {record.agent_id}, the chain is of {self.agent_id}"
        return self._signature_fault(record)

    def _signature_fault(self, record: AuditRecord) -> tuple[str, str]:
        """Return what is wrong with the signature; two empty texts if it is the agent's."""
        expected = next((key.public for key in reversed(self.keys) if key.first <= record.seq), "")
        text = ""
        if self.keys and not expected:
            return "", ""  # written before this agent signed its records
        if not self.keys:
            text = "is signed, and no key of this agent is known" if record.signature else ""
        elif not record.signature:
            text = "is not signed"
        elif record.signer != expected:
            text = f"is signed with another key ({record.signer[:12]}…)"
        elif not valid(record.signer, record.hash, record.signature):
            text = "has a wrong signature"
        return (FOREIGN, f"{text}: {self.agent_id} did not write it") if text else ("", "")

    def _check_link(self, record: AuditRecord) -> None:
        """Check that a record follows the one before it."""
        place = self._place
        if record.seq < place:
            self._add_problem(place, REORDERED, f"line {record.seq} is where line {place} should be")
        elif record.seq > place + self._doubtful:
            self._add_problem(place, MISSING, f"line {place} is missing: {record.seq} is in its place")
        elif record.seq > place:
            return  # the records in between are the ones that were rejected
        elif self._hash is not None and record.previous != self._hash:
            text = f"line {place} does not continue line {place - 1}: one of them was altered"
            self._add_problem(place, ALTERED, text if place > 1 else "line 1 names a line before it")

    def _check_single_writer(self, record: AuditRecord) -> None:
        """Check that the processes of the agent wrote one after the other."""
        if record.process == self._process:
            return
        if record.process in self._over:
            text = f"line {record.seq} is of a process that another had replaced: two ran as {self.agent_id}"
            self._add_problem(record.seq, TWICE, text)
        self._over.add(self._process)
        self._process = record.process

    def _check_anchors(self, record: AuditRecord) -> None:
        for anchor in self.anchors.pop(record.seq, ()):
            if anchor.hash != record.hash:
                text = f"line {record.seq} is not the one that {anchor.by} has seen: the chain was rewritten"
                self._add_problem(record.seq, REWRITTEN, text)
                return

    def _add_problem(self, seq: int, reason: str, text: str, accepted: str = "") -> None:
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(Problem(seq, reason, text, accepted))
        else:
            self.more += 1

    def _accept(self, record: AuditRecord) -> None:
        """Mark all problems so far as acknowledged."""
        acknowledgement = f"{record.principal}: {record.arguments.get('reason', '')}"
        self._accepted = (record.timestamp, acknowledgement)
        self.problems = [
            problem if problem.accepted else replace(problem, accepted=acknowledgement) for problem in self.problems
        ]
        self.more = 0


@dataclass(frozen=True)
class AuditChain:
    """The chain of one agent.

    head     its last record, None before the first
    process  the process that writes
    signer   its key; None: records are not signed
    """

    agent_id: str
    head: AuditRecord | Head | None = None
    process: str = ""
    signer: Signer | None = None

    def next(  # noqa: PLR0913 - an audit record has these fields
        self,
        now: datetime,
        *,
        principal: str,
        tool: str,
        tier: Tier,
        phase: str,
        key: str = "",
        arguments: dict[str, Any] | None = None,
        outcome: str = "",
        upid: str = "",
        approved_by: str = "",
    ) -> AuditRecord:
        """Return the record that follows the head.

        Once it is stored, it is the head of the next chain.
        """
        shown = redact(arguments or {})
        record = AuditRecord(
            seq=self.head.seq + 1 if self.head else 1,
            previous=self.head.hash if self.head else "",
            timestamp=now,
            agent_id=self.agent_id,
            principal=principal,
            tool=tool,
            tier=tier,
            phase=phase,
            key=key,
            digest=digest(shown) if shown else "",
            arguments=_limit_size(shown),
            outcome=outcome,
            upid=upid,
            approved_by=approved_by,
            process=self.process,
            signer=self.signer.public if self.signer else "",
        )
        record_hash = hash_of(record)
        signature = self.signer.sign(record_hash) if self.signer else ""
        return msgspec.structs.replace(record, hash=record_hash, signature=signature)


def hash_of(record: AuditRecord) -> str:
    """Return the SHA-256 of a record, without its hash and signature.

    It is over the canonical JSON of all other fields.
    """
    return digest(msgspec.structs.replace(record, hash="", signature=""))


def redact(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return `arguments` as JSON values, with secrets hidden.

    Hidden are values whose name looks like that of a secret, and secrets within texts.
    """
    result: dict[str, Any] = _without_secrets(msgspec.to_builtins(arguments, str_keys=True))
    return result


def _without_secrets(value: Any, name: str = "") -> Any:  # noqa: ANN401 - JSON values
    if isinstance(value, str) and not is_secret(name):
        return redacted(value)
    if name and is_secret(name) and value not in (None, ""):
        return HIDDEN
    if isinstance(value, dict):
        return {key: _without_secrets(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    return value


def _limit_size(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return `arguments` cut to the largest size; the digest covers all of them."""
    cut: dict[str, Any] = _shorten(arguments)
    size = len(encode(cut))
    if size <= MAX_ARGUMENTS:
        return cut
    return {"omitted": f"{size} bytes in {len(arguments)} arguments; the digest covers them"}


def _shorten(value: Any) -> Any:  # noqa: ANN401 - JSON values
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return f"{value[:MAX_TEXT]}… ({len(value) - MAX_TEXT} more)"
    if isinstance(value, dict):
        return {key: _shorten(item) for key, item in value.items()}
    return [_shorten(item) for item in value] if isinstance(value, list) else value
