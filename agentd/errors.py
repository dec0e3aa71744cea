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

from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Sequence


class AgentdError(Exception):
    """Base of all errors that an operator can act on; the text says what to do next.

    Docstring, causes and advice of each class are what `agentd explain CODE` prints.
    """

    exit_code: ClassVar[int] = 1
    code: ClassVar[str] = "error"
    causes: ClassVar[str] = "An error without a more specific code."
    advice: ClassVar[str] = "Read the text of the error; it names the object and the reason."


class ConfigError(AgentdError):
    """The configuration is wrong; the text names the key and where it was set."""

    exit_code = 78  # EX_CONFIG of sysexits.h; systemd units use RestartPreventExitStatus=78
    code = "config"
    causes = "A misspelt setting, a value of the wrong type, or a file that is not TOML."
    advice = "Correct the named setting in the named file. Exit code 78 prevents systemd from restarting the daemon."


class UnsafeFile(ConfigError):
    """A file is not safe to read or write; the text names the command that fixes it."""

    code = "unsafe_file"
    causes = "Other users can write the file or read the secret in it, or it is a symbolic link."
    advice = "Run the command that the error names (chmod or chown)."

    def __init__(self, path: object, problem: str) -> None:
        """Store the problem beside the message, which begins with `path`."""
        super().__init__(f"{path}: {problem}")
        self.problem = problem


class UsageError(AgentdError):
    """The command line names something that does not exist; the text lists what exists."""

    exit_code = 2
    code = "usage"
    causes = "A misspelt name, a missing argument, or an object that has been deleted or has expired."
    advice = "Use a name that the error suggests, or list what exists: `agentd tools`, `agentd workflows`."


class InvalidMessage(AgentdError):
    """A message cannot be decoded; the text names the message and the field."""

    exit_code = 65  # EX_DATAERR
    code = "invalid"
    causes = "A parameter with the wrong name or type, a message of another version, or a message that is not agentd's."
    advice = "Correct the named field. `agentd tools NAME` shows the parameters of a tool."


class Denied(AgentdError):
    """A principal or an agent may not do this; the text names the missing permission."""

    exit_code = 77  # EX_NOPERM
    code = "denied"
    causes = "The tier of the principal is too low, the object is protected, or a requester approved its own request."
    advice = "Ask an administrator for the permission in [policy], or let another principal do it."


class NeedsPlan(Denied):
    """The call needs a plan that another principal has approved."""

    code = "needs_plan"
    causes = "A call of tier destroy or exec was sent without an approval."
    advice = "Use `agentd call`, which makes a plan, then let a second principal run `agentd approve`."


class GiveUp(AgentdError):
    """A message can never be handled: terminate it and store it as a dead letter."""

    code = "given_up"
    causes = "A message was delivered too often, or its content can never be handled."
    advice = "Read the dead letter and its reason, correct the cause, then send it again or discard it."


class TemporaryError(AgentdError):
    """Wait `delay` seconds, then retry."""

    exit_code = 75  # EX_TEMPFAIL
    code = "temporary"
    causes = "Something is busy, restarting or not reachable at this moment."
    advice = "Wait: tasks of workflows are retried by themselves. Repeat a call with the same --key."

    def __init__(self, message: str, *, delay: float = 1.0) -> None:
        """Store the pause, in seconds, before a retry."""
        super().__init__(message)
        self.delay = delay


class PermanentError(AgentdError):
    """A retry gives the same answer."""

    code = "failed"
    causes = "The request cannot succeed in the present state of the cluster."
    advice = "Correct what the error names, then `agentd retry ID`."


class BusError(AgentdError):
    """An error between this process and NATS."""

    exit_code = 69  # EX_UNAVAILABLE
    code = "bus"
    causes = "NATS refused the request: permissions, a missing stream, or an internal error."
    advice = "Run `agentd doctor`; it names each missing permission."


class BusUnavailable(BusError, TemporaryError):
    """NATS cannot be reached or did not answer in time."""

    code = "bus_unavailable"
    causes = "nats-server is stopped, restarting or unreachable, or the address or credentials in [bus] are wrong."
    advice = "Start nats-server, check [bus] servers, and run `agentd doctor`."


class BusFull(BusUnavailable):
    """A stream, the account or the server has no room: nothing was stored."""

    code = "bus_full"
    causes = "The storage limit of a stream, of the account or of the disk is reached."
    advice = "Free space on the disk of NATS, or raise the limit of the stream; then repeat the request."


class TooManyWaiting(BusUnavailable):
    """The principal has too many waiting requests: nothing was stored."""

    exit_code = TemporaryError.exit_code
    code = "too_many_waiting"
    causes = "The principal has submitted more requests than orchestrators have accepted."
    advice = "Wait until some are accepted; check with `agentd agents` that an orchestrator is running."


class Superseded(BusUnavailable):
    """The lease on the agent id is held by another process, which may act under it."""

    code = "superseded"
    causes = "A second process was started with the same agent id, or the lease expired during a long pause."
    advice = "Run only one process for each agent id; stop the other one."


class NoResponder(BusUnavailable):
    """No agent on the network answers this subject."""

    code = "no_responder"
    causes = "No agent that could answer is running, or it has just stopped."
    advice = "Check with `agentd agents`; start the daemon of that role."


class StaleWrite(BusError):
    """Another client wrote this subject first: reload, then decide again."""

    code = "stale_write"
    causes = "Two clients wrote the same record at the same time."
    advice = "Repeat the command; it reads the new state first."


class NotProvisioned(BusError):
    """A stream, bucket or consumer does not exist: `agentd provision` creates it."""

    code = "not_provisioned"
    causes = "NATS is new, or a stream, bucket or consumer was deleted."
    advice = "Run `agentd provision` with the credentials of [bus.admin]."


