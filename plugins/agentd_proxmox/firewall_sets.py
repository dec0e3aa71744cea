"""What firewall rules speak of by name: aliases, sets of addresses, and groups of rules, of the cluster.

What a name stands for is what the rules that use it let in, so a change is as serious as a rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import Meta

from agentd.answers import one_line
from agentd.errors import TaskFailed
from agentd.messages import Target, Tier
from agentd.tools import Call, Found, Repeat, tool
from agentd_proxmox import fields
from agentd_proxmox.firewall import CLUSTER, Group

if TYPE_CHECKING:
    from agentd_proxmox.inventory import Inventory
    from agentd_proxmox.methods import Calls

    Entry = dict[str, Any]

Name = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_-]{1,63}$", description="letters, digits, - and _")]
Network = Annotated[str, Meta(pattern=r"^!?[0-9A-Fa-f:./]{2,64}$", description="address or network; !… is left out")]
Comment = Annotated[str, Meta(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
KINDS: Final = ("aliases", "ipset", "groups")
LISTS: Final = (*(f"GET {CLUSTER}/{each}" for each in KINDS), f"GET {CLUSTER}/ipset/{{name}}")


class Alias(msgspec.Struct, frozen=True, omit_defaults=True):
    """A name for an address or a network."""

    name: str
    cidr: str
    comment: str = ""


class IpSet(msgspec.Struct, frozen=True, omit_defaults=True):
    """A name for several addresses; one with ! is left out of it."""

    name: str
    entries: list[str]
    comment: str = ""


class Sets(msgspec.Struct, frozen=True):
    """All names that rules of the cluster's firewalls may use."""

    aliases: list[Alias]
    ipsets: list[IpSet]
    groups: dict[str, str]


