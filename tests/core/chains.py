"""Judges a chain of audit lines that a test holds in a list."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentd.safety.audit_chain import ChainCheck
from agentd.wire.records import AuditKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentd.safety.audit_chain import Problem
    from agentd.wire.records import AuditRecord


def verify(records: Sequence[AuditRecord], *, trimmed: bool = False) -> Problem | None:
    """Return the first line that is not as it was written, None if all are; the key is that of the first line."""
    keys = [AuditKey(item.signer, item.seq) for item in records[:1] if item.signature]
    check = ChainCheck(records[0].agent_id if records else "", keys, trimmed=trimmed)
    for record in records:
        check.add(record)
    check.finish()
    return check.problems[0] if check.problems else None
