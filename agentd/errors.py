"""Every error that agentd raises on purpose, drawn as a tree.

    AgentdError
    ├── ConfigError            the configuration is wrong; nothing was started
    │   └── UnsafeFile         a file is not read, because another user may have written it or can read it
    ├── UsageError             the command line asked for something that does not exist
    ├── InvalidMessage         a message cannot be decoded; names the field
    ├── Denied                 the policy, NATS or Proxmox permissions do not allow it
    │   └── NeedsPlan          it destroys or executes: another principal has to approve a plan
    ├── BusError               an error between this process and NATS
    │   ├── BusUnavailable     no NATS, or no answer in time (temporary)
    │   │   ├── BusFull        JetStream has no room for a message (temporary)
    │   │   ├── TooManyWaiting too many requests of this principal already wait: nothing was stored (temporary)
    │   │   ├── NoResponder    no agent on the network answers this subject (temporary)
    │   │   └── Superseded     another process has this agent's id, or may have it: only that process may act
    │   ├── StaleWrite         another client wrote this subject first: reload and decide again
    │   └── NotProvisioned     a stream, bucket or consumer is missing
    ├── GiveUp                 a message can never be handled: it becomes a dead letter
    ├── TemporaryError         retry after `delay` seconds
    │   ├── ProxmoxUnavailable Proxmox answered that it cannot do this now, or did not answer a read
    │   │   ├── NodeOffline    the node that has to answer is offline
    │   │   └── NoQuorum       the cluster refuses every change; nothing was done
    │   ├── GuestLocked        Proxmox holds a lock on the guest; nothing was done
    │   ├── Held               changes are blocked until a person ends the block; nothing was done
    │   │   ├── Frozen         the network is frozen
    │   │   └── AuditBroken    the agent's own audit chain is not as the agent wrote it
    │   └── UnknownOutcome     a write was sent and not answered: check the result before a retry
    └── PermanentError         a retry would give the same answer
        ├── Rejected           a request was refused before anything was done
        │   ├── NotOurs        an object has the mark of this call, but the call never began
        │   └── BadExpression  an expression of a workflow cannot be parsed, or its value cannot be used
        ├── NotFound           the requested object does not exist
        ├── ConfigChanged      another client changed the configuration meanwhile: read it again
        ├── VmidTaken          the VMID is used by a guest that agentd did not create
        ├── TaskFailed         a Proxmox task ended in an error
        ├── Fenced             another process holds the claim on this effect
        └── Stopped            the workflow requires this task to end now

A caller has to distinguish two kinds: temporary (wait, then retry) and permanent (do not retry).
Any exception that is not an `AgentdError` is a bug.  Each class defines its exit code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence


class AgentdError(Exception):
    """Base of all errors that an operator can act on; the text says what to do next."""

    exit_code: ClassVar[int] = 1
    code: ClassVar[str] = "error"


class ConfigError(AgentdError):
    """The configuration is wrong; the text names the key and where it was set."""

    exit_code = 78  # EX_CONFIG of sysexits.h; systemd units use RestartPreventExitStatus=78
    code = "config"


class UnsafeFile(ConfigError):
    """A file is not safe to read or write; the text names the command that fixes it.

    The text never contains the content of the file.
    """

    code = "unsafe_file"

    def __init__(self, path: object, problem: str) -> None:
        """Store the problem beside the message, which begins with `path`."""
        super().__init__(f"{path}: {problem}")
        self.problem = problem


class UsageError(AgentdError):
    """The command line names something that does not exist.

    The text lists what exists.
    """

    exit_code = 2
    code = "usage"


class InvalidMessage(AgentdError):
    """A message cannot be decoded; the text names the message and the field."""

    exit_code = 65  # EX_DATAERR
    code = "invalid"


class Denied(AgentdError):
    """A principal or an agent may not do this; the text names the missing permission."""

    exit_code = 77  # EX_NOPERM
    code = "denied"


class NeedsPlan(Denied):
    """The call needs a plan that another principal has approved."""

    code = "needs_plan"


class GiveUp(AgentdError):
    """A message can never be handled: terminate it and store it as a dead letter."""

    code = "given_up"


class TemporaryError(AgentdError):
    """Wait `delay` seconds, then retry."""

    exit_code = 75  # EX_TEMPFAIL
    code = "temporary"

    def __init__(self, message: str, *, delay: float = 1.0) -> None:
        """Store the pause, in seconds, before a retry."""
        super().__init__(message)
        self.delay = delay


class PermanentError(AgentdError):
    """A retry gives the same answer."""

    code = "failed"


class BusError(AgentdError):
    """An error between this process and NATS."""

    exit_code = 69  # EX_UNAVAILABLE
    code = "bus"


class BusUnavailable(BusError, TemporaryError):
    """NATS cannot be reached or did not answer in time."""

    code = "bus_unavailable"


class BusFull(BusUnavailable):
    """A stream, the account or the server has no room: nothing was stored.

    A retry can succeed once there is room.
    """

    code = "bus_full"


class TooManyWaiting(BusUnavailable):
    """The principal has too many waiting requests: nothing was stored."""

    exit_code = TemporaryError.exit_code
    code = "too_many_waiting"


class Superseded(BusUnavailable):
    """The lease on the agent id is not held by this process.

    Another process may act under that id.
    """

    code = "superseded"


class NoResponder(BusUnavailable):
    """No agent on the network answers this subject."""

    code = "no_responder"


class StaleWrite(BusError):
    """Another client wrote this subject first: reload, then decide again."""

    code = "stale_write"


class NotProvisioned(BusError):
    """A stream, bucket or consumer does not exist: `agentd provision` creates it."""

    code = "not_provisioned"


class ProxmoxUnavailable(TemporaryError):
    """Proxmox cannot do this now.

    For example: a node is offline, no quorum, a restart, a time-out on a read.
    """

    code = "proxmox_unavailable"


class NodeOffline(ProxmoxUnavailable):
    """The node that has to answer is offline.

    A read raises this at once, a change waits for the node.
    """

    code = "node_offline"


class NoQuorum(ProxmoxUnavailable):
    """The cluster has no quorum and refuses every change."""

    code = "no_quorum"


class Held(TemporaryError):
    """Changes are blocked now.

    Waiting tasks start again once a person has removed the reason.
    """

    code = "held"


class Frozen(Held):
    """The network is frozen: agents only read and change nothing."""

    code = "frozen"


class AuditBroken(Held):
    """The agent's own audit chain is not as the agent wrote it.

    This has not been acknowledged yet.
    """

    code = "audit_broken"


class GuestLocked(TemporaryError):
    """Proxmox holds a lock on the guest (backup, clone, migrate, …)."""

    code = "locked"


class UnknownOutcome(TemporaryError):
    """A write was sent and not answered: it may have been carried out."""

    code = "unknown_outcome"


class Rejected(PermanentError):
    """A request was refused before anything was done."""

    exit_code = 65
    code = "rejected"


class NotOurs(Rejected):
    """The object has the mark of this call, but the call never began.

    Our effect record says so.
    """

    code = "not_ours"


class BadExpression(Rejected):
    """An expression of a workflow cannot be parsed, or its value cannot be used.

    The text shows the expression.

    line  line in the template, from 1
    word  the wrong part exactly as in the template, so that its column can be found; "" if it is not known
    """

    code = "expression"

    def __init__(self, message: str, *, line: int = 1, word: str = "") -> None:
        """Store the position in the template beside the message."""
        super().__init__(message)
        self.line = line
        self.word = word


class NotFound(PermanentError):
    """The requested object does not exist."""

    code = "not_found"


class ConfigChanged(PermanentError):
    """Another client changed the configuration after it was read.

    Read it again, then decide again.
    """

    code = "config_changed"


class VmidTaken(PermanentError):
    """The VMID is used by a guest that agentd did not create."""

    code = "vmid_taken"


class TaskFailed(PermanentError):
    """A Proxmox task ended in an error; `log` holds its last lines."""

    code = "task_failed"

    def __init__(self, message: str, *, log: tuple[str, ...] = ()) -> None:
        """Store the last lines of the task's log beside the message."""
        super().__init__(message)
        self.log = log


class Fenced(PermanentError):
    """Another process holds the claim on this effect, or the task was cancelled."""

    code = "fenced"


class Stopped(PermanentError):
    """The workflow requires this task to end now."""

    code = "cancelled"


def from_code(code: str, message: str, *, retry: bool = False, log: Sequence[str] = ()) -> AgentdError:
    """Return the error that another agent reported as `code`.

    An unknown code gives a TemporaryError if `retry`, else a PermanentError.
    """
    if code == TaskFailed.code:
        return TaskFailed(message, log=tuple(log))
    if code in _BY_CODE:
        return _BY_CODE[code](message)
    return TemporaryError(message) if retry else PermanentError(message)


def _subclasses(kind: type[AgentdError]) -> list[type[AgentdError]]:
    return [kind, *(below for subclass in kind.__subclasses__() for below in _subclasses(subclass))]


_BY_CODE = {kind.code: kind for kind in _subclasses(AgentdError)}

HELD = frozenset(kind.code for kind in _subclasses(Held))
"""Codes of errors that are no failure of the task: it waits until a person has removed the reason."""