class ProxmoxUnavailable(TemporaryError):
    """Proxmox cannot do this now: a node is offline, no quorum, a restart, a time-out."""

    code = "proxmox_unavailable"
    causes = "A node is offline or restarting, the cluster has no quorum, or a read timed out."
    advice = "Check the cluster in Proxmox; tasks of workflows are retried by themselves."


class NodeOffline(ProxmoxUnavailable):
    """The node that has to answer is offline: a read fails at once, a change waits."""

    code = "node_offline"
    causes = "The node is switched off, restarting, or separated from the cluster."
    advice = "Start the node. A change waits for it until its deadline."


class NoQuorum(ProxmoxUnavailable):
    """The cluster has no quorum and refuses every change."""

    code = "no_quorum"
    causes = "Too many nodes are offline, or the cluster network is interrupted."
    advice = "Restore the quorum (`pvecm status` shows the votes); changes then go on by themselves."


class Held(TemporaryError):
    """Changes are blocked now; waiting tasks start once a person has removed the reason."""

    code = "held"
    causes = "Changes are stopped on purpose, or until a person has checked a problem."
    advice = "Remove the reason that the error names; waiting tasks then go on by themselves."


class Frozen(Held):
    """The network is frozen: agents only read and change nothing."""

    code = "frozen"
    causes = "A principal has run `agentd freeze`, or an automatic freeze took place."
    advice = "Find out why (`agentd agents` shows the reason), then `agentd thaw`."


class AuditBroken(Held):
    """The agent's own audit chain is not as the agent wrote it; it was not accepted yet."""

    code = "audit_broken"
    causes = "A line of the chain was altered or removed, or the agent's state was restored from a backup."
    advice = "Run `agentd audit verify`; if the reason is known, `agentd audit accept AGENT --reason TEXT`."


class GuestLocked(TemporaryError):
    """Proxmox holds a lock on the guest (backup, clone, migrate, …)."""

    code = "locked"
    causes = "A backup, clone, migration or snapshot of the guest is running, or was interrupted."
    advice = "Wait for the running task. If none is running, remove the lock in Proxmox (`qm unlock VMID`)."


class UnknownOutcome(TemporaryError):
    """A write was sent and not answered: it may have been carried out."""

    code = "unknown_outcome"
    causes = "The connection broke, or the process was killed, after the request was sent."
    advice = "Nothing for most tools: agentd checks the state before it repeats. Else check Proxmox, then decide."


class Rejected(PermanentError):
    """A request was refused before anything was done."""

    exit_code = 65
    code = "rejected"
    causes = "An unknown workflow type, a wrong parameter, a limit of the policy, or an id that is used already."
    advice = "Correct what the error names and submit the request again, with a new id."


class NotOurs(Rejected):
    """The object has the mark of this call, but by our effect record the call never began."""

    code = "not_ours"
    causes = "The guest was restored or copied from one with the mark, or the mark was written by hand."
    advice = "Check the object in Proxmox; rename or delete it, or remove the mark from its description."


class BadExpression(Rejected):
    """An expression of a workflow cannot be parsed, or its value cannot be used.

    The text shows the expression.

    line  line in the template, from 1
    word  the wrong part exactly as in the template, so that its column can be found; "" if it is not known
    """

    code = "expression"
    causes = "A misspelt name, filter or quote between {{ and }} in a workflow file."
    advice = "Correct the expression; a check of the workflow file shows line and column."

    def __init__(self, message: str, *, line: int = 1, word: str = "") -> None:
        """Store the position in the template beside the message."""
        super().__init__(message)
        self.line = line
        self.word = word


class NotFound(PermanentError):
    """The requested object does not exist."""

    code = "not_found"
    causes = "The object was deleted, its name is misspelt, or the token may not see it."
    advice = "List what exists (`agentd call list_guests`), and check the permissions with `agentd doctor`."


class ConfigChanged(PermanentError):
    """Another client changed the configuration after it was read: read it again."""

    code = "config_changed"
    causes = "A person or another tool has changed the object between the read and the write."
    advice = "Read the object again and repeat the call with its new digest."


class VmidTaken(PermanentError):
    """The VMID is used by a guest that agentd did not create."""

    code = "vmid_taken"
    causes = "The VMID was chosen by hand, or another tool took it first."
    advice = "Use another VMID, or leave it out where it is optional."


class TaskFailed(PermanentError):
    """A Proxmox task ended in an error; `log` holds its last lines."""

    code = "task_failed"
    causes = "Proxmox began the task and could not complete it: storage full, invalid image, missing device."
    advice = "Read the log in the error (`agentd show ID`), correct the cause, then `agentd retry ID`."

    def __init__(self, message: str, *, log: tuple[str, ...] = ()) -> None:
        """Store the last lines of the task's log beside the message."""
        super().__init__(message)
        self.log = log


class Fenced(PermanentError):
    """Another process holds the claim on this effect, or the task was cancelled."""

    code = "fenced"
    causes = "The task was given to another agent because this one did not report in time, or it was cancelled."
    advice = "Nothing: the other process carries it on. If it happens often, check the load and the clock of the node."


class Stopped(PermanentError):
    """The workflow requires this task to end now."""

    code = "cancelled"
    causes = "A principal cancelled the workflow, or another of its tasks failed."
    advice = "Nothing, if that was intended; `agentd retry ID` continues the workflow."


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


_BY_CODE: Final = {kind.code: kind for kind in _subclasses(AgentdError)}
ALL: Final = tuple(dict.fromkeys(_subclasses(AgentdError)))
"""Every class of error, each base before its subclasses."""

HELD: Final = frozenset(kind.code for kind in _subclasses(Held))
"""Codes of errors that are no failure of the task: it waits until a person has removed the reason."""
