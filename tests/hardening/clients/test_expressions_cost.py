"""No expression exceeds its limit, for any parameters of a request."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agentd.errors import BadExpression
from agentd.wire import subjects
from agentd.wire.messages import TaskAssignment
from agentd.wire.workflow import template
from agentd_orchestrator.expressions import evaluate
from agentd_orchestrator.expressions.filters import FILTERS, TESTS
from agentd_orchestrator.expressions.metering import evaluate_async, in_thread
from fake_agent import begin, engine, task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentd.bus.jetstream import Bus
    from harness import Net

LARGE: dict[str, Any] = {
    "numbers": list(range(20_000)),
    "texts": [f"vm-{number:06d}" for number in range(12_000)],
    "text": "ab" * 60_000,
    "maps": [{"name": "x" * 20, "id": number} for number in range(3000)],
    "map": {f"k{number}": number for number in range(8000)},
    "nested": [[number] * 30 for number in range(1000)],
    "alike": ["x" * 1000 + str(number) for number in range(110)],
    "one": "no such",
}
GAP = 0.3
"""Seconds of CPU time for which the event loop may be kept from its other work."""
MOST_CALLS = 2_000_000
"""Calls of functions that one evaluation may make: twenty for each step that it is granted."""


def work(expression: str) -> int:
    """Evaluate; return how many functions were called, which does not depend on the speed of the machine."""
    count = 0

    def note(_frame: object, event: str, _arg: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(note)
    try:
        evaluate.evaluate(f"{{{{ {expression} }}}}", {"parameters": LARGE})
    except BadExpression:
        pass
    finally:
        sys.setprofile(None)
    return count


def test_searching_in_a_large_list() -> None:
    """`reject('in', list)` is refused when it would compare each item with each."""
    with pytest.raises(BadExpression, match="works on too much"):
        evaluate.evaluate("{{ parameters.numbers | reject('in', parameters.texts) }}", {"parameters": LARGE})


def test_lists_of_usual_size_work() -> None:
    """Lists of the size that clusters have are worked on."""
    guests = [{"vmid": number, "tags": ["a"]} for number in range(500)]
    names = {"parameters": {"guests": guests, "exclude": list(range(100))}}
    kept = evaluate.evaluate(
        "{{ parameters.guests | map(attribute='vmid') | reject('in', parameters.exclude) }}", names
    )

    assert kept == list(range(100, 500))
    assert evaluate.evaluate("{{ 1 < 2 <= 2 != 3 and 'a' not in parameters.exclude }}", names) is True
    assert evaluate.evaluate("{{ parameters.exclude[2:8:3] }}", names) == [2, 5]
    assert evaluate.evaluate("{{ 'abcdef'[:-2] }}", names) == "abcd"


@pytest.mark.parametrize("large", ["numbers", "text", "map", "nested"])
@pytest.mark.parametrize("name", sorted(FILTERS))
def test_every_filter(name: str, large: str) -> None:
    """Each filter, with each kind of large input, once and for each item, does a bounded amount of work."""
    arguments = ["", "(parameters.text)"]
    for argument in arguments:
        assert work(f"parameters.{large} | {name}{argument}") < MOST_CALLS
        assert work(f"[parameters.{large}, parameters.{large}] | map('{name}') | list") < MOST_CALLS


@pytest.mark.parametrize("large", ["numbers", "text", "alike"])
@pytest.mark.parametrize("name", sorted(TESTS))
def test_every_test(name: str, large: str) -> None:
    """Each test, for each item of a list, against each kind of large value, does a bounded amount of work."""
    for over in ("numbers", "alike"):
        assert work(f"parameters.{over} | select('{name}', parameters.{large})") < MOST_CALLS
        assert work(f"parameters.maps | rejectattr('name', '{name}', parameters.{large})") < MOST_CALLS


@pytest.mark.parametrize("operator", ["==", "!=", "<", "<=", ">", ">=", "in", "not in", "+", "*", "~", "%"])
def test_every_operator(operator: str) -> None:
    """Fifty uses of an operator on large values are refused, or do a bounded amount of work."""
    for large in LARGE:
        pair = f"(parameters.{large} {operator} parameters.{large})"
        assert work(" and ".join([pair] * 50)) < MOST_CALLS


# -- the event loop meanwhile ------------------------------------------------------------------------------------------


async def longest_gap(work: Callable[[], Any]) -> float:
    """Return the longest gap of the loop while `work` is evaluated as an orchestrator does it."""

    async def doing() -> None:
        with contextlib.suppress(BadExpression):
            await evaluate_async(work)

    return await longest_gap_of(doing)


async def longest_gap_of(doing: Callable[[], Awaitable[None]]) -> float:
    """Return the most CPU time, of all threads, between two beats of the loop while something is done.

    CPU time does not depend on what else runs on the machine; what a thread does without letting the loop in counts.
    """
    gaps: list[float] = []

    async def beat() -> None:
        last = time.process_time()
        while True:
            await asyncio.sleep(0)
            gaps.append(time.process_time() - last)
            last = time.process_time()
            await asyncio.sleep(0.001)
            gaps.append(time.process_time() - last)
            last = time.process_time()

    beating = asyncio.create_task(beat())
    await asyncio.sleep(0.01)
    await doing()
    await asyncio.sleep(0.01)
    beating.cancel()
    return max(gaps)


ATOMS = st.sampled_from([*(f"parameters.{name}" for name in LARGE), "'a'", "'|'", "7", "0", "[]", "['a', 1]"])


def _larger(part: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Return what can be made of expressions: each operator, filter and test, with each other as its argument."""
    filters, tests = st.sampled_from(sorted(FILTERS)), st.sampled_from(sorted(TESTS))
    operators = ["==", "!=", "<", "<=", ">", ">=", "in", "not in", "+", "-", "*", "/", "//", "%", "~", "and", "or"]
    return st.one_of(
        st.builds("({0} | {1})".format, part, filters),
        st.builds("({0} | {1}({2}))".format, part, filters, part),
        st.builds("({0} | map('{1}'))".format, part, filters),
        st.builds("({0} | map('{1}', {2}))".format, part, filters, part),
        st.builds("({0} | {3}('{1}', {2}))".format, part, tests, part, st.sampled_from(["select", "reject"])),
        st.builds("({0} | {3}('name', '{1}', {2}))".format, part, tests, part, st.just("selectattr")),
        st.builds("({0} is {1}({2}))".format, part, st.sampled_from(["eq", "in", "contains", "lt"]), part),
        st.builds("({0} {1} {2})".format, part, st.sampled_from(operators), part),
        st.builds("({0} if {1} else {2})".format, part, part, part),
        st.builds("({0}[::{1}])".format, part, st.sampled_from(["-1", "1", "2"])),
        st.builds("({0}[{1}])".format, part, part),
        st.builds("({0} | replace('a', {1}) | split('b') | join({1}))".format, part, part),
        st.builds("({0} | tojson | from_json | {1})".format, part, filters),
        st.lists(part, min_size=2, max_size=12).map(lambda parts: f"[{', '.join(parts)}]"),
        st.builds(lambda one, count: " ~ ".join([one] * count), part, st.integers(2, 40)),
    )


