"""Names that firewall rules use: aliases, IP sets and security groups.

Aliases and IP sets belong to the cluster or to a guest.  The value of a name decides what the rules that use it let in,
so changing it is as serious as changing a rule.
"""

from __future__ import annotations

import ipaddress
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import Meta

from agentd import Call, Found, Rejected, Repeat, Target, TaskFailed, Tier, formats, one_line, tool
from agentd_proxmox import area, blind_token, changes, targets
from agentd_proxmox.model import fields, pages
from agentd_proxmox.network import firewall_uses
from agentd_proxmox.network.firewall_lockout import CLUSTER
from agentd_proxmox.network.firewall_rules import Comment, Group

if TYPE_CHECKING:
    from collections.abc import Sequence

    Entry = dict[str, Any]

Name = formats.FirewallName
Network = formats.IpOrCidr
Member = Annotated[
    str,
    formats.full_match("!?(?:dc/|guest/)?[0-9A-Za-z:./_-]{2,64}", "address, network or alias; !… is left out"),
]


class Alias(msgspec.Struct, frozen=True, omit_defaults=True):
    """A name for an address or a network."""

    name: str
    cidr: str
    comment: str = ""


class IpSet(msgspec.Struct, frozen=True, omit_defaults=True):
    """A name for several addresses; an entry with ! is excluded."""

    name: str
    entries: list[str]
    comment: str = ""


class Sets(msgspec.Struct, frozen=True):
    """All names that rules may use.

    Every rule may use the cluster's names, only a guest's own rules may use those of the guest.
    """

    aliases: list[Alias]
    ipsets: list[IpSet]
    groups: dict[str, str]


class FirewallSetsSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The guest; omitted: the cluster."""

    vmid: fields.Vmid | None = None


class SetFirewallAlias(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The name, and its address or network.

    vmid  only for the rules of this guest
    """

    name: Name
    cidr: Network
    comment: Comment = ""
    vmid: fields.Vmid | None = None


class SetFirewallIpset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The name, and all its entries.

    vmid  only for the rules of this guest
    """

    name: Name
    entries: Annotated[list[Member], Meta(max_length=500)]
    comment: Comment = ""
    vmid: fields.Vmid | None = None


class CreateFirewallGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A security group without rules; create_firewall_rule adds them."""

    name: Group
    comment: Comment = ""


class DeleteFirewallSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The kind and the name to delete; nothing should use it.

    vmid  a name of this guest, which has no groups
    """

    kind: Literal["alias", "ipset", "group"]
    name: Name
    vmid: fields.Vmid | None = None


class FirewallSets(area.Area):
    """The tools for aliases, IP sets and security groups."""

    shown_to: ClassVar[area.ShownTo] = {"list_firewall_sets": blind_token.CLUSTER}
    needs: ClassVar[area.Needs] = {area.EVERY: area.with_path(area.VM, "VM.Audit")}

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="network_management")
    async def list_firewall_sets(self, call: Call, p: FirewallSetsSelector) -> Sets:
        """List aliases, IP sets with their entries, and security groups."""
        return await self._read(await self._path(p.vmid))

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="network_management")
    async def set_firewall_alias(self, call: Call, p: SetFirewallAlias) -> Sets:
        """Create or change an alias; every rule that uses it changes with it."""
        path, cidr = await self._path(p.vmid), _network(p.cidr)

        async def plan() -> changes.Planned:
            now = next((alias for alias in (await self._read(path)).aliases if _same(alias, p.name)), None)
            if now and (_network(now.cidr), now.comment) == (cidr, p.comment):
                return Found()
            old = {"name": p.name, "cidr": now.cidr, "comment": now.comment} if now else None
            call.inverse(*(("set_firewall_alias", old | _selector_fields(p)) if old else _delete("alias", p)))
            used = await firewall_uses.uses_of(self.inventory, "alias", p.name, p.vmid) if now else []
            call.target(_target("alias", p, now.cidr if now else "", cidr, used))
            sent = {"cidr": cidr, "comment": p.comment or None}
            if now:
                return partial(self.proxmox.put, f"{path}/aliases/{now.name}", **sent)
            return lambda: self.proxmox.post(f"{path}/aliases", name=p.name, **sent)

        await changes.change(call, plan)
        return await self._read(path)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="network_management")
    async def set_firewall_ipset(self, call: Call, p: SetFirewallIpset) -> Sets:
        """Create an IP set, or replace its entries.

        Every rule that uses it changes with it.
        """
        path, wanted = await self._path(p.vmid), {_member(entry) for entry in p.entries}

        async def plan() -> changes.Planned:
            now = next((ipset for ipset in (await self._read(path)).ipsets if ipset.name == p.name), None)
            if now and set(now.entries) == wanted:
                return Found()
            undo = {"name": p.name, "entries": now.entries, "comment": now.comment} if now else None
            call.inverse(*(("set_firewall_ipset", undo | _selector_fields(p)) if undo else _delete("ipset", p)))
            old = ", ".join(sorted(now.entries)) if now else ""
            used = await firewall_uses.uses_of(self.inventory, "ipset", p.name, p.vmid) if now else []
            call.target(_target("ipset", p, old, ", ".join(sorted(wanted)), used))
            return lambda: send(now)

        async def send(now: IpSet | None) -> None:
            if now is None:
                await self.proxmox.post(f"{path}/ipset", name=p.name, comment=p.comment or None)
            await self._make(f"{path}/ipset/{p.name}", set(now.entries) if now else set(), wanted)

        await changes.change(call, plan)
        found = await self._read(path)
        made = next((set(ipset.entries) for ipset in found.ipsets if ipset.name == p.name), None)
        if made != wanted:
            raise TaskFailed(f"the set {p.name} is {sorted(made or [])}, not what was requested: call again")
        return found

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="network_management")
    async def create_firewall_group(self, call: Call, p: CreateFirewallGroup) -> Sets:
        """Create a security group without rules; no firewall uses it yet."""
        call.target(Target(f"firewall/group/{p.name}", f"security group {p.name}"))

        async def plan() -> changes.Planned:
            if p.name in (await self._read(CLUSTER)).groups:
                return Found()
            call.inverse("delete_firewall_set", {"kind": "group", "name": p.name})
            return lambda: self.proxmox.post(f"{CLUSTER}/groups", group=p.name, comment=p.comment or None)

        await changes.change(call, plan)
        return await self._read(CLUSTER)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="network_management")
    async def delete_firewall_set(self, call: Call, p: DeleteFirewallSet) -> changes.Deleted:
        """Delete an alias, an IP set or a security group.

        Proxmox refuses a group that has rules, but deletes a name that is in use: rules that use it do nothing from
        then on.  The preview lists where the name is used.
        """
        if p.kind == "group" and p.vmid is not None:
            raise Rejected("vmid: a guest has no security groups, they are the cluster's; leave it out")
        path = await self._path(p.vmid)

        async def find() -> dict[str, Any] | None:
            sets = await self._read(path)
            kept: dict[str, dict[str, dict[str, Any]]] = {
                "alias": {alias.name: {"cidr": alias.cidr, "comment": alias.comment} for alias in sets.aliases},
                "ipset": {ipset.name: {"entries": ipset.entries, "comment": ipset.comment} for ipset in sets.ipsets},
                "group": {name: {"comment": comment} for name, comment in sets.groups.items()},
            }
            return kept[p.kind].get(p.name)

        async def plan(was: dict[str, Any]) -> changes.Send:
            entries = was.get("entries", [])
            targets.set_undo(call, *_MAKES[p.kind], {"name": p.name, **was, **_selector_fields(p)})
            used = await firewall_uses.uses_of(self.inventory, p.kind, p.name, p.vmid)
            call.target(_target(p.kind, p, was.get("cidr") or ", ".join(entries) or was["comment"], "", used))
            return lambda: send(entries)

        async def send(entries: list[str]) -> None:
            if p.kind == "ipset":
                await self._make(f"{path}/ipset/{p.name}", set(entries), set())
            where = {"alias": "aliases", "ipset": "ipset", "group": "groups"}[p.kind]
            await self.proxmox.delete(f"{path}/{where}/{p.name}")

        return await changes.delete(call, changes.Item(p.kind, p.name, find), plan)

    async def _path(self, vmid: int | None) -> str:
        """Return the API path of the firewall that has the names."""
        return CLUSTER if vmid is None else f"{(await self.inventory.find(vmid)).path}/firewall"

    async def _make(self, path: str, now: set[str], wanted: set[str]) -> None:
        """Add the missing entries of a set, then remove the others.

        At no time does the set lack an entry of both the old and the new set, or an exclusion that a wider entry needs:
        exclusions are added first and removed last, and an entry that becomes one, or no longer is one, is changed in
        place.
        """
        turned = {entry for entry in wanted if _opposite(entry) in now}
        for entry in sorted(wanted - now - turned):
            cidr = entry.removeprefix("!")
            await self.proxmox.post(path, cidr=cidr, nomatch=True if entry != cidr else None)
        stored: dict[str, Entry] = {e["cidr"]: e for e in await self.proxmox.get(path) or []} if turned else {}
        for entry in sorted(turned):
            cidr = entry.removeprefix("!")
            comment = stored.get(cidr, {}).get("comment")  # Proxmox deletes a comment that is not sent
            await self.proxmox.put(_entry_path(path, entry), nomatch=entry != cidr, comment=comment)
        for entry in sorted(now - wanted - set(map(_opposite, turned)), reverse=True):
            await self.proxmox.delete(_entry_path(path, entry))

    async def _read(self, path: str) -> Sets:
        aliases, ipsets = [await self.proxmox.get(f"{path}/{kind}") or [] for kind in ("aliases", "ipset")]
        groups = await self.proxmox.get(f"{CLUSTER}/groups") or [] if path == CLUSTER else []
        return Sets(
            aliases=[Alias(one_line(e["name"]), one_line(e["cidr"]), _comment(e)) for e in aliases],
            ipsets=[IpSet(one_line(e["name"]), await self._entries(path, e["name"]), _comment(e)) for e in ipsets],
            groups={one_line(group["group"]): _comment(group) for group in groups},
        )

    async def _entries(self, path: str, name: str) -> list[str]:
        found: list[Entry] = await self.proxmox.get(f"{path}/ipset/{name}") or []
        return [("!" if int(entry.get("nomatch") or 0) else "") + one_line(entry["cidr"]) for entry in found]


_MAKES: Final[dict[str, tuple[str, type[msgspec.Struct]]]] = {
    "alias": ("set_firewall_alias", SetFirewallAlias),
    "ipset": ("set_firewall_ipset", SetFirewallIpset),
    "group": ("create_firewall_group", CreateFirewallGroup),
}
"""The tool that creates each kind of name, and its parameters."""


def _comment(entry: Entry) -> str:
    return one_line(entry.get("comment") or "")


def _same(alias: Alias, name: str) -> bool:
    return alias.name.lower() == name.lower()  # Proxmox stores aliases in lower case


def _entry_path(path: str, entry: str) -> str:
    return f"{path}/{entry.removeprefix('!').replace('/', '%2F')}"


def _opposite(entry: str) -> str:
    return entry.removeprefix("!") if entry.startswith("!") else f"!{entry}"


def _network(text: str) -> str:
    """Return an address or a network as Proxmox stores it.

    A network of one address is stored as the address alone.
    """
    try:
        found = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise Rejected(f"{text!r} is neither an address nor a network: {error}") from error
    return str(found.network_address) if found.num_addresses == 1 else str(found)


def _member(entry: str) -> str:
    """Return an entry of a set as Proxmox stores it."""
    plain = entry.removeprefix("!")
    kept = plain if plain[:1].isalpha() and ":" not in plain else _network(plain)
    return entry[: len(entry) - len(plain)] + kept


def _selector_fields(p: SetFirewallAlias | SetFirewallIpset | DeleteFirewallSet) -> dict[str, Any]:
    return {} if p.vmid is None else {"vmid": p.vmid}


def _delete(kind: str, p: SetFirewallAlias | SetFirewallIpset) -> tuple[str, dict[str, Any]]:
    return "delete_firewall_set", {"kind": kind, "name": p.name, **_selector_fields(p)}


def _target(
    kind: str, p: SetFirewallAlias | SetFirewallIpset | DeleteFirewallSet, old: str, new: str, used: Sequence[str] = ()
) -> Target:
    what = f"{kind} {p.name}: {old or 'nothing'} → {new or 'nothing'}"
    whose = "the cluster" if p.vmid is None else f"guest {p.vmid}"
    name = f"firewall/{kind}/{p.name}" if p.vmid is None else f"firewall/vmid/{p.vmid}/{kind}/{p.name}"
    labels = [] if p.vmid is None else [f"guest/{p.vmid}"]
    becomes = ", and changes with it" if new else "; Proxmox leaves it there, and it does nothing from then on"
    lost = [line + becomes for line in used]
    state = {"used": pages.digest(list(used))} if used else {}
    return Target(name, f"{kind} {p.name} of the firewall of {whose}", {"value": old} | state, labels, [what, *lost])
