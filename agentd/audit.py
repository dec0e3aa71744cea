"""What was done, by whom: one hash chain per agent; pure, the ledger publishes it.

Each record holds the hash of the one before it, so that a record cannot be changed, left out or moved without the
next one telling.  What a chain cannot tell by itself is that its end was cut off, or that it was written anew
from some point on: AI_AUDIT denies deletion and purge, and only the agent may publish its own subject.

Secrets never get into a record, not even hashed: the digest is over the arguments without them, because the hash
of a short password can be guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd.messages import AuditRecord, Tier, digest, encode
from agentd.sections import is_secret

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

HIDDEN: Final = "***"
MAX_TEXT: Final = 256
"""Characters of one argument that are kept; the rest is counted, and covered by the digest."""
MAX_ARGUMENTS: Final = 4096
"""Bytes of all arguments of one record; a record must never be too large to be written."""

ALTERED: Final = "altered"
MISSING: Final = "missing"
REORDERED: Final = "reordered"
FOREIGN: Final = "foreign agent"


@dataclass(frozen=True)
class Problem:
    """The first line of a chain that is not as it was written: its place, one of four reasons, and a sentence."""

    seq: int
    reason: str
    text: str


@dataclass(frozen=True)
class AuditChain:
    """The chain of one agent; `head` is its last record, None before the first."""

    agent_id: str
    head: AuditRecord | None = None

    def next(  # noqa: PLR0913 - one line of the audit has these columns
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
        """Return the record that follows the head; once it is stored, it is the head of the next chain."""
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
            arguments=_capped(shown),
            outcome=outcome,
            upid=upid,
            approved_by=approved_by,
        )
        return msgspec.structs.replace(record, hash=hash_of(record))


def hash_of(record: AuditRecord) -> str:
    """Return the SHA-256 over the canonical JSON of every field but the hash itself."""
    return digest(msgspec.structs.replace(record, hash=""))


def redact(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return `arguments` as JSON has them, with the value of whatever is named like a secret hidden."""
    shown: dict[str, Any] = _without_secrets(msgspec.to_builtins(arguments, str_keys=True))
    return shown


def verify(records: Iterable[AuditRecord], *, trimmed: bool = False) -> Problem | None:
    """Return the first line of a chain that is not as it was written, None if all are.

    `records` come as they are stored.  `trimmed` accepts that old ones have expired: then the first line that is
    there is believed.
    """
    lines = iter(records)
    last: AuditRecord | None = None
    for record in lines:
        place = last.seq + 1 if last else (record.seq if trimmed else 1)
        problem = _judge(record, last, place, lines)
        if problem is not None:
            return problem
        last = record
    return None


def _judge(record: AuditRecord, last: AuditRecord | None, place: int, rest: Iterator[AuditRecord]) -> Problem | None:
    """Return what is wrong with the `record` that stands at `place`, after `last` and before `rest`."""
    reason, text = "", ""
    if record.hash != hash_of(record):
        reason, text = ALTERED, f"line {place} was altered: its hash does not fit what it says"
    elif last is not None and record.agent_id != last.agent_id:
        reason, text = FOREIGN, f"line {place} is of {record.agent_id}, the chain is of {last.agent_id}"
    elif record.seq > place and not any(each.seq == place for each in rest):
        reason, text = MISSING, f"line {place} is missing: {record.seq} stands in its place"
    elif record.seq != place:
        reason, text = REORDERED, f"line {record.seq} stands where {place} should be"
    elif last is not None and record.previous != last.hash:
        reason, text = ALTERED, f"line {place} does not continue line {last.seq}: one of them was altered"
    elif place == 1 and record.previous:
        reason, text = ALTERED, "line 1 names a line before it"
    return Problem(place, reason, text) if reason else None


def _without_secrets(value: Any, name: str = "") -> Any:  # noqa: ANN401 - JSON values
    if name and is_secret(name) and value not in (None, ""):
        return HIDDEN
    if isinstance(value, dict):
        return {key: _without_secrets(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_secrets(each) for each in value]
    return value


def _capped(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return `arguments` cut to what a record may hold; the digest still covers all of them."""
    cut: dict[str, Any] = _cut(arguments)
    size = len(encode(cut))
    if size <= MAX_ARGUMENTS:
        return cut
    return {"omitted": f"{size} bytes in {len(arguments)} arguments; the digest covers them"}


def _cut(value: Any) -> Any:  # noqa: ANN401 - JSON values
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return f"{value[:MAX_TEXT]}… ({len(value) - MAX_TEXT} more)"
    if isinstance(value, dict):
        return {key: _cut(each) for key, each in value.items()}
    return [_cut(each) for each in value] if isinstance(value, list) else value
