"""The risks of changing a guest, shown to the principal that has to approve.

Risks are, for example: it runs, its tags, HA, the age of its backup.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Any, Final

from agentd import AgentdError, is_dry_run, one_line
from agentd_proxmox.model import guest_model

if TYPE_CHECKING:
    from agentd_proxmox.inventory import GuestLocation, Inventory

DAY: Final = 86_400
LONG: Final = 7 * DAY
"""Seconds of uptime from which on it is given in days."""
_PRECIOUS: Final = re.compile(r"(?i)(prod|keep|crit|important|protect|live\Z|vital|no-?(delete|touch)|do-?not)")
"""Tags that suggest that a guest must be kept, even if [policy] protected does not name them."""


async def risks_of(
    inventory: Inventory, at: GuestLocation, config: guest_model.Config, status: dict[str, Any]
) -> list[str]:
    """Return the risks of changing the guest; [] unless this is a dry run."""
    if not is_dry_run():
        return []
    found = _visible_risks(config, status)
    return [*found, await _backup(inventory, at)]


def _visible_risks(config: guest_model.Config, status: dict[str, Any]) -> list[str]:
    found = []
    if status.get("status") == "running":
        uptime = int(status.get("uptime") or 0)
        since = f" for {uptime // DAY} days" if uptime >= LONG else f" for {uptime // 60} minutes"
        found.append(f"it runs{since}" if uptime else "it runs")
    found += [f"tag {tag}" for tag in guest_model.split_tags(config.get("tags")) if _PRECIOUS.match(tag)]
    if guest_model.enabled(config.get("protection")):
        found.append("its option `protection` is on")
    if (status.get("ha") or {}).get("managed"):
        found.append("HA manages it")
    if config.get("template"):
        found.append("it is a template")
    return found


async def _backup(inventory: Inventory, at: GuestLocation) -> str:
    """Return the age of the newest backup that this token can see, as a text."""
    try:
        entries = await inventory.resources("storage")
    except AgentdError as error:
        return f"its backups are not known ({error})"
    names = sorted(
        {
            str(entry["storage"])
            for entry in entries
            if entry.get("node") == at.node and "backup" in str(entry.get("content") or "").split(",")
        }
    )
    answers = await asyncio.gather(*(_newest(inventory, at, name) for name in names))
    unread = [name for name, newest in zip(names, answers, strict=True) if newest is None]
    times = [newest for newest in answers if newest]
    more = f" (not read: {', '.join(map(one_line, unread))})" if unread else ""
    if not times:
        return f"no backup that this token can see{more}"
    age = max(0, int(time.time()) - max(times))
    old = f"{age // DAY} days" if age >= DAY else f"{age // 3600} hours"
    return f"its last backup is {old} old{more}"


async def _newest(inventory: Inventory, at: GuestLocation, storage: str) -> int | None:
    """Return the time of the newest backup on a storage.

    It is 0 if there is none, None if the storage cannot be read.
    """
    path = f"/nodes/{at.node}/storage/{storage}/content"
    try:
        entries = await inventory.proxmox.get(path, content="backup", vmid=at.vmid) or []
    except AgentdError:
        return None
    return max((int(entry.get("ctime") or 0) for entry in entries), default=0)
