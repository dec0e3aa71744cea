"""The base class of an area of tools, and what an area declares of its tools.

The API methods that a tool calls are in calls.json, which `make calls` writes from a run of all tools.  An area
declares what such a run cannot show:
- `needs`: the privileges that the node's schema describes only in words, or that depend on what is changed (a bridge
  without SDN is below /sdn/zones, too), or that no step of that run needs.  `EVERY` applies to all tools of the area
- `optional`: the methods that a tool can do without if the token lacks the privilege; the tool then reports it
- `shown_to`: for a tool that lists: who sees an object of the list (blind_token.py)

api/rights.py computes roles from these declarations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from agentd_proxmox.inventory import Inventory

Needs = dict[str, set[tuple[str, str]]]
"""Name of a tool, and the privileges that it needs, each with its path."""
Optional = dict[str, set[str]]
"""Name of a tool, and API methods: `GET /nodes/{node}/qemu/{vmid}/migrate`."""
ShownTo = dict[str, tuple[str, tuple[str, ...]]]
"""Name of a tool, the path of the objects that it lists, and the privileges of which one is enough to see them."""

EVERY: Final = "*"
"""Stands for every tool of an area that `needs` does not name."""
VM: Final = "/vms/{vmid}"
STORAGE: Final = "/storage/{storage}"
SPACE: Final = ("Datastore.AllocateSpace", STORAGE)
BRIDGE: Final = ("SDN.Use", "/sdn/zones/{zone}/{bridge}")


class Area:
    """A class whose methods are tools, over one cluster."""

    needs: ClassVar[Needs] = {}
    optional: ClassVar[Optional] = {}
    shown_to: ClassVar[ShownTo] = {}

    def __init__(self, inventory: Inventory) -> None:
        """Use `inventory` and its Proxmox client."""
        self.inventory = inventory
        self.proxmox = inventory.proxmox


def with_path(path: str, *privileges: str) -> set[tuple[str, str]]:
    """Return the given privileges, each with the path `path`."""
    return {(privilege, path) for privilege in privileges}


def config_privileges(*parts: str) -> set[tuple[str, str]]:
    """Return the privileges to change these parts of a guest's configuration."""
    return with_path(VM, *(f"VM.Config.{part}" for part in parts))
