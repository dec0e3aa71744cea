"""Firewalls of the cluster, nodes, guests and security groups: options and rules.

Rules have no names, only positions, which change when other rules are added or deleted.  So a caller selects a rule by
its position and its text; if another rule is at that position, nothing is changed.  An added rule has the mark of its
call at the end of its comment.  A change that opens or closes access is of tier `destroy`: it may admit other clients,
or lock everyone out, even from the API that could undo the change.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import msgspec

from agentd import Call, Found, Rejected, Repeat, Target, TaskFailed, Tier, marks, one_line, tool
from agentd_proxmox import area, blind_token, changes, targets
from agentd_proxmox.model import pages
from agentd_proxmox.network import firewall_rules
from agentd_proxmox.network.firewall_lockout import CLUSTER, LockoutCheck, is_switched_on
from agentd_proxmox.network.firewall_rules import (
    CreateFirewallRule,
    DeleteFirewallRule,
    FirewallSelector,
    Level,
    Policy,
    Rule,
    UpdateFirewallRule,
    is_on,
    rules_path,
)

if TYPE_CHECKING:
    from agentd_proxmox.inventory import Inventory

    Entry = dict[str, Any]

LEVELS: Final = (
    CLUSTER,
    "/nodes/{node}/firewall",
    *(f"/nodes/{{node}}/{kind}/{{vmid}}/firewall" for kind in ("qemu", "lxc")),
)
RULES: Final = (*(f"{level}/rules" for level in LEVELS), f"{CLUSTER}/groups/{{group}}")
RESTS: Final = {"policy_in": "DROP", "policy_out": "ACCEPT"}
"""The default policies of a firewall, for traffic that no rule matches."""
GUEST: Final = ("enable", *RESTS, "log_level_in", "log_level_out", "macfilter", "ipfilter", "dhcp")
OPTIONS: Final = {
    "cluster": ("enable", *RESTS, "policy_forward"),
    "node": ("enable", "log_level_in", "log_level_out"),
    "guest": GUEST,
}
"""The options on each level."""


class Firewall(msgspec.Struct, frozen=True, omit_defaults=True):
    """A firewall: its default policies, its rules in order, whether it is in force.

    switched  on or off at this level; it has an effect only while the cluster's firewall is on too (`in_force`)
    options   all other options that are set
    count     number of all rules; `rules` is one page of them
    bare      network cards of the guest without firewall=1: no rule applies to their traffic
    """

    of: str
    switched: bool
    in_force: bool
    why: str
    policy_in: str
    policy_out: str
    rules: list[Rule]
    digest: str
    options: dict[str, str] = {}
    bare: list[str] = []
    count: int = 0
    next: str = ""


class ListFirewall(FirewallSelector, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The firewall, and the page of its rules to return."""

    limit: pages.Fit = None
    cursor: pages.Cursor = ""
    show: pages.Fields = msgspec.field(default_factory=list)


