"""Interprets responses of Proxmox VE: errors, UPIDs and the end of tasks.

Pure, so that it can be tested with responses recorded from the real API.  The source is proxmox.md, Envelope: a 500 is
neither temporary nor permanent by itself, its text decides, and there is practically no 404 or 409.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from agentd import similar
from agentd.errors import (
    AgentdError,
    ConfigChanged,
    Denied,
    GuestLocked,
    NodeOffline,
    NoQuorum,
    NotFound,
    PermanentError,
    ProxmoxUnavailable,
    Rejected,
    TaskFailed,
    TemporaryError,
    UnknownOutcome,
    VmidTaken,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

NAMED: Final = 20
"""Most names that an error lists."""
_NAMED_PATHS: Final = (
    ("pool", "/pool/([^/;\\s]+)", "/pools", "poolid"),
    ("storage", "/storage/([^/;\\s]+)", "/storage", "storage"),
    ("node", "/nodes/([^/;\\s]+)", "/nodes", "node"),
    ("realm", "/access/realm/([^/;\\s]+)", "/access/domains", "realm"),
    ("group", "/access/groups/([^/;\\s]+)", "/access/groups", "groupid"),
)
"""Kinds of objects that a privilege is held on.

Each has the pattern of its path, the list that names all of them, and the key in that list.
"""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_FORBIDDEN: Final = re.compile(r"Permission check failed \((?P<path>/[^,]*), (?P<privileges>[^)]+)\)")
_LOCKED: Final = re.compile(r"(?:VM|CT) is locked \((?P<lock>[^)]+)\)")
_HELD: Final = re.compile(r"can't lock file '(?P<file>[^']*)'|cfs-lock '(?P<name>[^']*)'")
_TAKEN: Final = re.compile(r"(?:VM|CT) \d+ already exists|unable to create (?:VM|CT) \d+.*already exists")
_ABSENT: Final = re.compile(r"does not exist|no such (?!file)|No such (?!file)|hostname lookup '|not found")
# A file of the cluster file system that cannot be written also means no quorum (proxmox.md, Envelope).
_NO_QUORUM: Final = re.compile(r"no quorum|unable to open file '/etc/pve/.*Permission denied")
_PASSING: Final = re.compile(r"got timeout|got no worker upid|RPCEnvironment init request failed|unable to fork worker")
# The smallest built-in role that has a privilege, a read-only role if that suffices.  Privileges that only
# Administrator has are in agentd's own roles.  A test compares both with the recorded roles and the tools' needs.
_ROLES: Final = (
    ("PVEAuditor", "Datastore.Audit Mapping.Audit Pool.Audit SDN.Audit Sys.Audit VM.Audit VM.GuestAgent.Audit"),
    ("PVETemplateUser", "VM.Clone"),
    (
        "PVEVMUser",
        (
            "VM.Backup VM.Config.CDROM VM.Config.Cloudinit VM.Console VM.GuestAgent.FileRead"
            " VM.GuestAgent.FileSystemMgmt VM.GuestAgent.FileWrite VM.PowerMgmt"
        ),
    ),
    (
        "PVEVMAdmin",
        (
            "VM.Allocate VM.Config.CPU VM.Config.Disk VM.Config.HWType VM.Config.Memory VM.Config.Network"
            " VM.Config.Options VM.GuestAgent.Unrestricted VM.Migrate VM.Monitor VM.Replicate VM.Snapshot"
            " VM.Snapshot.Rollback"
        ),
    ),
    ("PVEDatastoreUser", "Datastore.AllocateSpace"),
    ("PVEDatastoreAdmin", "Datastore.Allocate Datastore.AllocateTemplate"),
    ("PVESDNUser", "SDN.Use"),
    ("PVESDNAdmin", "SDN.Allocate"),
    ("PVEPoolAdmin", "Pool.Allocate"),
    ("PVEMappingUser", "Mapping.Use"),
    ("PVEMappingAdmin", "Mapping.Modify"),
    ("PVESysAdmin", "Sys.Console Sys.Syslog"),
    ("PVEUserAdmin", "Group.Allocate Realm.AllocateUser User.Modify"),
    ("AgentdOperate", "Sys.AccessNetwork Sys.Modify"),
    ("AgentdDestroy", "Permissions.Modify Realm.Allocate Sys.PowerMgmt"),
)
_OWN: Final = "Agentd"
LAST_RESORT: Final = "AgentdExec"


def one_line(text: object) -> str:
    """Return `text` as one line without control characters.

    It may come from a guest or a log.
    """
    return _CONTROL.sub(" ", str(text)).strip()


def known_names(wrong: str, known: Iterable[str]) -> str:
    """Return a sentence with the names that exist, those similar to `wrong` first."""
    names = sorted(set(known))
    close = similar.nearest(wrong, names)
    names.sort(key=lambda name: (close.index(name) if name in close else len(close), name))
    shown = [*names[:NAMED], *([f"and {len(names) - NAMED} more"] if len(names) > NAMED else [])]
    return f"there are {', '.join(shown)}" if names else "there are none"


def unreachable_reason(node: str, entries: list[dict[str, Any]]) -> AgentdError | None:
    """Return the reason why a call to `node` had no response, from the list of nodes.

    The node is offline, or there is no such node.
    """
    states = {str(entry.get("node")): entry.get("status") for entry in entries}
    if states and node not in states:
        return NotFound(f"there is no node {node!r}; {known_names(node, states)}")
    if states.get(node) == "offline":
        return NodeOffline(f"the node {node} is offline, so it cannot be queried", delay=3.0)
    return None


def object_of_path(text: str) -> tuple[str, str, str, str] | None:
    """Return the object that the path in a denial names.

    These are its kind, the list that would contain it, the key in that list, and its name.
    """
    missing = re.search(r"\((pool|storage|realm|group) '([^']+)' does not exist\)", text)
    for kind, pattern, source, key in _NAMED_PATHS:
        if missing is not None and missing[1] == kind:
            return kind, source, key, missing[2]
        if (match := re.search(rf"lacks [^;]* on {pattern}(?:[;\s/]|$)", text)) is not None:
            return kind, source, key, match[1]
    return None


def not_found_error(source: tuple[str, str, str, str], entries: list[dict[str, Any]], text: str) -> AgentdError | None:
    """Return NotFound if the object in a denied path does not exist, else None.

    Proxmox answers 403 for a missing object too, whatever the privileges.  A list leaves out what the token may not
    see, so the error mentions both.
    """
    kind, _, key, name = source
    names = {str(entry.get(key)) for entry in entries}
    if name in names:
        return None
    reason = text.partition("; to grant it")[0]  # a privilege on a missing object does not help
    return NotFound(
        f"there is no {kind} {name!r} that this token may see; {known_names(name, names)} (Proxmox: {reason})"
    )


def role_for(privilege: str) -> str:
    """Return the smallest role that has `privilege`.

    It is a built-in role, else one that `agentd doctor --roles` creates.
    """
    return next((role for role, privileges in _ROLES if privilege in privileges.split()), LAST_RESORT)


def create_role_hint(role: str) -> str:
    """Return a hint how a role of agentd is created; "" for a built-in role."""
    return f"; the role {role} is made by the commands of agentd doctor --roles" if role.startswith(_OWN) else ""


def classify(  # noqa: PLR0913 - a response has this many parts
    method: str,
    status: int,
    reason: str,
    errors: dict[str, str] | None = None,
    body: object = None,
    *,
    path: str = "",
    token: str = "",
) -> AgentdError:
    """Return the error for a response of Proxmox that is not a success; pure."""
    text = one_line(body["message"] if isinstance(body, dict) and body.get("message") else reason) or f"HTTP {status}"
    where = f"{method} {path}".strip()
    if status == HTTPStatus.UNAUTHORIZED:
        return Denied(
            f"Proxmox does not accept the token {token or 'of this daemon'} ({text}): check its id and secret"
        )
    if status == HTTPStatus.FORBIDDEN:
        return _forbidden(where, text, token)
    if status == HTTPStatus.BAD_REQUEST or errors or text.startswith("400 "):
        return _rejected(where, text, errors or {})
    if status == HTTPStatus.NOT_IMPLEMENTED:
        return PermanentError(f"{where}: Proxmox does not offer this ({text})")
    return _by_status(method, status, f"{where}: {text}") or _by_text(f"{where}: {text}", text)


def _by_status(method: str, status: int, line: str) -> AgentdError | None:
    if status in {595, 503, 429}:  # 595: the node's API was not reached, so nothing was sent to it
        return ProxmoxUnavailable(f"{line}: the node or its API is not reachable ({status})", delay=3.0)
    if status in {502, 504, 596, 597, 598, 599}:  # the request or the response was lost
        if method == "GET":
            return ProxmoxUnavailable(f"{line} ({status})", delay=2.0)
        return UnknownOutcome(f"{line} ({status}): it may have happened", delay=2.0)
    return None


def _by_text(line: str, text: str) -> AgentdError:
    if (refusal := _refused(line, text)) is not None:
        return refusal
    kinds: tuple[tuple[re.Pattern[str], type[AgentdError]], ...] = (
        (_TAKEN, VmidTaken),
        (re.compile("checksum mismatch|detected modified configuration"), ConfigChanged),
        (_PASSING, ProxmoxUnavailable),
        (_ABSENT, NotFound),
    )
    return next((kind for pattern, kind in kinds if pattern.search(text)), PermanentError)(line)


def _refused(line: str, text: str) -> TemporaryError | None:
    """Return the error for a temporary refusal after which nothing was done, or None.

    Both the response to a call and the exit status of a task can contain it.
    """
    if _NO_QUORUM.search(text):
        return NoQuorum(f"{line}: the cluster has no quorum", delay=5.0)
    if (match := _LOCKED.search(text)) is not None:
        return GuestLocked(f"{line}: Proxmox holds the lock '{match['lock']}' on the guest", delay=5.0)
    if (match := _HELD.search(text)) is not None:
        return GuestLocked(f"{line}: another process holds the lock {match['file'] or match['name']}", delay=2.0)
    return None


def grant(path: str, privilege: str, token: str) -> str:
    """Return the command that gives `token` a privilege on a path."""
    role = role_for(privilege)
    return (
        f"pveum acl modify {path} --tokens '{token}' --roles {role} "
        f"(a token with privilege separation has no more than its user: grant it to both{create_role_hint(role)})"
    )


def _forbidden(where: str, text: str, token: str) -> Denied:
    match = _FORBIDDEN.search(text)
    if match is None:
        return Denied(f"{where}: Proxmox denies it to {token or 'this token'}: {text}")
    privileges = match["privileges"].split("|")
    lacking = f"lacks {' or '.join(privileges)} on {match['path']}"
    return Denied(
        f"{where}: {token or 'this token'} {lacking}; to grant it: {grant(match['path'], privileges[0], token)}"
    )


def _rejected(where: str, text: str, errors: dict[str, str]) -> AgentdError:
    named = "; ".join(f"{name}: {one_line(fault)}" for name, fault in sorted(errors.items()))
    line = f"{where}: Proxmox refuses {named or text}"
    if _TAKEN.search(errors.get("vmid", "") or errors.get("newid", "")):
        return VmidTaken(line)
    if "no such task" in named or "No such storage" in named:
        return NotFound(line)
    return Rejected(line)


_UPID: Final = re.compile(
    r"UPID:(?P<node>[A-Za-z0-9-]+):[0-9A-Fa-f]{8}:[0-9A-Fa-f]{8,9}:(?P<start>[0-9A-Fa-f]{8})"
    r":(?P<type>[^:\s]+):(?P<id>[^:\s]*):(?P<user>[^:\s]+):\Z"
)


@dataclass(frozen=True)
class Upid:
    """The parts of a UPID.

    `user` includes the token's name; `id` is often a VMID and may be empty.
    """

    text: str
    node: str
    start: int
    type: str
    id: str
    user: str

    @classmethod
    def parse(cls, text: str) -> Upid:
        """Return the parts of `text`; raises Rejected if it is not a UPID."""
        match = _UPID.match(text)
        if match is None:
            raise Rejected(f"{one_line(text)!r} is not a UPID")
        return cls(text, match["node"], int(match["start"], 16), match["type"], match["id"], match["user"])


@dataclass(frozen=True)
class TaskStatus:
    """The status of a task as its node reports it; `exit` is empty while it runs."""

    upid: str
    running: bool
    exit: str = ""

    @property
    def warnings(self) -> int:
        """The number of warnings of a task that succeeded with warnings, else 0."""
        kind, _, count = self.exit.partition(": ")
        return int(count) if kind == "WARNINGS" and count.isdigit() else 0

    @property
    def succeeded(self) -> bool:
        """Whether the task has ended and did its work."""
        return not self.running and (self.exit == "OK" or self.exit.startswith("WARNINGS"))


def task_status(upid: str, data: dict[str, Any]) -> TaskStatus:
    """Return the status in `data`, the response of /tasks/{upid}/status."""
    running = data.get("status") != "stopped"
    return TaskStatus(upid, running, "" if running else one_line(data.get("exitstatus") or "unexpected status"))


def failure(status: TaskStatus, log: list[str]) -> AgentdError:
    """Return the error for a failed task.

    A lock or a missing quorum is temporary, everything else is final.  GuestLocked and NoQuorum mean that the task has
    ended and did nothing: its UPID is to be forgotten.
    """
    upid = Upid.parse(status.upid)
    line = f"task {upid.type} {upid.id or '(no id)'} on {upid.node} failed: {status.exit}"
    return _refused(line, status.exit) or TaskFailed(f"{line} ({upid.text})", log=tuple(log))
