"""Every error that agentd raises on purpose, drawn as a tree.

    AgentdError
    ├── ConfigError            the configuration is wrong; nothing was started
    │   └── UnsafeFile         a file is not read, because another user can have written it or can read it
    ├── UsageError             the command line asked for something that does not exist
    ├── InvalidMessage         a message cannot be understood; names the field
    ├── Denied                 policy, NATS or Proxmox permissions say no
    │   └── NeedsPlan          it destroys or executes: somebody else has to approve a plan
    ├── BusError
    │   ├── BusUnavailable     no NATS, or no answer in time (temporary)
    │   │   ├── BusFull        JetStream has no room for a message (temporary)
    │   │   ├── TooManyWaiting too many requests of this principal wait already: nothing was stored (temporary)
    │   │   └── Superseded     another process has this agent's id, or may have it: it acts, this one does not
    │   ├── StaleWrite         somebody wrote this subject first: reload and decide again
    │   ├── NoResponder        nobody on the network offers this (temporary)
    │   └── NotProvisioned     a stream, bucket or consumer is missing
    ├── GiveUp                 a message can never be handled: it becomes a dead letter
    ├── TemporaryError         try again after `delay` seconds
    │   ├── ProxmoxUnavailable Proxmox answered that it cannot now, or did not answer a read
    │   │   └── NoQuorum       the cluster refuses every change; nothing was done
    │   ├── GuestLocked        Proxmox holds a lock on the guest; nothing was done
    │   ├── Held               nothing may be changed until a person ends that; nothing was done
    │   │   ├── Frozen         the network is frozen
    │   │   └── AuditBroken    the agent's own audit chain is not as it wrote it
    │   └── UnknownOutcome     a write was sent and not answered: look before repeating
    └── PermanentError         trying again would give the same answer
        ├── Rejected           a request was refused before anything was done
        │   └── BadExpression  an expression of a workflow cannot be read, or gives nothing that can be used
        ├── NotFound           what was asked for does not exist
        ├── ConfigChanged      somebody changed the configuration meanwhile: read it again
        ├── VmidTaken          the VMID belongs to a stranger
        ├── TaskFailed         a Proxmox task ended in an error
        ├── Fenced             another process holds the claim on this effect
        └── Stopped            the workflow wants this task to end now

Two kinds matter to whoever catches: temporary (what to do next is to wait) and permanent.
Anything that is not an `AgentdError` is a bug.  The exit code is on the class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence


class AgentdError(Exception):
    """Something that an operator can act on; the text says what to do next."""

    exit_code: ClassVar[int] = 1
    code: ClassVar[str] = "error"


class ConfigError(AgentdError):
    """Say which key of the configuration is wrong, and where."""

    exit_code = 78  # EX_CONFIG of sysexits.h; systemd units use RestartPreventExitStatus=78
    code = "config"


class UnsafeFile(ConfigError):
    """Say why a file is not read or written, and by which command that is mended; never what it holds."""

    code = "unsafe_file"

    def __init__(self, path: object, problem: str) -> None:
        """Keep what is wrong with which file."""
        super().__init__(f"{path}: {problem}")
        self.problem = problem


class UsageError(AgentdError):
    """Say what the command line asked for and what there is."""

    exit_code = 2
    code = "usage"


class InvalidMessage(AgentdError):
    """Say which field of which message cannot be understood."""

    exit_code = 65  # EX_DATAERR
    code = "invalid"


class Denied(AgentdError):
    """Say who may not do what, and which right is missing."""

    exit_code = 77  # EX_NOPERM
    code = "denied"


class NeedsPlan(Denied):
    """Only a plan that somebody else has approved may do this."""

    code = "needs_plan"


class GiveUp(AgentdError):
    """A message can never be handled: end it and keep it among the dead letters."""

    code = "given_up"


class TemporaryError(AgentdError):
    """Wait `delay` seconds and try again."""

    exit_code = 75  # EX_TEMPFAIL
    code = "temporary"

    def __init__(self, message: str, *, delay: float = 1.0) -> None:
        """Keep the pause, in seconds, that whoever retries should make."""
        super().__init__(message)
        self.delay = delay


class PermanentError(AgentdError):
    """Trying again gives the same answer."""

    code = "failed"


class BusError(AgentdError):
    """Something is wrong between this process and NATS."""

    exit_code = 69  # EX_UNAVAILABLE
    code = "bus"


class BusUnavailable(BusError, TemporaryError):
    """NATS is not reachable or did not answer in time."""

    code = "bus_unavailable"


class BusFull(BusUnavailable):
    """A stream, the account or the server has no room: nothing was stored, and it can be once there is room."""

    code = "bus_full"


class TooManyWaiting(BusUnavailable):
    """As many requests of this principal wait as the server stores: this one was not stored."""

    exit_code = TemporaryError.exit_code
    code = "too_many_waiting"


class Superseded(BusUnavailable):
    """The lease on the agent id is not held by this process: another one may act under that id."""

    code = "superseded"


class NoResponder(BusUnavailable):
    """Nobody on the network answers this subject."""

    code = "no_responder"


class StaleWrite(BusError):
    """Somebody else wrote this subject first: reload, then decide again."""

    code = "stale_write"


class NotProvisioned(BusError):
    """A stream, bucket or consumer does not exist: `agentd provision` makes it."""

    code = "not_provisioned"


class ProxmoxUnavailable(TemporaryError):
    """Proxmox cannot now: a node is away, no quorum, a restart, a time-out on a read."""

    code = "proxmox_unavailable"


class NodeOffline(ProxmoxUnavailable):
    """The node that would have to answer is offline: a read ends with this at once, a change waits for the node."""

    code = "node_offline"


class NoQuorum(ProxmoxUnavailable):
    """The cluster has no quorum and refuses every change."""

    code = "no_quorum"


class Held(TemporaryError):
    """Nothing may be changed now; what waits is begun again once a person has ended the reason."""

    code = "held"


class Frozen(Held):
    """The network is frozen: agents read, and change nothing."""

    code = "frozen"


class AuditBroken(Held):
    """The agent's own audit chain is not as the agent wrote it, and nobody has acknowledged that yet."""

    code = "audit_broken"


