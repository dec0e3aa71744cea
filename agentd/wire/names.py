"""The form of names that clients choose: ids, keys, tasks, queues, inboxes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from agentd.errors import InvalidMessage

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_ID: Final = 64
"""Largest length of an id, in characters."""
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_CHILD: Final = re.compile(r".*--|.{47}-[0-9a-f]{16}\Z", re.DOTALL)
"""Form of the id of a workflow that a task starts: `<workflow>--<task>`, or cut to MAX_ID with a digest."""
_TASK: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}\Z")
_INBOX: Final = re.compile(r"_INBOX\.[!-)+-=?-~]+\Z")
"""Printable ASCII without blanks, `*` and `>`."""
MAX_INBOX: Final = 512
"""Largest length, in characters, of a reply subject."""
_QUEUE: Final = re.compile(r"[A-Za-z0-9_-]{1,64}(@[A-Za-z0-9_-]{1,64})?(\+[A-Za-z0-9_-]{1,64})?\Z")


def check_id(value: str, field: str = "workflow_id") -> str:
    """Return `value` if it is valid as one token of a subject.

    Otherwise raise InvalidMessage, which names `field`.
    """
    if not _ID.match(value):
        raise InvalidMessage(f"{field}: {value!r} is not an id; use 1 to 64 of A-Z a-z 0-9 _ and -")
    return value


def check_own_id(value: str) -> str:
    """Return `value` if a principal may use it as the id of its workflow.

    Otherwise raise InvalidMessage.

    Orchestrators make the ids of workflows that tasks start.  If a principal used such an id first, its workflow would
    replace the one that the task starts, and the task would wait in vain.
    """
    if _CHILD.match(check_id(value)):
        raise InvalidMessage(
            f"workflow_id: {value!r} is an id of workflows that tasks start; use one without `--`, and shorter than "
            f"{MAX_ID} characters"
        )
    return value


def is_inbox(subject: str, principal: str = "", others: Iterable[str] = ()) -> bool:
    """Return whether an answer may be published to `subject`.

    `subject` is a reply subject, which the requester chose.

    Only an inbox (`_INBOX.…`) is accepted.  Otherwise a principal that may only send requests could make a daemon write
    its answer where the principal may not write: into the events of a workflow or the audit of an agent.  With
    `principal`, the requester, the named inbox (`_INBOX.<name>.…`) of one of `others`, the known principals, is refused
    too.
    """
    if len(subject) > MAX_INBOX or ".." in subject or subject.endswith(".") or not _INBOX.match(subject):
        return False
    owner = subject.split(".")[1]
    return not principal or owner == principal or owner not in others


def check_call_key(value: str) -> str:
    """Return `value` if it is valid as the key of a call.

    The form is `<word>.<word>[.<word>]`; otherwise raise InvalidMessage.
    """
    tokens = value.split(".")
    if len(tokens) not in {2, 3}:
        raise InvalidMessage(f"key: {value!r} is not <word>.<word> or <word>.<word>.<word>")
    for token in tokens:
        check_id(token, "key")
    return value


def check_step_key(value: str, principal: str) -> str:
    """Return `value` if it is valid as the key of a step, else raise InvalidMessage.

    A step inside a task has the key `<workflow>.<task>.<step>`, a step inside a call of `principal` the key
    `<principal>=<word>.<word>.<step>`.  Only two words would be the key of a task itself.
    """
    owner, equals, rest = value.rpartition("=")
    tokens = rest.split(".")
    if len(tokens) != 3 or (equals and owner != principal):  # noqa: PLR2004 - workflow, task, step
        raise InvalidMessage(
            f"key: {value!r} is not <workflow>.<task>.<step> of what {principal or 'no principal'} requested"
        )
    for token in tokens:
        check_id(token, "key")
    return value


def check_task(value: str) -> str:
    """Return `value` if it is valid as the name of a task, else raise InvalidMessage."""
    if not _TASK.match(value):
        raise InvalidMessage(f"task: {value!r} is not a task name; use a letter, then up to 63 of A-Z a-z 0-9 _ and -")
    return value


def check_queue(value: str) -> str:
    """Return `value` if it is valid as the name of a queue.

    The form is `service`, `service@node` or `…+class`; otherwise raise InvalidMessage.
    """
    if not _QUEUE.match(value):
        raise InvalidMessage(f"queue: {value!r} is not <service>[@<node>][+<class>]")
    return value
