"""Raise Denied for a list that is empty because the token may not see entries.

Proxmox leaves out of a list, without an error, what a token may not see: a token without rights reads a cluster without
guests, users and tasks.  So before an empty list is returned, the rights of the token are checked.  This file does it
for every tool that lists; a list with entries costs no further call.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd import Denied, grant

if TYPE_CHECKING:
    from agentd import Call, Proxmox, Tool
    from agentd_proxmox.area import ShownTo

VMS: Final = ("/vms", ("VM.Audit",))
STORES: Final = ("/storage", ("Datastore.Audit", "Datastore.AllocateSpace", "Datastore.Allocate"))
NODES: Final = ("/nodes", ("Sys.Audit",))
USERS: Final = ("/access/groups", ("Sys.Audit", "User.Modify", "Group.Allocate"))
CLUSTER: Final = ("/", ("Sys.Audit",))
NETS: Final = ("/sdn", ("SDN.Audit", "SDN.Allocate", "SDN.Use"))

POOLS: Final = ("/pool", ("Pool.Audit", "Pool.Allocate"))
GRANTS: Final = ("/access", ("Sys.Audit", "Permissions.Modify"))
NOTIFICATIONS: Final = ("/mapping/notifications", ("Mapping.Audit", "Mapping.Modify", "Mapping.Use"))
EVERY_TOKEN: Final[tuple[str, tuple[str, ...]]] = ("", ())
"""Of a tool that lists objects that Proxmox shows to every token."""


def check_empty_lists(tool: Tool, proxmox: Proxmox, shown_to: ShownTo) -> Tool:
    """Return `tool`, wrapped if it lists objects that a token may not see.

    The wrapped tool raises Denied if the list is empty because the token lacks a right.
    """
    root, privileges = shown_to.get(tool.name, EVERY_TOKEN)
    if not root:
        return tool

    async def run(call: Call, parameters: Any) -> Any:  # noqa: ANN401 - the tool's own Structs
        try:
            result = await tool.run(call, parameters)
        except Denied as error:  # Proxmox does not always say which privilege is missing
            if "pveum" in str(error) or not (reason := await hidden_reason(proxmox, tool.name, root, privileges)):
                raise
            raise Denied(f"{error}; {reason}") from error
        if is_empty(result) and (reason := await hidden_reason(proxmox, tool.name, root, privileges)):
            raise Denied(reason)
        return result

    return dataclasses.replace(tool, run=run)


def is_empty(result: Any) -> bool:  # noqa: ANN401
    """Return whether all lists of a result are empty.

    A result without a list does not count as empty.
    """
    values = msgspec.structs.asdict(result)
    collections = [value for name, value in values.items() if isinstance(value, (list, dict)) and name != "unread"]
    return bool(collections) and not any(collections) and not values.get("total") and not values.get("unread")


async def hidden_reason(proxmox: Proxmox, tool: str, root: str, privileges: tuple[str, ...]) -> str:
    """Return why an empty list proves nothing, "" if the token would see entries.

    They are below `root`, and one of the privileges is enough.
    """
    held = await proxmox.permissions()
    if reason := no_rights_error(proxmox.user, held):
        return reason
    if any(_applies_below(path, root) and set(privileges) & set(found) for path, found in held.items()):
        return ""
    return (
        f"{tool}: {proxmox.user} lacks {privileges[0]} on {root}, so Proxmox shows it an empty list; to let it read: "
        + grant(root, privileges[0], proxmox.user)
    )


def no_rights_error(user: str, held: dict[str, list[str]]) -> str:
    """Return an error text if the token has no rights at all, "" otherwise."""
    if any(held.values()):
        return ""
    return (
        f"the token {user} has no rights, so Proxmox shows it nothing; to let it read: {grant('/', 'VM.Audit', user)}"
    )


def _applies_below(path: str, root: str) -> bool:
    """Return whether rights on `path` apply to objects below `root`.

    They do if one of the paths is above the other; rights on a pool can apply to any object.
    """
    above, below = root.rstrip("/") + "/", path.rstrip("/") + "/"
    return path == root or path.startswith((above, "/pool/")) or root.startswith(below)
