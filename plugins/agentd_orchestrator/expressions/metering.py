"""What expressions cost, counted in steps, and where they are evaluated: off the event loop when that is much.

A step is about a microsecond of work.  One evaluation has `MAX_STEPS`.  What one transition of a workflow evaluates in
all (a thousand items, each with its parameters) is done at once while it takes no more than `ON_THE_LOOP` steps.  What
takes more is stopped there and done again from the start in one thread, which is possible because deciding is pure,
within `IN_ALL` steps: so no workflow keeps the event loop from its other work, or the thread from other workflows.
jinja2 is not imported here: an orchestrator without declared workflows does not load it.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

MAX_STEPS: Final = 100_000
"""Items and characters (by the hundred) that the filters of one expression may look at."""
ON_THE_LOOP: Final = 20_000
"""Steps that are done on the event loop: some ten milliseconds."""
IN_ALL: Final = 5_000_000
"""Steps of all expressions that one transition, or the plan of one request, evaluates."""


class Costly(Exception):
    """More is evaluated than the event loop may be kept for."""


class Refused(Exception):
    """What an expression asks for is not given; the text says why."""


class Meter:
    """What is left: of one evaluation, and of all that are done together; `costly` says that a thread has more."""

    __slots__ = ("_costly", "_one", "_whole")

    def __init__(self, whole: int, *, costly: bool) -> None:
        """Grant `whole` steps."""
        self._one = 0
        self._whole = whole
        self._costly = costly

    def begin(self) -> None:
        """Grant one expression its steps."""
        self._one = MAX_STEPS
        self.charge(50)

    def spend(self, steps: int) -> None:
        """Take `steps` of one evaluation."""
        self._one -= steps + 1
        if self._one < 0:
            raise Refused(f"it works on too much: more than {MAX_STEPS} items in all")
        self.charge(steps + 1)

    def charge(self, steps: int) -> None:
        """Take `steps` of what all evaluations together have."""
        self._whole -= steps
        if self._whole < 0:
            if self._costly:
                raise Costly
            raise Refused(f"the expressions of this workflow work on too much at once: more than {IN_ALL} items in all")


_meter: ContextVar[Meter] = ContextVar("what is left")


def meter() -> Meter:
    """Return what counts here; outside of an orchestrator nothing bounds all evaluations together."""
    found = _meter.get(None)
    if found is None:
        found = Meter(2**62, costly=False)
        _meter.set(found)
    return found


@contextmanager
def on_the_loop() -> Iterator[None]:
    """Count together what is evaluated on the event loop in this block; what is too much raises Costly."""
    token = _meter.set(Meter(ON_THE_LOOP, costly=True))
    try:
        yield
    finally:
        _meter.reset(token)


async def evaluated(work: Callable[[], T]) -> T:
    """Return what `work`, which is pure, returns: done at once if it evaluates little, else in the thread."""
    try:
        with on_the_loop():
            return work()
    except Costly:
        return await in_thread(work)


async def in_thread(work: Callable[[], T]) -> T:
    """Return what `work` returns, done in the one thread for it: with several, the event loop would wait for each."""

    def metered() -> T:
        _meter.set(Meter(IN_ALL, costly=False))
        return work()

    return await asyncio.get_running_loop().run_in_executor(_thread(), copy_context().run, metered)


@lru_cache(1)
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "expressions")
