"""The areas of tools, and the API methods and privileges that each tool needs.

An area is a subclass of Area in a module of one of the packages PACKAGES, or below it: a new one is found by itself.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Final

import msgspec

from agentd_proxmox.api.rights import Declared
from agentd_proxmox.area import EVERY, Area

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES: Final = ("guests", "availability", "storage", "backup", "cluster", "nodes", "network", "access")
CALLS: Final[dict[str, list[str]]] = msgspec.json.decode(pkgutil.get_data("agentd_proxmox", "calls.json") or b"{}")
"""The API methods that each tool calls, as `make calls` saw them; they are read as the code itself is, at import."""


def _areas() -> Iterator[type[Area]]:
    for package in PACKAGES:
        folder = importlib.import_module(f"agentd_proxmox.{package}")
        for file in pkgutil.walk_packages(folder.__path__, f"{folder.__name__}."):
            module = importlib.import_module(file.name)
            for found in vars(module).values():
                if isinstance(found, type) and issubclass(found, Area) and found.__module__ == file.name:
                    yield found


AREAS: Final = tuple(_areas())


def declared() -> Iterator[Declared]:
    """Yield the tier, the API methods and the privileges of each tool."""
    for area in AREAS:
        for name, method in vars(area).items():
            if (marking := getattr(method, "__agentd_tool__", None)) is not None:
                calls = frozenset(CALLS.get(name, ())) - area.optional.get(name, set())
                yield Declared(name, marking.tier, calls, area.needs.get(name, area.needs.get(EVERY, set())))