class UpdateFirewallOptions(FirewallSelector, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The options to change; an omitted one is kept.

    A node has no policies of its own: those of the cluster apply.

    macfilter   of a guest: it can send only with its own MAC address
    ipfilter    of a guest: it can send only with the addresses in its IP sets ipfilter-netN
    dhcp        of a guest: it can request an address
    digest      from list_firewall: the call is refused if the firewall has changed since
    locked_out  switch it on even if no rule opens the API and shell of a node
    """

    enable: bool | None = None
    policy_in: Policy | None = None
    policy_out: Policy | None = None
    policy_forward: Literal["ACCEPT", "DROP"] | None = None
    log_level_in: Level | None = None
    log_level_out: Level | None = None
    macfilter: bool | None = None
    ipfilter: bool | None = None
    dhcp: bool | None = None
    digest: str = ""
    locked_out: bool = False


class Firewalls(area.Area):
    """The tools for firewalls."""

    shown_to: ClassVar[area.ShownTo] = {"list_firewall": blind_token.CLUSTER}
    needs: ClassVar[area.Needs] = {area.EVERY: area.with_path(area.VM, "VM.Audit")}

    def __init__(self, inventory: Inventory) -> None:
        """Use `inventory`."""
        super().__init__(inventory)
        self.lockout = LockoutCheck(inventory.proxmox)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="network_management")
    async def list_firewall(self, call: Call, p: ListFirewall) -> Firewall:
        """Show a firewall: whether it is in force, its policies, and its rules in order."""
        return await self._read(p, pages.Paged(limit=p.limit, cursor=p.cursor, show=p.show))

    @tool(tier=Tier.DESTROY, repeat=Repeat.MARKED, capability="network_management")
    async def create_firewall_rule(self, call: Call, p: CreateFirewallRule) -> Firewall:
        """Add a rule to a firewall, as its first one unless `to` is set.

        The rule applies at once if the firewall is in force.
        """
        path, title = await self._path(p)
        sent = {**firewall_rules.rule_parameters(p), "enable": int(p.enabled)}
        mark = marks.mark(call.key) if call.key else ""
        if p.to and not mark:
            raise Rejected("to: this call has no key, so the rule could not be found again to be moved")

        async def check() -> Found | None:
            entries = await self.lockout.rules(path, p)
            if (pos := firewall_rules.position_of_mark(entries, mark)) is not None:
                to = min(p.to, len(entries) - 1)
                return Found() if not p.to or (pos == to and is_on(entries[pos].get("enable")) is p.enabled) else None
            to = min(p.to, len(entries))
            after = firewall_rules.rules_with(entries, sent, to)
            says = f"{firewall_rules.rule_text(sent)} is added"
            call.target(_target(p, title, entries, says, *await self.lockout.closed_access(path, p, entries, after)))
            call.inverse(
                "delete_firewall_rule",
                {**_selector_fields(p), "pos": to, "rule": firewall_rules.unique_texts(after)[to]},
            )
            return None

        async def apply() -> None:
            comment = f"{p.comment} {mark}".strip()
            if not p.to:
                await self.proxmox.post(rules_path(path, p), **sent, comment=comment or None)
                return
            if firewall_rules.position_of_mark(await self.lockout.rules(path, p), mark) is None:
                # Off until it is at its position.
                await self.proxmox.post(rules_path(path, p), **sent | {"enable": 0}, comment=comment)
            await self._place(path, p, mark)

        await call.ensure(check, apply)
        if mark and firewall_rules.position_of_mark(await self.lockout.rules(path, p), mark) is None:
            raise TaskFailed(f"Proxmox reports success, but {title} has no such rule")
        return await self._read(p)

    async def _place(self, path: str, p: CreateFirewallRule, mark: str) -> None:
        """Move our new rule, which is off, to its position, and switch it on there."""
        rules = rules_path(path, p)
        entries = await self.lockout.rules(path, p)
        pos, to = firewall_rules.position_of_mark(entries, mark), min(p.to, len(entries) - 1)
        if pos is not None and pos != to:  # Proxmox counts with the rule at its old place
            digest = entries[pos].get("digest") or None
            await self.proxmox.put(f"{rules}/{pos}", moveto=to + (to > pos), digest=digest)
            entries = await self.lockout.rules(path, p)
        if firewall_rules.position_of_mark(entries, mark) != to:
            raise TaskFailed("another client changed the rules meanwhile: the new one is switched off; list_firewall")
        if p.enabled:
            await self.proxmox.put(f"{rules}/{to}", enable=1, digest=entries[to].get("digest") or None)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="network_management")
    async def update_firewall_rule(self, call: Call, p: UpdateFirewallRule) -> Firewall:
        """Change the content of a rule, switch it on or off, or move it."""
        wanted = [value for value in (p.enabled, p.comment, p.becomes) if value is not None]
        if bool(wanted) == (p.to is not None):
            raise Rejected("update_firewall_rule: give either to, or some of enabled, comment and becomes")
        path, title = await self._path(p)

        async def plan() -> changes.Planned:
            entries = await self.lockout.rules(path, p)
            if firewall_rules.is_moved(entries, p) or firewall_rules.is_changed(entries, p):
                return Found()
            entry = firewall_rules.rule_at(entries, p.pos, p.rule, title)
            after = firewall_rules.rules_after(entries, p)
            if after == entries:
                return Found()
            shut = await self.lockout.closed_access(path, p, entries, after)
            call.target(_target(p, title, entries, firewall_rules.change_text(p), *shut))
            call.inverse(
                "update_firewall_rule", {**_selector_fields(p), **firewall_rules.undo_parameters(entries, after, p)}
            )
            sent = firewall_rules.changed_settings(entry, p) | {"digest": entry.get("digest") or None}
            return lambda: self.proxmox.put(f"{rules_path(path, p)}/{p.pos}", **sent)

        await changes.change(call, plan)
        return await self._read(p)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="network_management")
    async def delete_firewall_rule(self, call: Call, p: DeleteFirewallRule) -> Firewall:
        """Delete a rule.

        If it is no longer at its position, nothing is deleted.
        """
        path, title = await self._path(p)

        async def plan() -> changes.Planned:
            entries = await self.lockout.rules(path, p)
            if p.rule not in firewall_rules.unique_texts(entries):
                return Found()
            entry = firewall_rules.rule_at(entries, p.pos, p.rule, title)
            firewall_rules.check_not_shadowed(entries, p.rule)
            left = [other for other in entries if other is not entry]
            shut = await self.lockout.closed_access(path, p, entries, left)
            call.target(_target(p, title, entries, f"{p.rule} is deleted", *shut))
            targets.set_undo(
                call,
                "create_firewall_rule",
                CreateFirewallRule,
                {**_selector_fields(p), **firewall_rules.recreate_parameters(entry, p.pos)},
            )
            digest = str(entry.get("digest") or "") or None
            return lambda: self.proxmox.delete(f"{rules_path(path, p)}/{p.pos}", digest=digest)

        await changes.change(call, plan)
        return await self._read(p)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="network_management")
    async def update_firewall_options(self, call: Call, p: UpdateFirewallOptions) -> Firewall:
        """Switch a firewall on or off, or change its default policies and options."""
        path, title = await self._path(p)
        wanted = _wanted(p)

        async def plan() -> changes.Planned:
            options = await self.proxmox.get(f"{path}/options") or {}
            now = {key: _current_value(options, path, key) for key in wanted}
            if now == wanted:
                return Found()
            digest = firewall_rules.digest(options, await self.lockout.rules(path, p))
            changes.check_unchanged(title, p.digest, digest)
            if p.vmid is None and not p.locked_out and (p.enable or p.policy_in):
                await self.lockout.check_reachable(path, p, options | wanted)
            texts = ", ".join(f"{key}: {now[key]} → {value}" for key, value in wanted.items() if now[key] != value)
            call.target(Target(_name(p), title, now, _labels(p), [texts]))
            call.inverse(
                "update_firewall_options",
                {**_selector_fields(p), **now, **({"locked_out": True} if now.get("enable") else {})},
            )
            sent = wanted | {"digest": options.get("digest") or None}
            return lambda: self.proxmox.put(f"{path}/options", **sent)

        await changes.change(call, plan)
        return await self._read(p)

    async def _path(self, p: FirewallSelector | CreateFirewallRule) -> tuple[str, str]:
        """Return the API path of a firewall, and its name for a person."""
        if sum(value is not None for value in (p.node, p.vmid, p.group)) > 1:
            raise Rejected("name a node, a vmid or a group, one of them; none is the cluster's firewall")
        if p.vmid is not None:
            at = await self.inventory.find(p.vmid)
            return f"{at.path}/firewall", f"firewall of {at.title}"
        if p.node is not None:
            return f"/nodes/{p.node}/firewall", f"firewall of the node {p.node}"
        return CLUSTER, f"security group {p.group}" if p.group else "firewall of the cluster"

    async def _read(self, p: FirewallSelector | CreateFirewallRule, asked: pages.Paged = pages.Paged()) -> Firewall:  # noqa: B008 - frozen
        path, title = await self._path(p)
        entries = await self.lockout.rules(path, p)
        options = {} if p.group else await self.proxmox.get(f"{path}/options") or {}
        cluster = options if path == CLUSTER and not p.group else await self.proxmox.get(f"{CLUSTER}/options") or {}
        here, whole = bool(p.group) or is_switched_on(options, path), is_switched_on(cluster, CLUSTER)
        with_, bare = await self._cards(path) if p.vmid is not None else ([], [])
        why = "" if here else "it is off at this level"
        if here and bare and not with_:
            why = f"no network card of it has firewall=1 ({', '.join(bare)}); set_guest_network"
        found = Firewall(
            of=title,
            switched=here,
            in_force=whole and not why,
            why=why if whole else "the cluster's firewall is off, so no other is in force",
            policy_in="" if p.group else one_line(options.get("policy_in") or RESTS["policy_in"]),
            policy_out="" if p.group else one_line(options.get("policy_out") or RESTS["policy_out"]),
            rules=[],
            digest=firewall_rules.digest(options, entries),
            options={key: one_line(value) for key, value in sorted(options.items()) if key not in _SHOWN},
            bare=bare,
            count=len(entries),
        )
        lines = firewall_rules.rule_lines(entries)
        return pages.fill(found, "rules", lines, lambda rule: f"{rule.pos:05d}", asked)

    async def _cards(self, path: str) -> tuple[list[str], list[str]]:
        """Return a guest's network cards with firewall=1, and those without it."""
        config = await self.proxmox.get(f"{path.removesuffix('/firewall')}/config") or {}
        cards = {key: str(value).split(",") for key, value in sorted(config.items()) if re.match(r"net\d+$", key)}
        seen = [key for key, options in cards.items() if "firewall=1" in options]
        return seen, [key for key in cards if key not in seen]


_SHOWN: Final = frozenset({"enable", "digest", *RESTS})
_SWITCHES: Final = {"macfilter": True, "ipfilter": False, "dhcp": False}


def _current_value(options: Entry, path: str, key: str) -> Any:  # noqa: ANN401 - a switch or a word
    """Return the current value of an option, or its default."""
    if key == "enable":
        return is_switched_on(options, path)
    if key in _SWITCHES:
        return is_on(options.get(key, _SWITCHES[key]))
    return str(options.get(key) or RESTS.get(key, "ACCEPT" if key == "policy_forward" else "nolog"))


def _wanted(p: UpdateFirewallOptions) -> Entry:
    """Return the options to change; raise Rejected for those that the level lacks."""
    level = "guest" if p.vmid is not None else "node" if p.node else "cluster"
    known = {option for names in OPTIONS.values() for option in names}
    wanted = {key: getattr(p, key) for key in sorted(known) if getattr(p, key) is not None}
    if not wanted or p.group:
        raise Rejected("update_firewall_options: give what to change, and of no security group, which has no options")
    for key in wanted:
        if key not in OPTIONS[level]:
            raise Rejected(f"{key}: the firewall of a {level} has none; it has {', '.join(OPTIONS[level])}")
    return wanted


def _selector_fields(p: FirewallSelector | CreateFirewallRule) -> Entry:
    return {key: value for key in ("node", "vmid", "group") if (value := getattr(p, key)) is not None}


def _name(p: FirewallSelector | CreateFirewallRule) -> str:
    return "firewall/" + next((f"{key}/{value}" for key, value in _selector_fields(p).items()), "cluster")


def _labels(p: FirewallSelector | CreateFirewallRule) -> list[str]:
    return [f"guest/{p.vmid}"] if p.vmid else [f"node/{p.node}"] if p.node else []


def _target(p: FirewallSelector | CreateFirewallRule, title: str, entries: list[Entry], *what: str) -> Target:
    return Target(_name(p), title, {"rules": firewall_rules.digest({}, entries)}, _labels(p), list(what))
