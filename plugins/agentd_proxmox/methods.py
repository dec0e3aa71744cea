"""Methods of the Proxmox API that several tools call; pure.

Each area declares for each of its tools:
- `calls`: the API methods that the tool may call.  A test runs the tools and compares this with the received requests.
- `needs`: the privileges, where the node's schema describes them only in words, or where they depend on what is changed
  (a bridge without SDN is below /sdn/zones, too).
- `optional`: the methods that the tool can do without if the token lacks the privilege; the tool then reports it.

rights.py computes roles from these declarations.
"""

from __future__ import annotations

from typing import Final

Calls = dict[str, tuple[str, ...]]
"""Name of a tool, and the methods that it may call: `GET /nodes/{node}/status`."""
Needs = dict[str, set[tuple[str, str]]]
"""Name of a tool, and the privileges that it needs, each with its path."""
Optional = dict[str, frozenset[str]]


def guest_methods(*suffixes: str) -> tuple[str, ...]:
    """Return the methods of VMs and containers for suffixes such as `GET /config`."""
    pairs = (suffix.split(" ") for suffix in suffixes)
    return tuple(f"{verb} /nodes/{{node}}/{kind}/{{vmid}}{rest}" for verb, rest in pairs for kind in ("qemu", "lxc"))


PLACES: Final = (
    *("GET /cluster/resources", "GET /access/permissions"),
    *("GET /nodes", "GET /nodes/{node}/qemu", "GET /nodes/{node}/lxc"),
)
TASK: Final = ("GET /nodes/{node}/tasks/{upid}/status", "GET /nodes/{node}/tasks/{upid}/log")
TASKS: Final = "GET /nodes/{node}/tasks"
READ: Final = (*PLACES, *guest_methods("GET /config", "GET /status/current"))
"""Methods that reading a guest needs."""
WRITE: Final = (*READ, *TASK, TASKS)
"""Methods that changing a guest needs besides the change: reading the guest before, and following the task."""
HA_LISTS: Final = tuple(f"GET /cluster/ha/{name}" for name in ("status/current", "resources", "rules", "groups"))

CONTENT: Final = "GET /nodes/{node}/storage/{storage}/content"
NEW: Final = ("POST /nodes/{node}/qemu", "POST /nodes/{node}/lxc")
VM: Final = "/vms/{vmid}"
STORAGE: Final = "/storage/{storage}"
SPACE: Final = ("Datastore.AllocateSpace", STORAGE)
BRIDGE: Final = ("SDN.Use", "/sdn/zones/{zone}/{bridge}")


def with_path(path: str, *privileges: str) -> set[tuple[str, str]]:
    """Return the given privileges, each with the path `path`."""
    return {(privilege, path) for privilege in privileges}


def config_privileges(*parts: str) -> set[tuple[str, str]]:
    """Return the privileges to change these parts of a guest's configuration."""
    return with_path(VM, *(f"VM.Config.{part}" for part in parts))