EXPRESSIONS = st.recursive(ATOMS, _larger, max_leaves=12).filter(lambda text: len(text) < 3500)


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(EXPRESSIONS, st.booleans())
def test_the_cost_of_any_expression_is_bounded(expression: str, condition: bool) -> None:  # noqa: FBT001 - as hypothesis calls it
    """No expression, and no condition, keeps the event loop for a tenth of a second; its work is bounded."""
    evaluate.evaluate("{{ 1 }}", {})  # jinja2 is loaded
    names = {"parameters": LARGE}
    if condition:
        gap = asyncio.run(longest_gap(partial(evaluate.is_true, expression, names)))
    else:
        gap = asyncio.run(longest_gap(partial(evaluate.evaluate, f"{{{{ {expression} }}}}", names)))

    assert gap < GAP, expression


COSTLY = "{{ (parameters.numbers | select('in', [1, 2]) | length) + index }}"
"""Some sixty thousand steps with SEVERAL."""
SEVERAL = {"numbers": list(range(8000))}


async def test_many_together(blockbuster: object) -> None:
    """A thousand costly evaluations of one transition are done in a thread, and bounded together."""
    del blockbuster
    done = 0

    def work() -> None:
        nonlocal done
        for index in range(1000):
            evaluate.evaluate(COSTLY, {"parameters": SEVERAL, "index": index})
            done += 1

    gap = await longest_gap(work)
    with pytest.raises(BadExpression, match="the expressions of this workflow work on too much at once"):
        await evaluate_async(work)

    assert gap < GAP
    assert 4 <= done < 200


async def test_little_is_done_at_once() -> None:
    """What costs little does not wait for what is done in the thread."""
    heavy = asyncio.create_task(in_thread(partial(time.sleep, 0.5)))
    await asyncio.sleep(0)
    where = await evaluate_async(threading.current_thread)
    evaluate.evaluate("{{ 1 }}", {})
    found = await evaluate_async(partial(evaluate.evaluate, "{{ [3, 1] | sort | first }}", {}))

    assert (where, found, heavy.done()) == (threading.main_thread(), 1, False)
    await heavy


async def test_a_workflow_of_costly_items(quiet_net: Net, bus: Bus) -> None:
    """An orchestrator decides over items with costly parameters, and the loop lives; each item gets its value."""
    del quiet_net
    plan = [
        task(
            "a",
            for_each=list(range(25)),
            max_parallel=25,
            parameters={"n": template(COSTLY)},
        )
    ]
    request = begin(*plan, parameters=SEVERAL)
    begun = replace(request, parameters=request.request.parameters)
    made = engine(bus)
    evaluate.evaluate("{{ 1 }}", {})

    async def feed() -> None:
        await made.feed("w1", begun)

    gap = await longest_gap_of(feed)
    assigned = await bus.last_many(subjects.WORKFLOWS, "ai.tasks.assign.*.w1.*.*")
    values = sorted(stored.decode(TaskAssignment).parameters["n"] for stored in assigned)

    assert values == [2 + index for index in range(25)]
    assert gap < GAP