class SetAlias(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The name, and what it shall stand for."""

    name: Name
    cidr: Network
    comment: Comment = ""


class SetIpSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The name, and all that shall be in it."""

    name: Name
    entries: Annotated[list[Network], Meta(max_length=500)]
    comment: Comment = ""


class NewGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A security group without rules; add_firewall_rule adds them."""

    name: Group
    comment: Comment = ""


class DeleteName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which name of which kind; nothing may use it."""

    kind: Literal["alias", "ipset", "group"]
    name: Name


class DeletedName(msgspec.Struct, frozen=True):
    """The name that is no more."""

    kind: str
    name: str


class FirewallSets:
    """The tools for aliases, sets of addresses and security groups."""

    calls: ClassVar[Calls] = {
        "list_firewall_sets": LISTS,
        "set_firewall_alias": (*LISTS, f"POST {CLUSTER}/aliases", f"PUT {CLUSTER}/aliases/{{name}}"),
        "set_firewall_ipset": (
            *(*LISTS, f"POST {CLUSTER}/ipset", f"POST {CLUSTER}/ipset/{{name}}"),
            f"DELETE {CLUSTER}/ipset/{{name}}/{{cidr}}",
        ),
        "create_firewall_group": (*LISTS, f"POST {CLUSTER}/groups"),
        "delete_firewall_set": (
            *(*LISTS, f"DELETE {CLUSTER}/aliases/{{name}}", f"DELETE {CLUSTER}/ipset/{{name}}"),
            *(f"DELETE {CLUSTER}/ipset/{{name}}/{{cidr}}", f"DELETE {CLUSTER}/groups/{{group}}"),
        ),
    }

    def __init__(self, inventory: Inventory) -> None:
        """Keep where the cluster is reached."""
        self.proxmox = inventory.proxmox

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="network_management")
    async def list_firewall_sets(self, call: Call, p: fields.NoParameters) -> Sets:  # noqa: ARG002 - every tool has a call
        """List the aliases, the sets of addresses with their entries, and the security groups of the cluster."""
        return await self._read()

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="network_management")
    async def set_firewall_alias(self, call: Call, p: SetAlias) -> Sets:
        """Make an alias, or let it stand for something else: every rule that uses it changes with it."""
        there: list[Alias] = []

        async def seen() -> Found | None:
            now = next((each for each in (await self._read()).aliases if each.name == p.name), None)
            if now == Alias(p.name, p.cidr, p.comment):
                return Found()
            there.extend([now] if now else [])
            old = {"name": p.name, "cidr": now.cidr, "comment": now.comment} if now else None
            call.inverse(*(("set_firewall_alias", old) if old else _delete("alias", p.name)))
            call.target(_target("alias", p.name, now.cidr if now else "", p.cidr))
            return None

        async def act() -> None:
            sent = {"cidr": p.cidr, "comment": p.comment or None}
            if there:
                await self.proxmox.put(f"{CLUSTER}/aliases/{p.name}", **sent)
            else:
                await self.proxmox.post(f"{CLUSTER}/aliases", name=p.name, **sent)

        await call.once(seen, act)
        return await self._read()

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="network_management")
    async def set_firewall_ipset(self, call: Call, p: SetIpSet) -> Sets:
        """Make a set of exactly these addresses, or make an existing one that: every rule that uses it changes."""
        now: list[IpSet] = []

        async def seen() -> Found | None:
            now[:] = [each for each in (await self._read()).ipsets if each.name == p.name]
            if now and set(now[0].entries) == set(p.entries):
                return Found()
            undo = {"name": p.name, "entries": now[0].entries, "comment": now[0].comment} if now else None
            call.inverse(*(("set_firewall_ipset", undo) if undo else _delete("ipset", p.name)))
            call.target(
                _target("ipset", p.name, ", ".join(sorted(now[0].entries)) if now else "", ", ".join(p.entries))
            )
            return None

        async def act() -> None:
            if not now:
                await self.proxmox.post(f"{CLUSTER}/ipset", name=p.name, comment=p.comment or None)
            await self._make(p.name, set(now[0].entries) if now else set(), set(p.entries))

        await call.once(seen, act)
        found = await self._read()
        made = next((set(each.entries) for each in found.ipsets if each.name == p.name), None)
        if made != set(p.entries):
            raise TaskFailed(f"the set {p.name} is {sorted(made or [])}, not what was asked for: call again")
        return found

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="network_management")
    async def create_firewall_group(self, call: Call, p: NewGroup) -> Sets:
        """Make a security group without rules, which no firewall uses yet."""
        call.target(Target(f"firewall/group/{p.name}", f"security group {p.name}"))

        async def seen() -> Found | None:
            if p.name in (await self._read()).groups:
                return Found()
            call.inverse(*_delete("group", p.name))
            return None

        async def act() -> None:
            await self.proxmox.post(f"{CLUSTER}/groups", group=p.name, comment=p.comment or None)

        await call.once(seen, act)
        return await self._read()

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="network_management")
    async def delete_firewall_set(self, call: Call, p: DeleteName) -> DeletedName:
        """Delete an alias, a set of addresses or a security group; Proxmox refuses a group that has rules."""
        entries: list[str] = []

        async def seen() -> Found | None:
            sets = await self._read()
            values: dict[str, Any] = {
                "alias": {each.name: each.cidr for each in sets.aliases},
                "ipset": {each.name: ", ".join(each.entries) for each in sets.ipsets},
                "group": sets.groups,
            }
            if p.name not in values[p.kind]:
                return Found()
            entries[:] = next((each.entries for each in sets.ipsets if each.name == p.name and p.kind == "ipset"), [])
            call.target(_target(p.kind, p.name, str(values[p.kind][p.name]), ""))
            return None

        async def act() -> None:
            if p.kind == "ipset":
                await self._make(p.name, set(entries), set())
            where = {"alias": "aliases", "ipset": "ipset", "group": "groups"}[p.kind]
            await self.proxmox.delete(f"{CLUSTER}/{where}/{p.name}")

        await call.once(seen, act)
        return DeletedName(p.kind, p.name)

    async def _make(self, name: str, now: set[str], wanted: set[str]) -> None:
        """Add what is missing before taking away what is too much: nobody is shut out meanwhile."""
        for each in sorted(wanted - now):
            cidr = each.removeprefix("!")
            await self.proxmox.post(f"{CLUSTER}/ipset/{name}", cidr=cidr, nomatch=True if each != cidr else None)
        for each in sorted(now - wanted):
            await self.proxmox.delete(f"{CLUSTER}/ipset/{name}/{each.removeprefix('!').replace('/', '%2F')}")

    async def _read(self) -> Sets:
        aliases, ipsets, groups = [await self.proxmox.get(f"{CLUSTER}/{each}") or [] for each in KINDS]
        return Sets(
            aliases=[Alias(one_line(e["name"]), one_line(e["cidr"]), _comment(e)) for e in aliases],
            ipsets=[IpSet(one_line(e["name"]), await self._entries(e["name"]), _comment(e)) for e in ipsets],
            groups={one_line(each["group"]): _comment(each) for each in groups},
        )

    async def _entries(self, name: str) -> list[str]:
        found: list[Entry] = await self.proxmox.get(f"{CLUSTER}/ipset/{name}") or []
        return [("!" if int(each.get("nomatch") or 0) else "") + one_line(each["cidr"]) for each in found]


def _comment(entry: Entry) -> str:
    return one_line(entry.get("comment") or "")


def _delete(kind: str, name: str) -> tuple[str, dict[str, Any]]:
    return "delete_firewall_set", {"kind": kind, "name": name}


def _target(kind: str, name: str, old: str, new: str) -> Target:
    what = f"{kind} {name}: {old or 'nothing'} → {new or 'nothing'}"
    return Target(f"firewall/{kind}/{name}", f"{kind} {name} of the cluster's firewall", {"value": old}, [], [what])
