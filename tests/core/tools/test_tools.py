"""Tools are collected from typed methods; one that does not validate is left out alone, with its reason."""

from __future__ import annotations

import msgspec
import pytest

from agentd.errors import InvalidMessage
from agentd.tools.declaration import by_name, collect, tool
from agentd.tools.definition import BrokenTool, Call, Repeat, Tool
from agentd.tools.schemas import object_schema
from agentd.wire.messages import Tier


class Disk(msgspec.Struct):
    """One disk."""

    size: int


class Make(msgspec.Struct):
    """What to make."""

    name: str
    disks: list[Disk] = []
    node: str | None = None


class Made(msgspec.Struct):
    """What was made."""

    vmid: int


READ = {"tier": Tier.READ, "repeat": Repeat.IDEMPOTENT, "capability": "test"}


class Guests:
    """Two tools and a method that is none."""

    @tool(tier=Tier.OPERATE, repeat=Repeat.MARKED, capability="vm_management")
    async def make(self, call: Call, p: Make) -> Made:
        """Make a guest.

        It is started.
        """
        del call
        return Made(len(p.name))

    @tool(**READ)  # type: ignore[arg-type]
    async def look(self, call: Call, p: Make) -> Made:
        """Check a guest."""
        del call
        return Made(len(p.disks))

    async def helper(self) -> None:
        """Help."""


class Broken:
    """Every way to write a tool wrongly, beside one that is right."""

    @tool(**READ)  # type: ignore[arg-type]
    async def undocumented(self, call: Call, p: Make) -> Made:  # noqa: D102
        raise NotImplementedError

    @tool(**READ)  # type: ignore[arg-type, type-var]
    def blocking(self, call: Call, p: Make) -> Made:
        """Block."""
        raise NotImplementedError

    @tool(**READ)  # type: ignore[arg-type]
    async def untyped(self, call, p):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        """Say nothing of types."""

    @tool(**READ)  # type: ignore[arg-type]
    async def returns_a_list(self, call: Call, p: Make) -> list[Made]:
        """Return what is not an object in JSON."""
        raise NotImplementedError

    @tool(**READ)  # type: ignore[arg-type]
    async def takes_a_number(self, call: Call, p: int) -> Made:
        """Take what is not an object in JSON."""
        raise NotImplementedError

    @tool(**READ)  # type: ignore[arg-type]
    async def Loud(self, call: Call, p: Make) -> Made:  # noqa: N802
        """Have a name that no client would call."""
        raise NotImplementedError

    @tool(**READ)  # type: ignore[arg-type]
    async def unknown_type(self, call: Call, p: Nowhere) -> Made:  # type: ignore[name-defined]  # noqa: F821
        """Name a type that does not exist."""
        raise NotImplementedError

    @tool(**READ)  # type: ignore[arg-type]
    async def right(self, call: Call, p: Make) -> Made:
        """Be right."""
        raise NotImplementedError


def _tools(owner: object) -> dict[str, Tool]:
    return by_name(item for item in collect(owner, service="s") if isinstance(item, Tool))


def test_collect() -> None:
    """A marked method is a tool with all of its attributes; others are not."""
    found = _tools(Guests())

    assert set(found) == {"make", "look"}
    make = found["make"]
    assert (make.service, make.tier, make.repeat, make.capability) == (
        "s",
        Tier.OPERATE,
        Repeat.MARKED,
        "vm_management",
    )
    assert make.description == "Make a guest.\n\nIt is started."
    assert (make.parameters, make.result) == (Make, Made)


async def test_a_tool_is_bound() -> None:
    """What was collected can be run with a call and its parameters."""
    assert await _tools(Guests())["make"].run(None, Make("web1")) == Made(4)  # type: ignore[arg-type]


def test_a_number_where_a_text_is_wanted() -> None:
    """`name=22` of a command line, and the number that a model sends, are the text 22; nothing else is turned round."""
    make = _tools(Guests())["make"]

    assert make.parse({"name": 22, "node": 7}) == Make("22", node="7")
    for wrong in ({"name": True}, {"name": 2.5}, {"name": None}, {"name": "x", "disks": 3}):
        with pytest.raises(InvalidMessage, match=r"make\.(name|disks): expected"):
            make.parse(wrong)


def test_quarantine() -> None:
    """Each tool that is wrong is left out with a reason for its author; the right one beside them stays."""
    found = collect(Broken(), service="s")
    reasons = {item.name: item.reason for item in found if isinstance(item, BrokenTool)}

    assert [item.name for item in found if isinstance(item, Tool)] == ["right"]
    assert "docstring" in reasons["undocumented"]
    assert "async" in reasons["blocking"]
    assert "takes (call, p: Parameters)" in reasons["untyped"]
    assert "not an object" in reasons["returns_a_list"]
    assert "not an object" in reasons["takes_a_number"]
    assert "not a tool name" in reasons["Loud"]
    assert "Nowhere" in reasons["unknown_type"]
    assert len(reasons) == 7


def test_schemas_have_an_object_at_the_root() -> None:
    """The schema of parameters and result is an object at its root, not a reference: MCP demands it."""
    make = _tools(Guests())["make"]
    schema = make.input_schema()

    assert schema["type"] == "object"
    assert schema["required"] == ["name"]
    assert schema["properties"]["disks"]["items"] == {"$ref": "#/$defs/Disk"}
    assert schema["$defs"]["Disk"]["properties"] == {"size": {"type": "integer"}}
    assert make.output_schema()["properties"] == {"vmid": {"type": "integer"}}
    with pytest.raises(TypeError, match="not an object"):
        object_schema(int)


def test_parameters_are_checked() -> None:
    """Wrong parameters are refused, naming tool and field; an unknown one names those that there are."""
    make = _tools(Guests())["make"]

    assert make.parse({"name": "a", "disks": [{"size": 8}]}) == Make("a", [Disk(8)])
    with pytest.raises(InvalidMessage, match=r"make.*unknown parameter 'nmae'; did you mean name\?"):
        make.parse({"name": "a", "nmae": "b"})
    with pytest.raises(InvalidMessage, match=r"make.*disks.*size|make.*size.*disks"):
        make.parse({"name": "a", "disks": [{"size": "8"}]})
    with pytest.raises(InvalidMessage, match=r"make.*name"):
        make.parse({})
    with pytest.raises(InvalidMessage, match="make"):
        make.parse(["a"])


def test_two_tools_of_one_name() -> None:
    """Two tools of one name are an error that names both services."""
    twice = [*collect(Guests(), service="one"), *collect(Guests(), service="two")]

    with pytest.raises(ValueError, match=r"'look': of one and of two"):
        by_name(item for item in twice if isinstance(item, Tool))
