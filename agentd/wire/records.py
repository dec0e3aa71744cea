"""The records in streams: external changes, audit chains, dead letters."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from agentd.wire.messages import Inverse, TaskError, Tier, Zoned


class EffectRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The record of one external change of an agent: planned, in progress or done.

    `epoch` is the fencing number.

    stop   the agent that works on it has to end it
    undo   the call that restores the state before the act; stored before the act
    acted  the acts that were ever started under this key, each as `<tool> <target>`; stored before the act, and kept
           when an attempt fails and when the record is taken over: a mark in Proxmox counts only with this
    """

    key: str
    tool: str
    epoch: int
    owner: str
    phase: str
    claimed_at: datetime
    attempt: int = 1
    digest: str = ""
    acting: bool = False
    stop: bool = False
    upid: str = ""
    result: Any = None
    error: TaskError | None = None
    warnings: list[str] = []
    undo: Inverse | None = None
    acted: list[str] = []


class AuditRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of an agent's audit chain, written before or after an act.

    It says who requested the act, and who approved it.

    process    the process of the agent that wrote it; once its successor has written, that process never writes again
    signer     the agent's public key
    signature  the agent's signature of `hash`
    """

    seq: int
    previous: str
    timestamp: datetime
    agent_id: str
    principal: str
    tool: str
    tier: Tier
    phase: str
    key: str = ""
    digest: str = ""
    arguments: dict[str, Any] = {}
    outcome: str = ""
    upid: str = ""
    approved_by: str = ""
    process: str = ""
    signer: str = ""
    hash: str = ""
    signature: str = ""


class AuditKey(msgspec.Struct, frozen=True):
    """The public key that signs the lines of an audit chain from line `first` on."""

    public: str
    first: int


class AuditKeys(msgspec.Struct, frozen=True):
    """The pinned keys of one agent's audit chain, the oldest first."""

    agent_id: str
    keys: list[AuditKey]


class AuditExport(msgspec.Struct, frozen=True, omit_defaults=True):
    """The head of an audit export.

    It has, by agent, the keys and last lines that the exported lines are checked against.

    since    the export holds only lines of this time or later
    max_age  seconds after which lines expire in the stream, 0 for never
    """

    exported: Zoned
    keys: dict[str, AuditKeys]
    heads: dict[str, AuditRecord] = {}
    max_age: float = 0.0
    since: Zoned | None = None


class AuditAcceptance(msgspec.Struct, frozen=True):
    """The acknowledgement of an alarm about an agent's own audit chain."""

    reason: str


class DeadLetter(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a given-up message was stored, and why and by which agent it was given up.

    The body of the stored dead letter is the message itself.

    stored     when the message was stored in `stream`, as number `sequence`
    headers    the headers of the message; as real headers in AI_DEAD they would act on AI_DEAD
    cut        the message, its headers or its reason are not complete: they did not fit, or held secrets
    replay_of  the dead letter that the message was replayed from, 0 for none
    """

    stream: str
    sequence: int
    subject: str
    reason: str
    agent_id: str
    stored: datetime
    delivered: int = 1
    size: int = 0
    headers: dict[str, str] = {}
    cut: bool = False
    replay_of: int = 0


class DeadMark(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was done with a dead letter: replaying, replayed or closed.

    `sequence` is the sequence of the replayed message in its stream.
    """

    action: str
    principal: str
    timestamp: Zoned
    sequence: int = 0
