"""The firewall log of a node, or the lines of one guest in it.

To read a guest's own log, a token needs the right to its console.  The log of the node has the same lines and needs
only the right to logs, so the lines are filtered from there.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Final

import msgspec
from msgspec import Meta

from agentd import Call, Rejected, Repeat, Tier, one_line, tool
from agentd_proxmox import area
from agentd_proxmox.model import fields

MAX_LOG_LINES: Final = 5000
"""Number of lines at the end of a node's log that are searched."""


_NOTHING: Final = re.compile(r"no content|unable to open file")


class GetFirewallLog(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The node or the guest.

    match  only lines that contain this text, in upper or lower case
    """

    node: fields.Node | None = None
    vmid: fields.Vmid | None = None
    match: Annotated[str, Meta(max_length=100)] = ""
    lines: Annotated[int, Meta(ge=1, le=500)] = 30


class FirewallLog(msgspec.Struct, frozen=True):
    """The last matching lines, newest last; searched: number of searched lines."""

    node: str
    searched: int
    lines: list[str]


class FirewallLogs(area.Area):
    """The tool for the logs of firewalls."""

    needs: ClassVar[area.Needs] = {"get_firewall_log": area.with_path(area.VM, "VM.Audit")}

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="network_management")
    async def get_firewall_log(self, call: Call, p: GetFirewallLog) -> FirewallLog:
        """Read the end of a firewall's log.

        A rule or default policy only logs if its log level is set.
        """
        if (p.node is None) == (p.vmid is None):
            raise Rejected("name a node or the vmid of a guest, one of both")
        node = p.node or (await self.inventory.find(p.vmid)).node
        path = f"/nodes/{node}/firewall/log"
        total = int((await self.proxmox.whole(path, limit=1)).get("total") or 0)
        found = await self.proxmox.get(path, start=max(0, total - MAX_LOG_LINES), limit=MAX_LOG_LINES) or []
        lines = [one_line(entry["t"]) for entry in found if total]
        if len(lines) == 1 and _NOTHING.match(lines[0]):  # Proxmox returns it as a line of the log
            call.warn(f"{node} has logged nothing yet: {lines[0]}")
            lines = []
        fitting = [line for line in lines if p.match.lower() in line.lower()]
        if p.vmid is not None:  # a line begins with the VMID of the guest, 0 for the node itself
            fitting = [line for line in fitting if line.split(" ", 1)[0] == str(p.vmid)]
        return FirewallLog(node, len(lines), fitting[-p.lines :])