class GuestLocked(TemporaryError):
    """Proxmox holds a lock on the guest (backup, clone, migrate, …)."""

    code = "locked"


class UnknownOutcome(TemporaryError):
    """A write was sent and no answer came: it may have happened."""

    code = "unknown_outcome"


class Rejected(PermanentError):
    """A request was refused before anything was done."""

    exit_code = 65
    code = "rejected"


class NotOurs(Rejected):
    """What was found has the mark of this call, and our effect record says that the call never began."""

    code = "not_ours"


class BadExpression(Rejected):
    """An expression of a workflow cannot be read, or gives nothing that can be used; the text shows it.

    line  in the template, from 1
    word  what is wrong, as it stands there, so that its column can be found; "" if that is not known
    """

    code = "expression"

    def __init__(self, message: str, *, line: int = 1, word: str = "") -> None:
        """Keep where in the template it is."""
        super().__init__(message)
        self.line = line
        self.word = word


class NotFound(PermanentError):
    """What was asked for does not exist."""

    code = "not_found"


class ConfigChanged(PermanentError):
    """Somebody changed the configuration since it was read: read it again, then decide again."""

    code = "config_changed"


class VmidTaken(PermanentError):
    """The VMID belongs to a guest that is not ours."""

    code = "vmid_taken"


class TaskFailed(PermanentError):
    """A Proxmox task ended in an error; `log` holds its last lines."""

    code = "task_failed"

    def __init__(self, message: str, *, log: tuple[str, ...] = ()) -> None:
        """Keep the last lines of the task's log beside the message."""
        super().__init__(message)
        self.log = log


class Fenced(PermanentError):
    """Another process holds the claim on this effect, or the task was cancelled."""

    code = "fenced"


class Stopped(PermanentError):
    """The workflow wants this task to end now."""

    code = "cancelled"


def from_code(code: str, message: str, *, retry: bool = False, log: Sequence[str] = ()) -> AgentdError:
    """Return the error that another agent reported by `code`; an unknown one is temporary or permanent."""
    if code == TaskFailed.code:
        return TaskFailed(message, log=tuple(log))
    if code in _BY_CODE:
        return _BY_CODE[code](message)
    return TemporaryError(message) if retry else PermanentError(message)


def _subclasses(kind: type[AgentdError]) -> list[type[AgentdError]]:
    return [kind, *(below for each in kind.__subclasses__() for below in _subclasses(each))]


_BY_CODE = {each.code: each for each in _subclasses(AgentdError)}

HELD = frozenset(each.code for each in _subclasses(Held))
"""Codes of errors that say nothing of a task: it waits until a person has ended the reason."""
