"""Firewalls of the cluster, of nodes, of guests and security groups: options and rules.

Rules have no names, only positions, and these move when others come and go.  So a rule is named by its position and by
what it says there; one that says something else is left alone.  A rule that is added bears the mark of its call at the
end of its comment.  Whatever opens or closes something is of tier `destroy`: it may let a stranger in, or shut
everybody out, and with them the API by which it could be taken back.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import Meta

from agentd.answers import one_line
from agentd.errors import ConfigChanged, NotFound, Rejected, TaskFailed
from agentd.messages import Target, Tier
from agentd.tools import Call, Found, Repeat, tool
from agentd_proxmox import fields, look, methods, pages

if TYPE_CHECKING:
    from agentd_proxmox.inventory import Inventory
    from agentd_proxmox.methods import Calls, Needs

    Entry = dict[str, Any]

CLUSTER: Final = "/cluster/firewall"
LEVELS: Final = (
    CLUSTER,
    "/nodes/{node}/firewall",
    *(f"/nodes/{{node}}/{kind}/{{vmid}}/firewall" for kind in ("qemu", "lxc")),
)
RULES: Final = (*(f"{each}/rules" for each in LEVELS), f"{CLUSTER}/groups/{{group}}")
SEEN: Final = (*methods.PLACES, *(f"GET {each}/options" for each in LEVELS), *(f"GET {each}" for each in RULES))
MANAGED: Final = ("8006", "22")
"""Ports without which nobody reaches the API and a shell of a node."""
Address = Annotated[
    str, Meta(pattern=r"^[+A-Za-z0-9_.:/,-]{1,512}$", description="address, network, range, +ipset or alias")
]
Ports = Annotated[str, Meta(pattern=r"^[A-Za-z0-9:,-]{1,256}$", description="80, 80:90, 80,443 or a name")]
Group = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_-]{1,17}$", description="name of a security group")]
Policy = Literal["ACCEPT", "REJECT", "DROP"]


class Where(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whose firewall: a node's, a guest's, a security group's, or without any of them the cluster's."""

    node: fields.Node | None = None
    vmid: fields.Vmid | None = None
    group: Group | None = None


class Rule(msgspec.Struct, frozen=True, omit_defaults=True):
    """A rule; `rule` is what it says, by which it is named to change or delete it."""

    pos: int
    rule: str
    enabled: bool
    comment: str = ""


class Firewall(msgspec.Struct, frozen=True):
    """A firewall: what it does by default, its rules in their order, and whether all that is in force.

    switched  on or off at this level; it counts only while the cluster's is on too (`in_force`)
    """

    of: str
    switched: bool
    in_force: bool
    why: str
    policy_in: str
    policy_out: str
    rules: list[Rule]
    digest: str


