"""The shape that simple tools share: find, compare, declare target and undo, write, read back.

A tool describes its change in one function, its plan, that does everything but write.  Because the plan returns what
sends the change, nothing is written that was not compared and declared first.  When an answer is lost, the plan is
called again, and finds what was done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from agentd import ConfigChanged, Found, TaskFailed

if TYPE_CHECKING:
    from agentd import Call

T = TypeVar("T")
Send = Callable[[], Awaitable[object]]
"""Sends a change to Proxmox, and returns its answer: the UPID of the task, if it is one."""
Planned = Found | Send
"""What a plan returns: Found if there is nothing to do, or with the task that does it already."""

Plan = Callable[[], Awaitable[Planned]]


class Deleted(msgspec.Struct, frozen=True):
    """What was deleted.

    existed  false: it did not exist before the call
    before   its last state; null if it did not exist, or if the tool does not report it
    """

    name: str
    existed: bool
    before: dict[str, Any] | None = None


@dataclass(frozen=True)
class Item(Generic[T]):
    """The object that a tool creates or deletes.

    kind  as messages call it
    find  returns the object, None if it does not exist
    """

    kind: str
    name: str
    find: Callable[[], Awaitable[T | None]]

    @property
    def title(self) -> str:
        """Return kind and name."""
        return f"{self.kind} {self.name}"


async def change(call: Call, plan: Plan) -> Found:
    """Make a change exactly once.

    plan  compares the state with the request.  It refuses the change, or declares its target and undo and returns what
          sends it; it returns Found if there is nothing to send
    """
    planned: list[Send] = []

    async def check() -> Found | None:
        found = await plan()
        if isinstance(found, Found):
            return found
        planned[:] = [found]
        return None

    async def apply() -> str | None:
        answer = await planned[0]()
        return answer if isinstance(answer, str) and answer.startswith("UPID:") else None

    return await call.ensure(check, apply)


async def create(
    call: Call,
    item: Item[T],
    send: Send,
    undo: tuple[str, dict[str, Any]],
    same: Callable[[T], None] = lambda _: None,
) -> T:
    """Create an object exactly once and read it back.

    undo  the tool that deletes it, and its parameters
    same  raises Rejected if the object that exists is not the requested one
    """

    async def plan() -> Planned:
        found = await item.find()
        if found is None:
            call.inverse(*undo)
            return send
        same(found)
        return Found()

    await change(call, plan)
    made = await item.find()
    if made is None:
        raise TaskFailed(
            f"Proxmox reports success, but there is no {item.title}: another client deleted it, or it was not created"
        )
    return made


async def delete(call: Call, item: Item[T], plan: Callable[[T], Awaitable[Send]]) -> Deleted:
    """Delete an object exactly once, and read back that it is gone.

    plan  refuses the deletion of the object, or declares its target and undo and returns what deletes it
    """
    was: list[T] = []

    async def whole() -> Planned:
        found = await item.find()
        if found is None:
            return Found()
        was[:] = [found]
        return await plan(found)

    await change(call, whole)
    if await item.find() is not None:
        raise TaskFailed(
            f"Proxmox reports success, but {item.title} is still there: it was not deleted, or created again"
        )
    return deleted(item.name, was[0] if was else None)


def check_unchanged(title: str, expected: str, now: str) -> None:
    """Raise ConfigChanged if an object changed since the caller read it.

    Call it only if there is something to change: if the object is already as wanted, our own change, whose answer was
    lost, may have changed the digest.

    expected  the digest that the caller read; "" accepts any
    """
    if expected and expected != now:
        raise ConfigChanged(f"{title} was changed since it was read: read it again, then decide again")


def deleted(name: str, was: object | None) -> Deleted:
    """Return the result of a deletion.

    was  the object as it was, None if it did not exist.  Only a Struct is reported: an entry of the API may have what
         is not to be shown
    """
    return Deleted(name, was is not None, msgspec.to_builtins(was) if isinstance(was, msgspec.Struct) else None)
