"""Types that msgspec cannot hold are not used."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from msgspec import inspect

import agentd
import agentd_mcp
import agentd_monitor
import agentd_orchestrator
import agentd_proxmox
import agentd_specialist

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

PACKAGES = [agentd, agentd_mcp, agentd_monitor, agentd_orchestrator, agentd_proxmox, agentd_specialist]
BOXES = (inspect.CollectionType, inspect.DictType, inspect.TupleType)


def structs(kind: type[Any]) -> Iterator[type[Any]]:
    """Yield every Struct below `kind`."""
    for subclass in kind.__subclasses__():
        yield subclass
        yield from structs(subclass)


def is_unsafe(given: Any, seen: set[int]) -> bool:
    """Return whether a type holds a union of a list or a map with a text that has a pattern."""
    while isinstance(given, inspect.Metadata):
        given = given.type
    if id(given) in seen:
        return False
    seen.add(id(given))
    among = [
        assignment.type if isinstance(assignment, inspect.Metadata) else assignment
        for assignment in getattr(given, "types", ())
    ]
    patterned = any(isinstance(item, inspect.StrType) and item.pattern for item in among)
    if patterned and any(isinstance(item, BOXES) for item in among):
        return True
    inner = [getattr(given, name, None) for name in ("item_type", "key_type", "value_type")]
    return any(is_unsafe(item, seen) for item in [*among, *inner] if item is not None)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda item: item.__name__)
def test_no_type_crashes_python(package: ModuleType) -> None:
    """Msgspec 0.22 reads past its memory, whenever Python collects garbage, for a list or map or patterned text."""
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    mine = [item for item in set(structs(msgspec.Struct)) if item.__module__.partition(".")[0] == package.__name__]
    fields = [(item, field) for item in mine for field in msgspec.structs.fields(item)]

    assert [f"{item.__name__}.{field.name}" for item, field in fields if is_unsafe(_of(field.type), set())] == []


def _of(kind: Any) -> Any:
    """Return what msgspec says of a type; a union of Structs, which only pages are made of, it does not take."""
    try:
        return inspect.type_info(kind)
    except TypeError:
        return None


def test_the_crashed_type_is_named() -> None:
    """The check finds what it is there for."""
    text = inspect.type_info(msgspec.defstruct("T", [("t", str)])).fields[0].type  # type: ignore[attr-defined]
    bad = inspect.UnionType((inspect.ListType(inspect.AnyType()), inspect.StrType(pattern="x")))

    assert is_unsafe(inspect.ListType(bad), set())
    assert not is_unsafe(inspect.UnionType((inspect.ListType(inspect.AnyType()), text)), set())
