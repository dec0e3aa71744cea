"""The shape that simple tools share: find, compare, declare target and undo, write, read back.

A tool of this shape says what it finds and what it sends; `change` and `delete` do the rest.  Tools whose handling of
a lost answer differs (create, clone, snapshot, restore, migrate, prune, rules of a firewall) call `Call.ensure`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from agentd import Call, Found, TaskFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


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


async def change(
    call: Call, plan: Callable[[], Awaitable[T | None]], send: Callable[[T], Awaitable[object]]
) -> T | None:
    """Make a change exactly once; return its plan, None if there was nothing to do.

    plan  returns what is to be changed, None if all is as requested.  It also refuses the change, or declares its
          target and undo
    send  sends the plan to Proxmox
    """
    planned: list[T] = []

    async def check() -> Found | None:
        found = await plan()
        if found is None:
            return Found()
        planned[:] = [found]
        return None

    async def apply() -> None:
        await send(planned[0])

    await call.ensure(check, apply)
    return planned[0] if planned else None


async def create(
    call: Call,
    item: Item[T],
    send: Callable[[], Awaitable[object]],
    undo: tuple[str, dict[str, Any]],
    same: Callable[[T], None] = lambda _: None,
) -> T:
    """Create an object exactly once and read it back.

    undo  the tool that deletes it, and its parameters
    same  raises Rejected if the object that exists is not the requested one
    """

    async def plan() -> bool | None:
        found = await item.find()
        if found is None:
            call.inverse(*undo)
            return True
        same(found)
        return None

    await change(call, plan, lambda _: send())
    made = await item.find()
    if made is None:
        raise TaskFailed(
            f"Proxmox reports success, but there is no {item.title}: another client deleted it, or it was not created"
        )
    return made


async def delete(
    call: Call, item: Item[T], declare: Callable[[T], Awaitable[None]], send: Callable[[T], Awaitable[object]]
) -> Deleted:
    """Delete an object exactly once, and read back that it is gone.

    declare  refuses the deletion of the object, or declares its target and undo
    """

    async def plan() -> T | None:
        found = await item.find()
        if found is not None:
            await declare(found)
        return found

    was = await change(call, plan, send)
    if await item.find() is not None:
        raise TaskFailed(
            f"Proxmox reports success, but {item.title} is still there: it was not deleted, or created again"
        )
    return deleted(item.name, was)


def deleted(name: str, was: object | None) -> Deleted:
    """Return the result of a deletion.

    was  the object as it was, None if it did not exist.  Only a Struct is reported: an entry of the API may have what
         is not to be shown
    """
    return Deleted(name, was is not None, msgspec.to_builtins(was) if isinstance(was, msgspec.Struct) else None)
