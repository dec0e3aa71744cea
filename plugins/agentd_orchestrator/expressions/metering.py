"""The cost of expressions in steps; costly ones are evaluated off the event loop.

A step is about a microsecond of work.  One evaluation may use `MAX_STEPS`.  All evaluations of one transition of a
workflow (a thousand items, each with its parameters) run on the event loop while they take no more than `ON_THE_LOOP`
steps together.  If they take more, they are stopped and run again from the start in one thread, within `IN_ALL` steps;
this is possible because `decide` is pure.  So no workflow blocks the event loop, or the thread for other workflows.
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
"""Items and characters (in hundreds) that the filters of one expression may read."""
ON_THE_LOOP: Final = 20_000
"""Steps that may run on the event loop: some ten milliseconds."""
IN_ALL: Final = 5_000_000
"""Steps of all expressions of one transition, or of the plan of one request."""


class TooExpensive(Exception):
    """The evaluation takes too long for the event loop."""


class ExpressionRefused(Exception):
    """An expression is refused; the message says why."""


class Meter:
    """The steps left for one evaluation and for all evaluations together.

    costly  raise Costly at the limit of all together, because a thread may use more steps
    """

    __slots__ = ("_costly", "_one", "_whole")

    def __init__(self, whole: int, *, costly: bool) -> None:
        """Allow `whole` steps for all evaluations together."""
        self._one = 0
        self._whole = whole
        self._costly = costly

    def begin(self) -> None:
        """Allow the next expression its steps."""
        self._one = MAX_STEPS
        self.charge(50)

    def spend(self, steps: int) -> None:
        """Use `steps` of one evaluation."""
        self._one -= steps + 1
        if self._one < 0:
            raise ExpressionRefused(f"it works on too much: more than {MAX_STEPS} items in all")
        self.charge(steps + 1)

    def charge(self, steps: int) -> None:
        """Use `steps` of all evaluations together."""
        self._whole -= steps
        if self._whole < 0:
            if self._costly:
                raise TooExpensive
            raise ExpressionRefused(
                f"the expressions of this workflow work on too much at once: more than {IN_ALL} items in all"
            )


_meter: ContextVar[Meter] = ContextVar("what is left")


def meter() -> Meter:
    """Return the current meter; outside of an orchestrator it has no total limit."""
    current = _meter.get(None)
    if current is None:
        current = Meter(2**62, costly=False)
        _meter.set(current)
    return current


@contextmanager
def limit_loop_time() -> Iterator[None]:
    """Raise Costly if the evaluations in this block are too long for the event loop."""
    token = _meter.set(Meter(ON_THE_LOOP, costly=True))
    try:
        yield
    finally:
        _meter.reset(token)


async def evaluate_async(work: Callable[[], T]) -> T:
    """Call the pure function `work`, on the event loop if cheap, else in the thread."""
    try:
        with limit_loop_time():
            return work()
    except TooExpensive:
        return await in_thread(work)


async def in_thread(work: Callable[[], T]) -> T:
    """Call `work` in the one thread for evaluations.

    With several threads the event loop would wait for each of them.
    """

    def metered() -> T:
        _meter.set(Meter(IN_ALL, costly=False))
        return work()

    return await asyncio.get_running_loop().run_in_executor(_thread(), copy_context().run, metered)


@lru_cache(1)
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "expressions")
