# SPDX-License-Identifier: AGPL-3.0-or-later
"""High availability of the simulated cluster: resources, rules, groups, and a manager that moves guests.

fakepve answers these with its schema alone.  Parameters and answers are the schema's.  A guest under HA is not moved
by its node: the API hands the request to the HA manager, the task `hamigrate` ends at once, and the manager starts
the migration some seconds later as root@pam.  Proxmox VE 9 has turned groups into rules and answers 500 for them
(measured on 9.2.11 by others: "cannot index groups: ha groups have been migrated to rules").
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING

from fakepve.routing import die, param_error, split_list

from pve.guests.volumes import Volumes

if TYPE_CHECKING:
    from pve.foreign import Data, Guest, Record, Routes, Values

GROUPS_GONE = "ha groups have been migrated to rules"


def digest(value: object) -> str:
    """Return the digest of a section of a file."""
    return hashlib.sha1(json.dumps(value, sort_keys=True).encode(), usedforsecurity=False).hexdigest()


class Ha(Volumes):
    """Mixin of the simulator: /cluster/ha."""

    def __init__(self, *args: Data, **kwargs: Data) -> None:
        """Start without anything under HA."""
        super().__init__(*args, **kwargs)
        self.ha_movers: set[asyncio.Task[None]] = set()
        self.reset_ha()

    def reset_ha(self) -> None:
        """Forget what is under HA; groups are those of Proxmox VE 8, off unless a test turns them on."""
        self.ha_resources: dict[str, Record] = {}
        self.ha_rules: dict[str, Record] = {}
        self.ha_groups: dict[str, Record] = {}
        self.ha_has_groups = 0.0
        self.ha_lag = 0.0
        self.ha_moving: dict[str, str] = {}
        for mover in self.ha_movers:
            mover.cancel()

    def _routes_sim_ha(self) -> Routes:
        ha = "/cluster/ha"
        return [
            ("GET", ha + "/resources", self._ha_list),
            ("POST", ha + "/resources", self._ha_add),
            ("GET", ha + "/resources/{sid}", self._ha_show),
            ("PUT", ha + "/resources/{sid}", self._ha_change),
            ("DELETE", ha + "/resources/{sid}", self._ha_remove),
            ("GET", ha + "/status/current", self._ha_status),
            ("GET", ha + "/rules", self._rule_list),
            ("POST", ha + "/rules", self._rule_add),
            ("GET", ha + "/rules/{rule}", self._rule_show),
            ("PUT", ha + "/rules/{rule}", self._rule_change),
            ("DELETE", ha + "/rules/{rule}", self._rule_remove),
            ("GET", ha + "/groups", self._group_list),
            ("POST", ha + "/groups", self._group_add),
            ("GET", ha + "/groups/{group}", self._group_show),
            ("PUT", ha + "/groups/{group}", self._group_change),
            ("DELETE", ha + "/groups/{group}", self._group_remove),
        ]

    def _need_ha_quorum(self) -> None:
        if not self.quorate:
            raise die("cfs-lock 'domain-ha' error: no quorum!")

    @staticmethod
    def _edit(section: Record, v: Values, names: tuple[str, ...]) -> None:
        """Change a section; real PVE compares the digest first."""
        if v.get("digest") and v["digest"] != digest(section):
            raise die("checksum mismatch (file change by other user?)")
        for key in split_list(v.get("delete")):
            section.pop(key, None)
        section |= {key: value for key, value in v.items() if key not in ("digest", "delete", *names)}

    # ---------------------------------------------------------------- resources

    def _sid(self, text: str) -> str:
        """Return the full name of a service; a bare VMID means it too."""
        if ":" in text:
            return text
        guest = self.guest(int(text))
        return f"{'ct' if guest in self.cts else 'vm'}:{text}"

    def _ha_one(self, v: Values) -> tuple[str, Record]:
        sid = self._sid(v["sid"])
        if sid not in self.ha_resources:
            raise die(f"no such resource '{sid}'")
        return sid, self.ha_resources[sid]

    def _shown(self, section: Record) -> Record:
        return section | {"digest": digest(section)}

    async def _ha_list(self, v: Values, _user: str) -> list[Values]:
        return [self._shown(e) for e in self.ha_resources.values() if v.get("type") in (None, e["type"])]

    async def _ha_show(self, v: Values, _user: str) -> Values:
        return self._shown(self._ha_one(v)[1])

    async def _ha_add(self, v: Values, _user: str) -> None:
        self._need_ha_quorum()
        sid = self._sid(v["sid"])
        self._no_group(v)
        if sid in self.ha_resources:
            raise die(f"resource ID '{sid}' already defined")
        guest = self.guest(int(sid.partition(":")[2]))
        if guest is None:
            raise die(f"unable to find configuration file for VM {sid.partition(':')[2]} on node")
        kept = {key: value for key, value in v.items() if key != "sid"}
        self.ha_resources[sid] = {"sid": sid, "type": sid.partition(":")[0], "state": "started"} | kept
        self._ha_settle(guest, self.ha_resources[sid])

    async def _ha_change(self, v: Values, _user: str) -> None:
        self._need_ha_quorum()
        sid, section = self._ha_one(v)
        self._no_group(v)
        self._edit(section, v, ("sid",))
        self._ha_settle(self.guest(int(sid.partition(":")[2])), section)

    async def _ha_remove(self, v: Values, _user: str) -> None:
        """Remove a resource; real PVE: with purge (the default) from the rules that name it, too."""
        self._need_ha_quorum()
        sid, _ = self._ha_one(v)
        del self.ha_resources[sid]
        guest = self.guest(int(sid.partition(":")[2]))
        if guest is not None:
            guest.ha_state = None
        for name, rule in list(self.ha_rules.items()) if v.get("purge", 1) else []:
            left = [part for part in split_list(rule["resources"]) if part != sid]
            rule["resources"] = ",".join(left)
            if not left:
                del self.ha_rules[name]

    def _no_group(self, v: Values) -> None:
        if v.get("group") and not self.ha_has_groups:
            raise param_error(group=f"invalid parameter 'group': {GROUPS_GONE}")

    @staticmethod
    def _ha_settle(guest: Guest, section: Record) -> None:
        """Bring a guest into the state that the manager is asked for."""
        guest.ha_state = section["state"]
        if section["state"] in ("started", "enabled"):
            guest.status = "running"
        elif section["state"] in ("stopped", "disabled"):
            guest.status = "stopped"
        if hasattr(guest, "qmpstatus"):
            guest.qmpstatus = guest.status

    async def _ha_status(self, _v: Values, _user: str) -> list[Values]:
        """Answer as the schema says: quorum, master, the local managers, and each service."""
        here = self.local_node
        answer: list[Values] = [
            {"id": "quorum", "type": "quorum", "node": here, "status": "OK", "quorate": int(self.quorate)},
            {"id": "master", "type": "master", "node": here, "status": f"{here} (active)", "armed-state": "armed"},
        ]
        for node in self.nodes:
            state = "active" if self.is_online(node) else "old timestamp - dead?"
            answer.append({"id": f"lrm:{node}", "type": "lrm", "node": node, "status": f"{node} ({state})"})
        for sid, section in self.ha_resources.items():
            guest = self.guest(int(sid.partition(":")[2]))
            state = "migrate" if sid in self.ha_moving else section["state"]
            answer.append({
                "id": f"service:{sid}", "type": "service", "sid": sid, "node": guest.node, "state": state,
                "crm_state": state, "request_state": section["state"], "status": f"{sid} ({guest.node}, {state})",
            })  # fmt: skip
        return answer

    # ---------------------------------------------------------------- migration

    async def _migrate(self, v: Values, user: str) -> str:
        """Hand the migration of a VM under HA to the manager, after the checks that the API makes itself."""
        vm = self.vm(v["vmid"])
        if vm is None or not vm.ha_managed:
            return await super()._migrate(v, user)
        self.check_migration(v)
        return await self._ha_requested(vm, "VM", v["target"], user)

    async def _lxc_migrate(self, user: str, v: Values) -> str:
        ct = self.ct(v["vmid"])
        if ct is None or not ct.ha_managed:
            return await self._lxc_move(ct, user, v)
        return await self._ha_requested(ct, "CT", v["target"], user)

    async def _lxc_move(self, ct: Guest, user: str, v: Values) -> str:
        """Move a container; real PVE: one that was stopped for it is started again where it was if that fails."""
        was = ct.status if ct is not None else ""
        upid = str(await super()._lxc_migrate(user, v))
        worker = self.workers.get(upid)

        def tidy(_: object) -> None:
            if ct.node == v["node"]:
                ct.status = was

        if worker is not None:
            worker.add_done_callback(tidy)
        return upid

    async def _ha_requested(self, guest: Guest, kind: str, target: str, user: str) -> str:
        async def body() -> str | None:
            mover = asyncio.create_task(self._ha_move(guest, target))
            self.ha_movers.add(mover)
            mover.add_done_callback(self.ha_movers.discard)
            return None

        log = [f"Requesting HA migration for {kind} {guest.vmid} to node {target}"]
        return await self.task(guest.node, "hamigrate", guest.vmid, user, body, log=log)

    async def _ha_move(self, guest: Guest, target: str) -> None:
        """Move a guest as the manager does: some seconds later, by a task of root@pam."""
        kind = "vm" if guest in self.vms else "ct"
        sid = f"{kind}:{guest.vmid}"
        await asyncio.sleep(self.ha_lag)
        if guest.node == target or sid in self.ha_moving:
            return  # the manager has done, or does, what was asked for
        self.ha_moving[sid] = target
        try:
            if kind == "ct":
                state, guest.ha_state = guest.ha_state, None
                v = {"node": guest.node, "vmid": guest.vmid, "target": target, "restart": guest.status == "running"}
                upid = await self._lxc_move(guest, "root@pam", v)
                guest.ha_state = state
            else:
                v = {"node": guest.node, "vmid": guest.vmid, "target": target, "online": 1, "with-local-disks": 1}
                upid = await self.move(v, "root@pam")
            worker = self.workers.get(upid)
            if worker is not None:
                await asyncio.wait([worker])
        finally:
            self.ha_moving.pop(sid, None)

    # ------------------------------------------------------------ rules and groups

    def _rule_one(self, v: Values) -> Record:
        if v["rule"] not in self.ha_rules:
            raise die(f"no such ha rule '{v['rule']}'")
        return self.ha_rules[v["rule"]]

    @staticmethod
    def _without_false(v: Values) -> Values:
        """Real PVE: a switch of a rule that is sent as 0 is dropped (measured on 9.2.11); `delete` takes it away."""
        return {key: value for key, value in v.items() if key not in ("disable", "strict") or int(value)}

    async def _rule_list(self, v: Values, _user: str) -> list[Values]:
        found = [e for e in self.ha_rules.values() if v.get("type") in (None, e["type"])]
        return [self._shown(e) for e in found if v.get("resource") in (None, *split_list(e["resources"]))]

    async def _rule_show(self, v: Values, _user: str) -> Values:
        return self._shown(self._rule_one(v))

    async def _rule_add(self, v: Values, _user: str) -> None:
        self._need_ha_quorum()
        if v["rule"] in self.ha_rules:
            raise die(f"HA rule '{v['rule']}' already defined")
        if unknown := [part for part in split_list(v["resources"]) if part not in self.ha_resources]:
            raise param_error(resources=f"cannot use unmanaged resource(s) {', '.join(unknown)}.")
        self.ha_rules[v["rule"]] = self._without_false(v)

    async def _rule_change(self, v: Values, _user: str) -> None:
        self._need_ha_quorum()
        self._edit(self._rule_one(v), self._without_false(v), ("rule",))

    async def _rule_remove(self, v: Values, _user: str) -> None:
        self._need_ha_quorum()
        self._rule_one(v)
        del self.ha_rules[v["rule"]]

    def _need_groups(self, verb: str) -> None:
        if not self.ha_has_groups:
            raise die(f"cannot {verb}: {GROUPS_GONE}")

    def _group_one(self, v: Values) -> Record:
        if v["group"] not in self.ha_groups:
            raise die(f"no such ha group '{v['group']}'")
        return self.ha_groups[v["group"]]

    async def _group_list(self, _v: Values, _user: str) -> list[Values]:
        self._need_groups("index groups")
        return [self._shown(e) for e in self.ha_groups.values()]

    async def _group_show(self, v: Values, _user: str) -> Values:
        self._need_groups("read group")
        return self._shown(self._group_one(v))

    async def _group_add(self, v: Values, _user: str) -> None:
        self._need_groups("create group")
        if v["group"] in self.ha_groups:
            raise die(f"ha group ID '{v['group']}' already defined")
        self.ha_groups[v["group"]] = {"type": "group"} | dict(v)

    async def _group_change(self, v: Values, _user: str) -> None:
        self._need_groups("update group")
        self._edit(self._group_one(v), v, ("group",))

    async def _group_remove(self, v: Values, _user: str) -> None:
        self._need_groups("delete group")
        self._group_one(v)
        if users := [sid for sid, e in self.ha_resources.items() if e.get("group") == v["group"]]:
            raise die(f"HA group is used by service '{users[0]}'")
        del self.ha_groups[v["group"]]
