"""Which rights the tools need, from what they call and from what the node's schema says of each method; pure.

The areas say which methods a tool calls (methods.py), and what the schema says in words alone.  The schema's
permission checks turn that into privileges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agentd.errors import NotFound
from agentd.tools.definition import Right
from agentd.wire.messages import Tier

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

    from agentd_proxmox.api_schema import Catalogue

    Needed = AbstractSet[tuple[str, str]]
    """Privilege and the path that it is needed on, with variables."""


SHOWS: Final = frozenset({"Sys.Syslog"})
"""Privileges by which nothing can be changed, beside those that are called Audit."""


@dataclass(frozen=True)
class Declared:
    """What a tool calls that it cannot do without, and what the schema does not say that it needs."""

    tool: str
    tier: Tier
    calls: frozenset[str]
    needs: Needed


def needed(check: Any) -> Needed:  # noqa: ANN401 - nested lists of the schema
    """Return what a permission check of the schema asks for: of alternatives one for looking, else the least.

    One of several privileges (`any`) is for the area to name, unless there is only one.
    """
    if not isinstance(check, list) or not check:
        return set()
    if check[0] == "perm":
        if "any" in check and len(check[2]) > 1:
            # The guest agent's: the first suffices, the last is for everything in the guest.
            return {(check[2][0], check[1])} if check[2][-1] == "VM.GuestAgent.Unrestricted" else set()
        return {(privilege, check[1]) for privilege in check[2]}
    if check[0] == "and":
        return {pair for part in check[1:] for pair in needed(part)}
    if check[0] != "or":
        return set()
    ways = [needed(alternative) for alternative in check[1:]]
    looking = [way for way in ways if way and all(privilege.endswith(".Audit") for privilege, _ in way)]
    return looking[0] if looking else min(ways, key=len)


def rights(catalogue: Catalogue, declared: Iterable[Declared], known: AbstractSet[str] = frozenset()) -> list[Right]:
    """Return the privileges that the tools need, each with its path, who needs it, and from which tier on.

    A method that this version does not have needs none, and a privilege that it does not know (`known`: those that it
    does; empty: all) is needed by nobody: what an area names in words is the newest name.  A privilege by which
    something can be changed is none of the tier `read`: Proxmox shows backups only to who may make them, and a token
    for looking shall not be able to.
    """
    found: dict[tuple[str, str], tuple[Tier, list[str]]] = {}
    for tool in declared:
        for privilege, path in sorted(_of(catalogue, tool)):
            if known and privilege not in known:
                continue
            only_shows = privilege.endswith(".Audit") or privilege in SHOWS
            tier = Tier.OPERATE if tool.tier is Tier.READ and not only_shows else tool.tier
            lowest, tools = found.get((privilege, path), (tier, []))
            found[privilege, path] = (lowest if tier.covers(lowest) else tier, [*tools, tool.tool])
    return [Right(privilege, path, tier, tuple(tools)) for (privilege, path), (tier, tools) in sorted(found.items())]


def _of(catalogue: Catalogue, tool: Declared) -> Needed:
    needs = set(tool.needs)
    for key in tool.calls:
        verb, _, path = key.partition(" ")
        try:
            info = catalogue.resolve(verb, path).info
        except NotFound:
            continue
        needs |= {
            (privilege, where.replace("{newid}", "{vmid}"))
            for privilege, where in needed(info["permissions"].get("check"))
        }
    return needs
