# SPDX-License-Identifier: AGPL-3.0-or-later
"""The control port: faults, durations and the ground truth, as JSON over HTTP on loopback."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aiohttp import web

from pve import cluster
from pve.guests.power import set_lock

if TYPE_CHECKING:
    from pve.foreign import Guest, Values
    from pve.simulator import Simulator

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SETTINGS = (
    "auth_delay", "boot_lag", "clock_skew", "offline_delay", "lock_wait", "archive_lag", "stat_lag", "ha_lag",
    "ha_has_groups", "replication_lag", "replication_fails", "journal_step", "acme_days",
)  # fmt: skip


class Control:
    """Serve the control port of a simulator."""

    def __init__(self, pve: Simulator, described: cluster.Cluster, durations: dict[str, float]) -> None:
        """Take the simulator and what /reset goes back to."""
        self.pve = pve
        self.described = described
        self.durations = durations
        self.defaults = {name: getattr(pve, name) for name in SETTINGS}
        self.tokens = {name: (pve.apitokens[name], pve.token_info[name]["privsep"]) for name in pve.apitokens}
        self.grants = [dict(entry) for entry in pve.entries]

    def app(self) -> web.Application:
        """Return the web application."""
        app = web.Application(middlewares=[self._errors])
        router = app.router
        routes: dict[str, dict[str, Handler]] = {
            "/rules": {"POST": self._add_rule, "GET": self._list_rules, "DELETE": self._clear_rules},
            "/lock": {"POST": self._lock, "DELETE": self._unlock},
            "/node": {"POST": self._node},
            "/quorum": {"POST": self._quorum},
            "/storage": {"POST": self._storage},
            "/hardware": {"POST": self._hardware},
            "/durations": {"GET": self._durations, "POST": self._set_durations},
            "/settings": {"GET": self._settings, "POST": self._set_settings},
            "/guest": {"POST": self._guest, "DELETE": self._drop_guest},
            "/log": {"GET": self._log, "DELETE": self._clear_log},
            "/inventory": {"GET": self._inventory},
            "/task": {"GET": self._task},
            "/reset": {"POST": self._reset},
        }
        for path, table in routes.items():
            for method, handler in table.items():
                router.add_route(method, path, handler)
        return app

    @web.middleware  # type: ignore[untyped-decorator] # untyped
    async def _errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer what a test got wrong in one line."""
        try:
            return await handler(request)
        except (KeyError, ValueError, TypeError) as error:
            return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=400)

    @staticmethod
    async def _body(request: web.Request) -> Values:
        data = json.loads(await request.text() or "{}")
        if not isinstance(data, dict):
            raise TypeError("the body is not a JSON object")
        return data

    # -------------------------------------------------------------------- rules

    async def _add_rule(self, request: web.Request) -> web.Response:
        return web.json_response(self.pve.rules.add(await self._body(request)).view())

    async def _list_rules(self, _request: web.Request) -> web.Response:
        return web.json_response([rule.view() for rule in self.pve.rules.rules])

    async def _clear_rules(self, request: web.Request) -> web.Response:
        number = request.query.get("id")
        return web.json_response({"cleared": self.pve.rules.clear(int(number) if number else None)})

    # ------------------------------------------------------------ state of the world

    def _find(self, data: Values) -> Guest:
        guest = self.pve.guest(int(data["vmid"]))
        if guest is None:
            raise ValueError(f"no guest {data['vmid']}")
        return guest

    async def _lock(self, request: web.Request) -> web.Response:
        """Set a guest's lock, or with `flock` hold its lock file as another process would."""
        data = await self._body(request)
        guest = self._find(data)
        if data.get("flock"):
            guest.lock_holder = "scenario"
        else:
            set_lock(guest, str(data["lock"]))
        return web.json_response({"vmid": guest.vmid, "lock": guest.lock, "flock": guest.lock_holder is not None})

    async def _unlock(self, request: web.Request) -> web.Response:
        guest = self._find(dict(request.query) | await self._body(request))
        set_lock(guest, None)
        self.pve.release(guest, "scenario")
        return web.json_response({"vmid": guest.vmid, "lock": None})

    async def _node(self, request: web.Request) -> web.Response:
        """Take a node off the network or back; a new name with `add` is a new, empty node."""
        data = await self._body(request)
        name = data["node"]
        if name not in self.pve.nodes and not data.get("add"):
            raise ValueError(f"no node {name}")
        state = self.pve.nodes.setdefault(name, {"name": name})
        state["online"] = bool(data.get("online", True))
        if "delay" in data:
            self.pve.offline_delay = float(data["delay"])
        return web.json_response(state)

    async def _quorum(self, request: web.Request) -> web.Response:
        self.pve.quorate = bool((await self._body(request))["quorate"])
        return web.json_response({"quorate": self.pve.quorate})

    async def _hardware(self, request: web.Request) -> web.Response:
        """Give the cluster Ceph, a directory to sync with, or a node a disk or a pool in trouble."""
        data = await self._body(request)
        self.pve.ceph_state = data.get("ceph", self.pve.ceph_state)
        self.pve.directories |= data.get("directories", {})
        for name, health in data.get("disks", {}).items():
            node, _, path = name.partition(":")
            self.pve._disk(node, path)["health"] = health  # noqa: SLF001 - the simulator's own door
        for name, health in data.get("pools", {}).items():
            node, _, pool = name.partition(":")
            next(item for item in self.pve.made_of[node, "zfs"] if item["name"] == pool)["health"] = health
        return web.json_response({})

    async def _storage(self, request: web.Request) -> web.Response:
        """Take a storage off line or back, change what it may hold, or put a number of foreign volumes on it."""
        data = await self._body(request)
        store = self.pve.storages[data["storage"]]
        if "active" in data:
            store["active"] = int(bool(data["active"]))
        store.update({key: data[key] for key in ("content",) if key in data})
        for number in range(int(data.get("backups") or 0)):
            store["volumes"][f"backup/vzdump-qemu-{1000 + number}-2026_11_01-00_00_00.vma.zst"] = {
                "content": "backup", "format": "vma.zst", "size": 4 * 1024**3 + number, "vmid": 1000 + number,
                "ctime": 1793491200 + number, "subtype": "qemu", "node": data["node"], "notes": f"guest-{number}",
            }  # fmt: skip
        return web.json_response({"storage": data["storage"], "active": store["active"], "content": store["content"]})

    async def _durations(self, _request: web.Request) -> web.Response:
        return web.json_response(self.pve.durations)

    async def _set_durations(self, request: web.Request) -> web.Response:
        """Set how long tasks take from now on, by type; `default` is for the others."""
        self.pve.durations |= {key: float(value) for key, value in (await self._body(request)).items()}
        return web.json_response(self.pve.durations)

    async def _settings(self, _request: web.Request) -> web.Response:
        return web.json_response({name: getattr(self.pve, name) for name in SETTINGS})

    async def _set_settings(self, request: web.Request) -> web.Response:
        for name, value in (await self._body(request)).items():
            if name not in SETTINGS:
                raise ValueError(f"no setting {name}")
            setattr(self.pve, name, float(value))
        return await self._settings(request)

    async def _guest(self, request: web.Request) -> web.Response:
        """Put a guest there without any task or request, as another client would."""
        data = await self._body(request)
        data.setdefault("vmid", int(await self.pve._nextid({}, "root@pam")))  # noqa: SLF001 - fakepve's own counter
        data.setdefault("node", self.pve.local_node)
        guest = cluster.add_guest(self.pve, data)
        return web.json_response(self._view(guest))

    async def _drop_guest(self, request: web.Request) -> web.Response:
        guest = self._find(dict(request.query) | await self._body(request))
        (self.pve.vms if guest in self.pve.vms else self.pve.cts).remove(guest)
        return web.json_response({"vmid": guest.vmid})

    # ------------------------------------------------------------------ ground truth

    async def _log(self, request: web.Request) -> web.Response:
        query = request.query
        since = int(query.get("since", 0))
        return web.json_response(self.pve.log.select(query.get("method"), query.get("path"), since))

    async def _clear_log(self, _request: web.Request) -> web.Response:
        self.pve.log.clear()
        return web.json_response({})

    @staticmethod
    def _view(guest: Guest) -> Values:
        return {
            "vmid": guest.vmid, "type": guest.guest.partition("/")[0], "node": guest.node, "name": guest.name,
            "status": guest.status, "description": guest.config.get("description"), "tags": guest.config.get("tags"),
            "lock": guest.lock, "template": bool(guest.template), "config": guest.config,
            "snapshots": sorted(guest.snapshots),
        }  # fmt: skip

    @staticmethod
    def _task_view(task: Values) -> Values:
        shown = ("upid", "type", "id", "node", "status", "exitstatus", "starttime", "endtime", "log")
        return {key: task.get(key) for key in shown} | {"token": task["user"]}

    async def _task(self, request: web.Request) -> web.Response:
        return web.json_response(self._task_view(self.pve.tasks[request.query["upid"]]))

    async def _inventory(self, _request: web.Request) -> web.Response:
        """Show guests, tasks and volumes as they really are, independent of rights."""
        pve = self.pve
        guests = [self._view(guest) for guest in [*pve.vms, *pve.cts]]
        tasks = [self._task_view(task) for task in pve.tasklog]
        volumes = {name: sorted(pve._volumes(name)) for name in pve.storages}  # noqa: SLF001 - fakepve's only way
        return web.json_response({
            "guests": guests, "tasks": tasks, "volumes": volumes, "quorate": pve.quorate,
            "nodes": {name: bool(info.get("online", True)) for name, info in pve.nodes.items()},
        })  # fmt: skip

    async def _reset(self, _request: web.Request) -> web.Response:
        """Go back to the start: guests, tasks, rules, log, rights, durations and settings."""
        self.pve.rules.clear()
        self.pve.log.clear()
        for worker in list(self.pve.workers.values()):
            worker.cancel()
        self.pve.durations = dict(self.durations)
        for name, value in self.defaults.items():
            setattr(self.pve, name, value)
        self.pve.reset_access()
        for name, (secret, privsep) in self.tokens.items():
            self.pve.add_token(name, secret, privsep=bool(privsep))
        self.pve.entries = [dict(entry) for entry in self.grants]
        cluster.build(self.pve, self.described)
        return web.json_response({})
