# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the firewalls of the simulated cluster have logged; all else of them is fakepve's own.

Lines as pve-firewall writes them: the guest's number (0: the node itself), its log id, the chain, the time, the text.
The schema's `start` and `limit` count from the oldest line; the answer has the total beside its data, and says of an
file that does not exist that it cannot be opened, as a line that is counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fakepve import PveError

from pve.nodes.status import Nodes

if TYPE_CHECKING:
    from pve.foreign import Data, Routes, Values

NO_FILE = "unable to open file - No such file or directory"
LINE = "{vmid} 6 {chain} 23/Nov/2026:10:{minute:02d}:00 +0000 policy DROP: IN=vmbr0 SRC=192.0.2.{minute} DPT={port}"


class FirewallLog(Nodes):
    """Mixin of the simulator: /nodes/{node}/firewall/log; pve3 has logged nothing."""

    def _routes_sim_firewall_log(self) -> Routes:
        return [("GET", "/nodes/{node}/firewall/log", self._firewall_log)]

    async def _fw_rules_get(self, scope: str, v: Values, user: str) -> list[Values]:
        """List rules; real PVE: one that names what does not exist has `errors`, and creating it is not refused."""
        rules = await super()._fw_rules_get(scope, v, user)
        conf = self.firewall_config(scope, v.get("node"), v.get("vmid"))
        for rule in rules:
            try:
                self._check_rule(scope, {k: e for k, e in rule.items() if k not in ("pos", "digest")}, conf)
            except PveError as error:
                rule["errors"] = error.errors or {"rule": error.message}
        return list(rules)

    async def _firewall_log(self, v: Values, _user: str) -> Data:
        lines = []
        for minute in range(60 if v["node"] != "pve3" else 0):
            vmid, port = ((0, 8006), (100, 22), (1000, 443))[minute % 3]
            chain = f"tap{vmid}i0-IN" if vmid else "PVEFW-HOST-IN"
            lines.append(LINE.format(vmid=vmid, chain=chain, minute=minute, port=port))
        start, limit = int(v.get("start") or 0), int(v.get("limit") or 50)
        shown = [{"n": n, "t": text} for n, text in enumerate(lines, 1)][start : start + limit]
        return self.paged(shown or [{"n": 1, "t": NO_FILE}], len(lines) or 1)
