"""Weak clients: a whole number written as a float is an integer, null is not given; nothing else is guessed."""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec
import pytest

from agentd.errors import InvalidMessage
from agentd.tools.declaration import collect, tool
from agentd.tools.definition import Call, Repeat, Tool
from agentd.wire.messages import Tier


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part."""

    size: int = 1
    note: str = ""


class Parameters(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Every kind of parameter."""

    vmid: int | None = None
    name: str = ""
    ratio: float = 1.0
    on: bool = False
    ids: list[int] = []
    part: Part = Part()
    parts: list[Part] = []
    by_name: dict[str, int] = {}
    level: Literal[1, 2] = 1
    free: dict[str, Any] = {}
    needed: str


class Made(msgspec.Struct):
    """Nothing."""


class Owner:
    """One tool."""

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="test")
    async def look(self, call: Call, p: Parameters) -> Made:
        """Check."""
        del call, p
        return Made()


@pytest.fixture
def look() -> Tool:
    """Return the tool."""
    (found,) = collect(Owner(), service="test")
    assert isinstance(found, Tool)
    return found


@pytest.mark.parametrize(
    ("sent", "field", "value"),
    [
        ('{"vmid": 100.0}', "vmid", 100),
        ('{"vmid": 1e3}', "vmid", 1000),
        ('{"vmid": -0.0}', "vmid", 0),
        ('{"vmid": 100, "name": null}', "name", ""),
        ('{"vmid": null, "name": "web-01"}', "vmid", None),
        ('{"on": null}', "on", False),
        ('{"ids": [1.0, 2]}', "ids", [1, 2]),
        ('{"ids": null}', "ids", []),
        ('{"part": {"size": 3.0, "note": null}}', "part", Part(3, "")),
        ('{"part": null}', "part", Part()),
        ('{"parts": [{"size": 2.0}, {"note": null}]}', "parts", [Part(2), Part()]),
        ('{"by_name": {"a": 7.0, "b": null}}', "by_name", {"a": 7}),
        ('{"level": 2.0}', "level", 2),
        ('{"ratio": 2.0}', "ratio", 2.0),
        ('{"ratio": 2}', "ratio", 2.0),
        ('{"free": {"a": null, "b": 2.0}}', "free", {"a": None, "b": 2.0}),
    ],
)
def test_integral_floats_and_null_are_accepted(look: Tool, sent: str, field: str, value: object) -> None:
    """Integral floats are integers where integers are wanted, and null is not given, at every depth."""
    parsed = look.parse({"needed": "x", **json.loads(sent)})

    assert getattr(parsed, field) == value
    assert type(getattr(parsed, field)) is type(value)


@pytest.mark.parametrize(
    "sent",
    [
        '{"vmid": 100.5}',
        '{"vmid": 1e400}',
        '{"vmid": NaN}',
        '{"ratio": Infinity}',
        '{"ratio": -1e400}',
        '{"free": {"a": [NaN]}}',
        '{"on": 1.0}',
        '{"on": 0.0}',
        '{"on": 1}',
        '{"name": 1.5}',
        '{"ids": [1.5]}',
        '{"ids": [null]}',
        '{"part": {"size": 1.5}}',
        '{"level": 3.0}',
        '{"needed": null}',
    ],
)
def test_other_types_are_refused(look: Tool, sent: str) -> None:
    """Fractions, numbers that are none, floats for booleans and a missing parameter are errors."""
    with pytest.raises(InvalidMessage, match="look"):
        look.parse({"needed": "x", **json.loads(sent)})