class AddRule(Where, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the new rule says; it becomes the first.  With `uses` it is a security group's rules and nothing else."""

    direction: Literal["in", "out", "forward"] = "in"
    action: Policy = "ACCEPT"
    uses: Group | None = None
    source: Address | None = None
    dest: Address | None = None
    proto: Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,20}$")] | None = None
    dport: Ports | None = None
    sport: Ports | None = None
    macro: Annotated[str, Meta(pattern=r"^[A-Za-z0-9]{1,32}$", description="for example SSH or HTTPS")] | None = None
    iface: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,20}$", description="for example net0 or vmbr0")] | None = (
        None
    )
    comment: Annotated[str, Meta(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""
    enabled: bool = True


class ChangeRule(Where, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which rule, by its position and what it says (list_firewall), and what is to become of it."""

    pos: Annotated[int, Meta(ge=0, le=10_000)]
    rule: str
    enabled: bool | None = None
    to: Annotated[int, Meta(ge=0, le=10_000, description="move it to this position")] | None = None


class DeleteRule(Where, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which rule, by its position and what it says (list_firewall)."""

    pos: Annotated[int, Meta(ge=0, le=10_000)]
    rule: str


class SetOptions(Where, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to change; what is left out stays.

    locked_out  switch the cluster's firewall on although no rule lets anybody reach a node's API and shell
    """

    enable: bool | None = None
    policy_in: Policy | None = None
    policy_out: Policy | None = None
    digest: str = ""
    locked_out: bool = False


class Firewalls:
    """The tools for firewalls."""

    calls: ClassVar[Calls] = {
        "list_firewall": SEEN,
        "add_firewall_rule": (*SEEN, *(f"POST {each}" for each in RULES)),
        "change_firewall_rule": (*SEEN, *(f"PUT {each}/{{pos}}" for each in RULES)),
        "delete_firewall_rule": (*SEEN, *(f"DELETE {each}/{{pos}}" for each in RULES)),
        "set_firewall_options": (*SEEN, *(f"PUT {each}/options" for each in LEVELS)),
    }
    needs: ClassVar[Needs] = {each: methods.on(methods.VM, "VM.Audit") for each in calls}

    def __init__(self, inventory: Inventory) -> None:
        """Keep where guests are found."""
        self.inventory = inventory
        self.proxmox = inventory.proxmox

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="network_management")
    async def list_firewall(self, call: Call, p: Where) -> Firewall:  # noqa: ARG002 - every tool has a call
        """Show a firewall: whether it is in force, what it does by default, and its rules in their order."""
        return await self._read(p)

    @tool(tier=Tier.DESTROY, repeat=Repeat.MARKED, capability="network_management")
    async def add_firewall_rule(self, call: Call, p: AddRule) -> Firewall:
        """Add a rule to a firewall as its first; it counts at once if the firewall is in force."""
        path, title = await self._path(p)
        sent = _sent(p)
        mark = look.mark(call.key) if call.key else ""

        async def seen() -> Found | None:
            entries = await self._rules(path, p)
            if mark and any(str(each.get("comment") or "").endswith(mark) for each in entries):
                return Found()
            call.target(_target(p, title, entries, f"{_says(sent)} is added"))
            return None

        async def act() -> None:
            comment = f"{p.comment} {mark}".strip()
            await self.proxmox.post(_list(path, p), **sent, comment=comment or None)

        await call.once(seen, act)
        found = await self._read(p)
        if mark and not any(str(e.get("comment") or "").endswith(mark) for e in await self._rules(path, p)):
            raise TaskFailed(f"Proxmox says that it was done, and {title} has no such rule")
        return found

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="network_management")
    async def change_firewall_rule(self, call: Call, p: ChangeRule) -> Firewall:
        """Switch a rule on or off, or move it to another position."""
        if (p.enabled is None) == (p.to is None):
            raise Rejected("change_firewall_rule: say either enabled or to; one thing at a time")
        path, title = await self._path(p)
        at: list[str] = []

        async def seen() -> Found | None:
            entries = await self._rules(path, p)
            if p.to is not None and p.to != p.pos and _at(entries, min(p.to, len(entries) - 1)) == p.rule:
                return Found()
            _hold(entries, p.pos, p.rule, title)
            if p.enabled is not None and bool(int(entries[p.pos].get("enable") or 0)) is p.enabled:
                return Found()
            what = f"moves to position {p.to}" if p.to is not None else "is switched " + ("on" if p.enabled else "off")
            call.target(_target(p, title, entries, f"{p.rule} {what}"))
            at.append(str(entries[p.pos].get("digest") or ""))
            return None

        async def act() -> None:
            place = None if p.to is None else p.to + (p.to > p.pos)  # Proxmox counts before the rule has left
            await self.proxmox.put(
                f"{_list(path, p)}/{p.pos}", enable=p.enabled, moveto=place, digest="".join(at[:1]) or None
            )

        await call.once(seen, act)
        return await self._read(p)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="network_management")
    async def delete_firewall_rule(self, call: Call, p: DeleteRule) -> Firewall:
        """Delete a rule; one that is at its position no more is left alone."""
        path, title = await self._path(p)
        at: list[str] = []

        async def seen() -> Found | None:
            entries = await self._rules(path, p)
            if p.rule not in map(_says, entries):
                return Found()
            _hold(entries, p.pos, p.rule, title)
            call.target(_target(p, title, entries, f"{p.rule} is deleted"))
            at.append(str(entries[p.pos].get("digest") or ""))
            return None

        async def act() -> None:
            await self.proxmox.delete(f"{_list(path, p)}/{p.pos}", digest="".join(at[:1]) or None)

        await call.once(seen, act)
        return await self._read(p)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="network_management")
    async def set_firewall_options(self, call: Call, p: SetOptions) -> Firewall:
        """Switch a firewall on or off, or change what it does with what no rule speaks of."""
        wanted = {"enable": p.enable, "policy_in": p.policy_in, "policy_out": p.policy_out}
        wanted = {key: value for key, value in wanted.items() if value is not None}
        if not wanted or p.group:
            raise Rejected("set_firewall_options: say enable, policy_in or policy_out, and of no security group")
        if p.node and set(wanted) - {"enable"}:
            raise Rejected("node: a node has no policy of its own, the cluster's counts; leave policy_in and _out out")
        path, title = await self._path(p)

        async def seen() -> Found | None:
            options = await self.proxmox.get(f"{path}/options") or {}
            if p.digest and p.digest != _digest(options, await self._rules(path, p)):
                raise ConfigChanged(f"{title} was changed since it was read: look again, then decide again")
            now = {"enable": _on(options, path), **{key: options.get(key, _DEFAULTS[key]) for key in _DEFAULTS}}
            if all(now[key] == value for key, value in wanted.items()):
                return Found()
            if path == CLUSTER and p.enable and not p.locked_out:
                _reachable(await self._rules(path, p), wanted.get("policy_in", now["policy_in"]))
            changes = ", ".join(f"{key}: {now[key]} → {value}" for key, value in wanted.items())
            call.target(Target(_name(p), title, {key: now[key] for key in wanted}, [], [changes]))
            call.inverse("set_firewall_options", {**_of(p), **{key: now[key] for key in wanted}})
            return None

        async def act() -> None:
            await self.proxmox.put(f"{path}/options", **wanted)

        await call.once(seen, act)
        return await self._read(p)

    async def _path(self, p: Where) -> tuple[str, str]:
        """Return where a firewall lies in the API, and what a person calls it."""
        if sum(each is not None for each in (p.node, p.vmid, p.group)) > 1:
            raise Rejected("name a node, a vmid or a group, one of them; none is the cluster's firewall")
        if p.vmid is not None:
            at = await self.inventory.find(p.vmid)
            return f"{at.path}/firewall", f"firewall of {at.title}"
        if p.node is not None:
            return f"/nodes/{p.node}/firewall", f"firewall of the node {p.node}"
        return CLUSTER, f"security group {p.group}" if p.group else "firewall of the cluster"

    async def _rules(self, path: str, p: Where) -> list[Entry]:
        found: list[Entry] = await self.proxmox.get(_list(path, p)) or []
        return sorted(found, key=lambda each: int(each.get("pos") or 0))

    async def _read(self, p: Where) -> Firewall:
        path, title = await self._path(p)
        entries = await self._rules(path, p)
        options = {} if p.group else await self.proxmox.get(f"{path}/options") or {}
        cluster = options if path == CLUSTER and not p.group else await self.proxmox.get(f"{CLUSTER}/options") or {}
        switched, whole = bool(p.group) or _on(options, path), _on(cluster, CLUSTER)
        why = "" if whole else "the cluster's firewall is off, so no other is in force"
        return Firewall(
            of=title,
            switched=switched,
            in_force=switched and whole,
            why=why or ("" if switched else "it is off at this level"),
            policy_in=one_line(options.get("policy_in") or _DEFAULTS["policy_in"]),
            policy_out=one_line(options.get("policy_out") or _DEFAULTS["policy_out"]),
            rules=[_line(number, each) for number, each in enumerate(entries)],
            digest=_digest(options, entries),
        )


_DEFAULTS: Final = {"policy_in": "DROP", "policy_out": "ACCEPT"}


def _list(path: str, p: Where) -> str:
    return f"{CLUSTER}/groups/{p.group}" if p.group else f"{path}/rules"


def _on(options: Entry, path: str) -> bool:
    """Tell whether a firewall is switched on: that of a node is unless somebody says otherwise."""
    return bool(int(options.get("enable", int(re.fullmatch(r"/nodes/[^/]+/firewall", path) is not None)) or 0))


def _sent(p: AddRule) -> Entry:
    if p.uses:
        return {"type": "group", "action": p.uses, "iface": p.iface, "enable": int(p.enabled)}
    said = {key: getattr(p, key) for key in ("source", "dest", "proto", "dport", "sport", "macro", "iface")}
    return {"type": p.direction, "action": p.action, "enable": int(p.enabled), **said}


def _says(entry: Entry) -> str:
    """Return what a rule says, in one line."""
    words = [f"{entry.get('type')} {entry.get('action')}"]
    names = {
        "macro": "",
        "iface": "on ",
        "source": "from ",
        "dest": "to ",
        "proto": "",
        "dport": "port ",
        "sport": "from port ",
    }
    words += [f"{word}{entry[key]}" for key, word in names.items() if entry.get(key)]
    return one_line(" ".join(words))


def _line(number: int, entry: Entry) -> Rule:
    comment = str(entry.get("comment") or "").partition(look.PREFIX)[0]
    return Rule(number, _says(entry), bool(int(entry.get("enable") or 0)), one_line(comment))


def _at(entries: list[Entry], pos: int) -> str:
    return _says(entries[pos]) if 0 <= pos < len(entries) else ""


def _hold(entries: list[Entry], pos: int, rule: str, title: str) -> None:
    """Refuse a rule that does not say any more what the caller thinks."""
    if _at(entries, pos) != rule:
        where = [str(number) for number, each in enumerate(entries) if _says(each) == rule]
        if not where:
            raise NotFound(f"rule: {title} has no rule {rule!r}; list_firewall says which there are")
        raise Rejected(f"pos: at {pos} {title} says {_at(entries, pos)!r}; {rule!r} is at {', '.join(where)} now")


def _digest(options: Entry, entries: list[Entry]) -> str:
    said = {key: str(value) for key, value in options.items() if key != "digest"}
    return pages.digest([said, [[_says(each), str(each.get("enable") or 0)] for each in entries]])


def _of(p: Where) -> Entry:
    return {key: value for key in ("node", "vmid", "group") if (value := getattr(p, key)) is not None}


def _name(p: Where) -> str:
    return "firewall/" + next((f"{key}/{value}" for key, value in _of(p).items()), "cluster")


def _target(p: Where, title: str, entries: list[Entry], what: str) -> Target:
    labels = [f"guest/{p.vmid}"] if p.vmid else [f"node/{p.node}"] if p.node else []
    return Target(_name(p), title, {"rules": _digest({}, entries)}, labels, [what])


def _reachable(entries: list[Entry], policy: object) -> None:
    """Refuse to switch the cluster's firewall on where no rule lets anybody in to a node's API and shell.

    Proxmox itself lets the local network in, and nobody else.
    """
    if policy == "ACCEPT":
        return
    open_ = [e for e in entries if int(e.get("enable") or 0) and e.get("type") == "in" and e.get("action") == "ACCEPT"]
    groups = any(e.get("type") == "group" and int(e.get("enable") or 0) for e in entries)
    ports = {port for e in open_ for port in re.split("[,:]", str(e.get("dport") or ""))}
    wide = any(not e.get("dport") and not e.get("macro") for e in open_)
    if not (
        groups or wide or set(MANAGED) <= ports | ({"22"} if any(e.get("macro") == "SSH" for e in open_) else set())
    ):
        raise Rejected(
            f"no rule of the cluster lets anybody reach the ports {' and '.join(MANAGED)} of the nodes: outside of "
            "their own network nobody would; add_firewall_rule first, or say locked_out=true"
        )
