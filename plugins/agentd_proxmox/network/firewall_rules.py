"""Firewall rules: their text, how a caller selects one, what a change does; pure.

A rule has no name, so a caller selects it by its text.  Rules with the same text get a number in brackets, from the
second on.  The last of them has to be deleted first: otherwise a repeated call would delete the next one in place of
the one that is gone already.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from agentd import NotFound, Rejected, formats, key_of, one_line
from agentd_proxmox.model import fields, pages

if TYPE_CHECKING:
    Entry = dict[str, Any]

Address = Annotated[str, formats.full_match("[+A-Za-z0-9_.:/,-]{1,512}", "address, network, range, +ipset or alias")]
Ports = Annotated[str, formats.full_match("[A-Za-z0-9:,._+-]{1,256}", "80, 80:90, 80,443 or a name")]
Group = formats.SecurityGroup
Comment = Annotated[str, formats.full_match(r"[^\x00-\x1f\x7f]*", "one line", most=1024)]
Policy = Literal["ACCEPT", "REJECT", "DROP"]
Level = Literal["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug", "nolog"]
Position = Annotated[int, Meta(ge=0, le=10_000)]
WORDS: Final = {
    "macro": "",
    "iface": "on ",
    "source": "from ",
    "dest": "to ",
    "proto": "",
    "dport": "port ",
    "sport": "from port ",
    "icmp-type": "of type ",
    "log": "logged as ",
}
"""The fields of a rule in the order of its text, each with the word before it."""
KEYS: Final = tuple(WORDS)
"""The fields of a rule besides its type and action."""


class FirewallSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The firewall of a node, a guest or a security group, by default the cluster's."""

    node: fields.Node | None = None
    vmid: fields.Vmid | None = None
    group: Group | None = None


class Rule(msgspec.Struct, frozen=True, omit_defaults=True):
    """A rule; `rule` is its text, which selects it for a change or deletion."""

    pos: int
    rule: str
    enabled: bool
    comment: str = ""
    errors: list[str] = []


class RuleContent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of a rule.

    uses  apply the rules of this security group, on an interface or everywhere
    """

    direction: Literal["in", "out", "forward"] = "in"
    action: Policy = "ACCEPT"
    uses: Group | None = None
    source: Address | None = None
    dest: Address | None = None
    proto: Annotated[str, formats.full_match("[A-Za-z0-9.+/-]{1,32}")] | None = None
    dport: Ports | None = None
    sport: Ports | None = None
    icmp_type: Annotated[str, formats.full_match("[A-Za-z0-9-]{1,40}", "for example echo-request")] | None = None
    macro: Annotated[str, formats.full_match("[A-Za-z0-9]{1,128}", "for example SSH or HTTPS")] | None = None
    iface: Annotated[formats.Interface, Meta(description="for example net0 or vmbr0")] | None = None
    log: Level | None = None


class CreateFirewallRule(RuleContent, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of the new rule; it is added as the first, or at position `to`."""

    node: fields.Node | None = None
    vmid: fields.Vmid | None = None
    group: Group | None = None
    comment: Comment = ""
    enabled: bool = True
    to: Position = 0


