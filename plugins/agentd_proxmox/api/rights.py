"""Determine the privileges that tools need, by their calls and the schema; pure.

Which methods a tool calls is in calls.json; the areas declare the requirements that the schema states only in words.
The permission checks of the node's schema turn the methods into privileges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agentd import NotFound, Right, Tier

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

    from agentd_proxmox.api_schema import Catalogue

    Needed = AbstractSet[tuple[str, str]]
    """A privilege and the path on which it is needed, with variables."""


SHOWS: Final = frozenset({"Sys.Syslog"})
"""Privileges that allow no change, besides those named *.Audit."""


@dataclass(frozen=True)
class Declared:
    """The methods that a tool cannot work without, and its undocumented needs.

    `needs` are the privileges that the schema does not state.
    """

    tool: str
    tier: Tier
    calls: frozenset[str]
    needs: Needed


def privileges_of_check(check: Any) -> Needed:  # noqa: ANN401 - nested lists of the schema
    """Return the privileges that a permission check of the schema requires.

    Of alternatives (`or`), one that needs only audit privileges is taken, else the one with the fewest privileges. If a
    check accepts one of several privileges (`any`), the area declares which one is needed.
    """
    if not isinstance(check, list) or not check:
        return set()
    if check[0] == "perm":
        if "any" in check and len(check[2]) > 1:
            # Guest agent methods: the first privilege suffices, the last one allows everything in the guest.
            return {(check[2][0], check[1])} if check[2][-1] == "VM.GuestAgent.Unrestricted" else set()
        return {(privilege, check[1]) for privilege in check[2]}
    if check[0] == "and":
        return {pair for part in check[1:] for pair in privileges_of_check(part)}
    if check[0] != "or":
        return set()
    alternatives = [privileges_of_check(alternative) for alternative in check[1:]]
    audit_only = [way for way in alternatives if way and all(privilege.endswith(".Audit") for privilege, _ in way)]
    return audit_only[0] if audit_only else min(alternatives, key=len)


def needed_rights(
    catalogue: Catalogue, declared: Iterable[Declared], known: AbstractSet[str] = frozenset()
) -> list[Right]:
    """Return the privileges that the tools need: path, lowest tier and tools of each.

    A method that this version of Proxmox does not have needs no privilege, and a privilege that it does not know is
    left out (`known`: those that it knows; empty: all), because an area declares the newest name of a privilege. A
    privilege that allows changes is never assigned to the tier `read`: Proxmox shows backups only to accounts that may
    create them, and a token for reading must not be able to do that.
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
            for privilege, where in privileges_of_check(info["permissions"].get("check"))
        }
    return needs
