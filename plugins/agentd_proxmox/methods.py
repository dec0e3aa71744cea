"""Methods of the Proxmox API that several tools call; pure.

Each area says in `calls` which methods a tool of it may call, and in `needs` which privileges that takes where the
node's schema says it in words alone, or takes any of several by what is changed (a bridge without SDN lies under
/sdn/zones too).  A test runs the tools and compares it with what arrives.  `optional` names what a tool does without
where it may not, and says so.  rights.py makes roles of it.
"""

from __future__ import annotations

from typing import Final

Calls = dict[str, tuple[str, ...]]
"""Tool and the methods that it may call: `GET /nodes/{node}/status`."""
Needs = dict[str, set[tuple[str, str]]]
"""Tool, and privileges with the path that each is needed on."""
Optional = dict[str, frozenset[str]]


def guest(*suffixes: str) -> tuple[str, ...]:
    """Return methods of both kinds of guests: `GET /config` and so on."""
    pairs = (each.split(" ") for each in suffixes)
    return tuple(f"{verb} /nodes/{{node}}/{kind}/{{vmid}}{rest}" for verb, rest in pairs for kind in ("qemu", "lxc"))


PLACES: Final = (
    *("GET /cluster/resources", "GET /access/permissions"),
    *("GET /nodes", "GET /nodes/{node}/qemu", "GET /nodes/{node}/lxc"),
)
TASK: Final = ("GET /nodes/{node}/tasks/{upid}/status", "GET /nodes/{node}/tasks/{upid}/log")
TASKS: Final = "GET /nodes/{node}/tasks"
READ: Final = (*PLACES, *guest("GET /config", "GET /status/current"))
"""What looking at a guest takes."""
WRITE: Final = (*READ, *TASK, TASKS)
"""What changing a guest takes beside the change: the look before it, and its task."""
HA_LISTS: Final = tuple(f"GET /cluster/ha/{each}" for each in ("status/current", "resources", "rules", "groups"))

CONTENT: Final = "GET /nodes/{node}/storage/{storage}/content"
NEW: Final = ("POST /nodes/{node}/qemu", "POST /nodes/{node}/lxc")
VM: Final = "/vms/{vmid}"
STORAGE: Final = "/storage/{storage}"
SPACE: Final = ("Datastore.AllocateSpace", STORAGE)
BRIDGE: Final = ("SDN.Use", "/sdn/zones/{zone}/{bridge}")


def on(path: str, *privileges: str) -> set[tuple[str, str]]:
    """Return privileges that are needed on one path."""
    return {(each, path) for each in privileges}


def config(*parts: str) -> set[tuple[str, str]]:
    """Return the privileges to change these parts of a guest's configuration."""
    return on(VM, *(f"VM.Config.{each}" for each in parts))
