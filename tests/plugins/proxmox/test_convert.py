"""Entries of the Proxmox API are read with its omissions and its kinds of numbers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agentd import errors
from agentd_proxmox.model import convert


class Line(msgspec.Struct, frozen=True):
    """An entry."""

    name: str
    size: int
    on: bool = True
    load: float = 0.0
    kind: str = "plain"
    tags: list[str] = []


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({}, Line("", 0)),
        ({"name": None, "maxsize": None, "on": None, "kind": ""}, Line("", 0)),
        ({"name": "a\nb\x1b[31m", "maxsize": "5", "on": "0", "load": "0.5"}, Line("a b [31m", 5, on=False, load=0.5)),
        ({"name": 7, "maxsize": 5.0, "on": 1, "load": 2, "other": 1}, Line("7", 5, load=2.0)),
    ],
)
def test_values(entry: dict[str, Any], expected: Line) -> None:
    """What is missing or null has its default, a text is one line, a number may be a text."""
    assert convert.entry(Line, entry, {"size": "maxsize"}) == expected


def test_given() -> None:
    """What is given is not read from the entry."""
    assert convert.entry(Line, {"name": "a", "size": "x"}, size=3, tags=["t"]) == Line("a", 3, tags=["t"])


@pytest.mark.parametrize("entry", [{"maxsize": "many"}, {"maxsize": [1]}, {"on": "yes"}, {"load": {}}])
def test_malformed(entry: dict[str, Any]) -> None:
    """A number that is none is an error that names the key of Proxmox."""
    with pytest.raises(errors.PermanentError, match=rf"^Proxmox: {next(iter(entry))}: .* is not a number$"):
        convert.entry(Line, entry, {"size": "maxsize"})
