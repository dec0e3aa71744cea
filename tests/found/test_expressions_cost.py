"""No expression walks more than it may, whatever a requester puts into its parameters."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from agentd.errors import BadExpression
from agentd_orchestrator import expressions
from agentd_orchestrator.filters import FILTERS, TESTS

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
        expressions.evaluate(f"{{{{ {expression} }}}}", {"parameters": LARGE})
    except BadExpression:
        pass
    finally:
        sys.setprofile(None)
    return count


def test_searching_in_a_large_list() -> None:
    """`reject('in', list)` is refused when it would compare each item with each."""
    with pytest.raises(BadExpression, match="works on too much"):
        expressions.evaluate("{{ parameters.numbers | reject('in', parameters.texts) }}", {"parameters": LARGE})


def test_what_is_meant_still_works() -> None:
    """Lists of the size that clusters have are worked on."""
    guests = [{"vmid": number, "tags": ["a"]} for number in range(500)]
    names = {"parameters": {"guests": guests, "exclude": list(range(100))}}
    kept = expressions.evaluate(
        "{{ parameters.guests | map(attribute='vmid') | reject('in', parameters.exclude) }}", names
    )

    assert kept == list(range(100, 500))
    assert expressions.evaluate("{{ 1 < 2 <= 2 != 3 and 'a' not in parameters.exclude }}", names) is True
    assert expressions.evaluate("{{ parameters.exclude[2:8:3] }}", names) == [2, 5]
    assert expressions.evaluate("{{ 'abcdef'[:-2] }}", names) == "abcd"


@pytest.mark.parametrize("large", ["numbers", "text", "map", "nested"])
@pytest.mark.parametrize("name", sorted(FILTERS))
def test_every_filter(name: str, large: str) -> None:
    """Each filter, with each kind of large input, once and for each item, does a bounded amount of work."""
    arguments = ["", "(parameters.text)"]
    for given in arguments:
        assert work(f"parameters.{large} | {name}{given}") < MOST_CALLS
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


async def test_the_loop_lives(blockbuster: object) -> None:
    """The beats of the loop come while the expression of a reader is evaluated again and again."""
    del blockbuster
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0)
            beats += 1

    beating = asyncio.create_task(beat())
    for _ in range(20):
        with pytest.raises(BadExpression):
            expressions.evaluate("{{ parameters.numbers | reject('in', parameters.texts) }}", {"parameters": LARGE})
        await asyncio.sleep(0)
    beating.cancel()

    assert beats >= 19
