"""The thresholds of checks, with one precedence: guest > tag > node > type > default.  Pure.

An override is a key and the values that it changes; values that it does not name come from the next key:

    guest:101      one guest, by its VMID
    tag:database   guests with a tag; of several tags, the first in alphabetical order that has the value
    node:pve1      everything on a node
    type:lxc       guests of a type (qemu, lxc), or `type:storage` and so on

`pending_for` is how many seconds the value must be bad before its alert fires.  `enabled = false` switches a check off
for these objects.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from agentd import suggestion
from agentd_monitor.health.finding import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULTS: Final[dict[str, Limits]] = {
    "node_cpu": Limits(90, 80, None),
    "node_iowait": Limits(20, 10, None),
    "node_memory": Limits(92, 88, 97),
    "node_swap": Limits(80, 60, None),
    "node_rootfs": Limits(85, 80, 95),
    "guest_cpu": Limits(95, 85, None),
    "guest_memory": Limits(95, 90, None),
    "guest_disk": Limits(85, 80, 95),
    "storage_usage": Limits(85, 80, 95),
    "zfs_usage": Limits(85, 80, 95),
    "thin_pool_data": Limits(80, 75, 90),
    "thin_pool_metadata": Limits(70, 65, 85),
    "certificate": Limits(21, 22, 7),
    "subscription": Limits(30, 31, None),
    "disk_wear": Limits(10, 12, 3),
    "snapshot_age": Limits(14, 13, 30),
    "snapshot_count": Limits(11, 10, None),
    "replication_age": Limits(90, 60, None),
    "clock": Limits(3, 2, 10),
    "task_failures": Limits(3, 2, None),
}
"""Percent, days, minutes (replication_age), seconds (clock), or a number, as the check says."""

KEY: Final = re.compile(r"guest:\d+|(tag|node|type):\S+")
VALUES: Final = frozenset({"warning", "clear", "critical", "pending_for", "enabled"})
TAGS: Final = re.compile(r"[;, ]+")


class Thresholds:
    """The defaults and the overrides.

    overrides  by key, then by check: {"guest:101": {"guest_cpu": {"warning": 99}}}
    """

    def __init__(self, overrides: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None) -> None:
        self._overrides = overrides or {}

    def limits(self, check: str, about: Mapping[str, Any]) -> Limits | None:
        """Return the thresholds for an object, None if the check is switched off for it.

        about  the object, with those of `vmid`, `tags`, `node` and `type` that it has
        """
        chosen: dict[str, Any] = dict(DEFAULTS[check]._asdict()) if check in DEFAULTS else {}
        for key in reversed(precedence(about)):
            chosen |= self._overrides.get(key, {}).get(check, {})
        if not chosen.pop("enabled", True):
            return None
        return Limits(**chosen)

    def enabled(self, check: str, about: Mapping[str, Any], *, default: bool = True) -> bool:
        """Return whether a check is switched on for an object.

        Without an override, it is `default`.
        """
        held = (self._overrides.get(key, {}).get(check, {}).get("enabled") for key in precedence(about))
        return next((bool(value) for value in held if value is not None), default)


def precedence(about: Mapping[str, Any]) -> list[str]:
    """Return the keys of an object, the most specific first."""
    tags = sorted(tag for tag in TAGS.split(str(about.get("tags") or "")) if tag)
    keys = [f"guest:{about['vmid']}"] if about.get("vmid") is not None else []
    keys += [f"tag:{tag}" for tag in tags]
    return keys + [f"{name}:{about[name]}" for name in ("node", "type") if about.get(name)]


def problems(overrides: Mapping[str, Mapping[str, Mapping[str, Any]]], checks: frozenset[str]) -> list[str]:
    """Return what is wrong with overrides, a sentence each.

    Keys, checks, values and their order are checked.
    """
    found: list[str] = []
    for key, by_check in overrides.items():
        if not KEY.fullmatch(key):
            found.append(f"{key}: write guest:VMID, tag:TAG, node:NODE or type:TYPE")
        for check, values in by_check.items():
            if check not in checks:
                found.append(
                    f"{key}: no check has the name {check}{suggestion(check, sorted(checks), shown=len(checks))}"
                )
            found += [f"{key}.{check}: unknown value {name}" for name in sorted(set(values) - VALUES)]
            if check not in DEFAULTS and set(values) - {"enabled"}:
                found.append(f"{key}.{check}: this check has no thresholds; only `enabled` can be set")
            elif check in DEFAULTS:
                found += _order_problems(check, f"{key}.{check}", {**DEFAULTS[check]._asdict(), **values})
    return found


def _order_problems(check: str, where: str, values: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the order of thresholds.

    Thresholds in the wrong order would mean the opposite.
    """
    figures = [values["clear"], values["warning"], *([values["critical"]] if values["critical"] is not None else [])]
    if not all(isinstance(figure, int | float) for figure in (*figures, values["pending_for"] or 0)):
        return [f"{where}: thresholds are numbers"]
    if (values["pending_for"] or 0) < 0:
        return [f"{where}: pending_for is a number of seconds, 0 or more"]
    low_is_bad = DEFAULTS[check].clear > DEFAULTS[check].warning
    if figures != sorted(figures, reverse=low_is_bad):
        order = "clear >= warning >= critical" if low_is_bad else "clear <= warning <= critical"
        return [f"{where}: must be {order}, not {', '.join(f'{figure:g}' for figure in figures)}"]
    return []