class UpdateFirewallRule(FirewallSelector, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The rule, by its position and text (list_firewall), and its changes.

    becomes  the whole new content of the rule
    """

    pos: Position
    rule: str
    enabled: bool | None = None
    comment: Comment | None = None
    becomes: RuleContent | None = None
    to: Annotated[int, Meta(ge=0, le=10_000, description="move it to this position")] | None = None


class DeleteFirewallRule(FirewallSelector, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The rule, by its position and text (list_firewall)."""

    pos: Position
    rule: str


def is_on(value: Any) -> bool:  # noqa: ANN401 - a number, its text, or nothing
    """Return whether a switch is on, which Proxmox writes as a number or omits."""
    return bool(int(value or 0))


def rule_text(entry: Entry) -> str:
    """Return the text of a rule, in one line."""
    parts = (f"{word}{entry[key]}" for key, word in WORDS.items() if entry.get(key) not in (None, "", "nolog"))
    return one_line(" ".join([f"{entry.get('type')} {entry.get('action')}", *parts]))


def unique_texts(entries: list[Entry]) -> list[str]:
    """Return the texts of rules, with a number if an earlier rule has the same text."""
    texts = [rule_text(entry) for entry in entries]
    count = [texts[: number + 1].count(text) for number, text in enumerate(texts)]
    return [text if nth == 1 else f"{text} ({nth})" for text, nth in zip(texts, count, strict=True)]


def rule_lines(entries: list[Entry]) -> list[Rule]:
    """Return rules in the form of a result."""
    return [
        Rule(number, name, is_on(entry.get("enable")), comment(entry), _errors(entry))
        for number, (name, entry) in enumerate(zip(unique_texts(entries), entries, strict=True))
    ]


def _errors(entry: Entry) -> list[str]:
    """Return why Proxmox ignores a rule, such as for a set that no longer exists."""
    found = entry.get("errors") or {}
    return [f"{one_line(key)}: {one_line(text)}" for key, text in sorted(found.items())]


def comment(entry: Entry) -> str:
    """Return the comment of a rule without the mark of agentd."""
    text, mark = _comment(entry)
    return one_line(text if mark else str(entry.get("comment") or ""))


def keep_mark(entry: Entry, text: str) -> str:
    """Return `text` as a comment that keeps the mark of agentd."""
    return f"{text.strip()} {_comment(entry)[1]}".strip()


def _comment(entry: Entry) -> tuple[str, str]:
    """Return the text of a comment and the mark at its end, "" if it has none."""
    text, _, last = str(entry.get("comment") or "").rpartition(" ")
    return text, last if key_of(last) else ""


def rule_at(entries: list[Entry], pos: int, rule: str, title: str) -> Entry:
    """Return the rule at a position.

    Raises NotFound if no rule has the text `rule`, and Rejected if the rule is at another position.
    """
    called = unique_texts(entries)
    if pos < len(called) and called[pos] == rule:
        return entries[pos]
    if rule not in called:
        raise NotFound(f"rule: {title} has no rule {rule!r}; list_firewall lists those there are")
    there = repr(called[pos]) if pos < len(called) else "nothing"
    raise Rejected(f"pos: at {pos} {title} has {there}; {rule!r} is at {called.index(rule)} now")


def check_not_shadowed(entries: list[Entry], rule: str) -> None:
    """Reject a rule if a later one has the same text.

    A repeated call could not distinguish them.
    """
    same = [name for name in unique_texts(entries) if _plain(name) == _plain(rule)]
    if same[-1] != rule:
        raise Rejected(f"rule: {len(same)} rules read {_plain(rule)!r}; begin with the last of them, {same[-1]!r}")


def _plain(name: str) -> str:
    return re.sub(r" \(\d+\)$", "", name)


def digest(options: Entry, entries: list[Entry]) -> str:
    """Return a digest of the options and rules of a firewall."""
    settings = {key: str(value) for key, value in options.items() if key != "digest"}
    return pages.digest([settings, [[rule_text(entry), str(entry.get("enable") or 0)] for entry in entries]])


def rules_path(path: str, p: FirewallSelector | CreateFirewallRule) -> str:
    """Return the API path of the rules of a firewall."""
    return f"/cluster/firewall/groups/{p.group}" if p.group else f"{path}/rules"


def rule_parameters(p: RuleContent) -> Entry:
    """Return the content of a rule as parameters of Proxmox."""
    if p.uses:
        return {"type": "group", "action": p.uses, "iface": p.iface}
    values = {key: getattr(p, key.replace("-", "_")) for key in KEYS}
    return {"type": p.direction, "action": p.action, **values}


def rules_after(entries: list[Entry], p: UpdateFirewallRule) -> list[Entry]:
    """Return the rules as they are after the change."""
    entry = entries[p.pos]
    if p.to is not None:
        rest = [rule for rule in entries if rule is not entry]
        return [*rest[: p.to], entry, *rest[p.to :]]
    changed = dict(entry)
    if p.becomes is not None:
        changed = {key: value for key, value in entry.items() if key not in KEYS}
        changed |= {key: value for key, value in rule_parameters(p.becomes).items() if value is not None}
        changed = entry if rule_text(changed) == rule_text(entry) else changed
    if p.enabled is not None and is_on(entry.get("enable")) is not p.enabled:
        changed = changed | {"enable": int(p.enabled)}
    if p.comment is not None and p.comment.strip() != comment(entry):
        changed = changed | {"comment": keep_mark(entry, p.comment)}
    return [changed if rule is entry else rule for rule in entries]


def changed_settings(entry: Entry, p: UpdateFirewallRule) -> Entry:
    """Return the change of a rule as parameters of Proxmox."""
    if p.to is not None:
        return {"moveto": p.to + (p.to > p.pos)}  # Proxmox counts with the rule at its old place
    (changed,) = rules_after([entry], msgspec.structs.replace(p, pos=0))
    gone = [key for key in KEYS if entry.get(key) and key not in changed]
    new = {key: changed.get(key) for key in ("type", "action", *KEYS, "enable", "comment")}
    gone += ["comment"] if entry.get("comment") and not new["comment"] else []  # Proxmox ignores ""
    return {**{key: value for key, value in new.items() if entry.get(key) != value}, "delete": ",".join(gone) or None}


def is_moved(entries: list[Entry], p: UpdateFirewallRule) -> bool:
    """Return whether a rule is at its new position."""
    called = unique_texts(entries)
    return p.to is not None and bool(called) and called[min(p.to, len(called) - 1)] == p.rule


def is_changed(entries: list[Entry], p: UpdateFirewallRule) -> bool:
    """Return whether a rule has its new text, and no rule has the old one."""
    if p.becomes is None:
        return False
    called, text = unique_texts(entries), rule_text(rule_parameters(p.becomes))
    return text != p.rule and p.rule not in called and text in called


def change_text(p: UpdateFirewallRule) -> str:
    """Return a description of the change of a rule."""
    changes = [f"moves to position {p.to}"] if p.to is not None else []
    changes += [f"becomes {rule_text(rule_parameters(p.becomes))}"] if p.becomes is not None else []
    changes += ["is switched " + ("on" if p.enabled else "off")] if p.enabled is not None else []
    changes += ["gets another comment"] if p.comment is not None else []
    return f"{p.rule} {', '.join(changes)}"


def undo_parameters(entries: list[Entry], becoming: list[Entry], p: UpdateFirewallRule) -> dict[str, Any]:
    """Return the parameters that undo the change of a rule."""
    place = p.pos if p.to is None else becoming.index(entries[p.pos])
    found: dict[str, Any] = {"pos": place, "rule": unique_texts(becoming)[place]}
    if p.to is not None:
        return found | {"to": p.pos}
    entry = entries[p.pos]
    if p.becomes is not None:
        found["becomes"] = _as_parameters(entry)
    if p.enabled is not None:
        found["enabled"] = is_on(entry.get("enable"))
    return found | ({"comment": comment(entry)} if p.comment is not None else {})


def _as_parameters(entry: Entry) -> dict[str, Any]:
    """Return the content of a rule as parameters of our tools."""
    content = {key.replace("-", "_"): str(entry[key]) for key in KEYS if entry.get(key)}
    kind = {"direction": entry["type"], "action": entry["action"]}
    return content | ({"uses": entry["action"]} if entry["type"] == "group" else kind)


def recreate_parameters(entry: Entry, pos: int) -> dict[str, Any]:
    """Return the parameters that add a rule again at its position."""
    return {**_as_parameters(entry), "comment": comment(entry), "enabled": is_on(entry.get("enable")), "to": pos}


def rules_with(entries: list[Entry], rule: Entry, to: int) -> list[Entry]:
    """Return the rules with a new one at position `to`."""
    return [*entries[:to], rule, *entries[to:]]


def position_of_mark(entries: list[Entry], mark: str) -> int | None:
    """Return the position of the rule with the mark `mark`, or None."""
    found = (pos for pos, entry in enumerate(entries) if mark and _comment(entry)[1] == mark)
    return next(found, None)
