"""Tools given what a real cluster has answered, through the real client: what they make of it is right."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from tool_bench import Bench, MemoryCall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from proxmox_access import AsyncPve

    Replay = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
def replay(facts: Path, sim: AsyncPve) -> Replay:
    """Let the cluster answer as a real one did; return the last of the answers."""

    async def replay(*names: str, kind: str = "") -> dict[str, Any]:
        answer: dict[str, Any] = {}
        for name in names:
            answer = json.loads((facts / "pve" / "recorded" / f"{name}.json").read_text())
            if kind:  # asked without a filter, as the tool asks with one
                answer["body"]["data"] = [item for item in answer["body"]["data"] if item["type"] == kind]
            path = answer["path"].partition("?")[0]
            effect = {"status": answer["status"], "reason": answer["reason"], "body": answer["body"]}
            await sim.rule(answer["method"], f"^{re.escape(path)}$", effect, 50)
        return answer

    return replay


class TestCluster:
    """Nodes, guests and storages of a real cluster."""

    async def test_nodes(self, facts: Path, replay: Replay, tools: Bench) -> None:
        """A node that is off is distinguished from one that is on, and the quorum is the cluster's."""
        del facts
        await replay("nodes-one-offline", "cluster-status")
        found = await tools.call("list_nodes")

        assert found.by_status == {"online": 2, "offline": 1}
        assert found.quorate is True
        assert [node.uptime == 0 for node in sorted(found.nodes, key=lambda item: item.status)] == [True, False, False]

    async def test_no_quorum(self, facts: Path, replay: Replay, tools: Bench) -> None:
        """A cluster without quorum says so."""
        del facts
        await replay("nodes", "cluster-status-noquorum")

        assert (await tools.call("list_nodes")).quorate is False

    async def test_node(self, facts: Path, replay: Replay, tools: Bench) -> None:
        """A node in detail: numbers that Proxmox sends as texts are numbers."""
        del facts
        answer = await replay("nodes", "node-status")
        found = await tools.call("get_node", node="pve1")
        data = answer["body"]["data"]

        assert (found.memory, found.memory_used) == (data["memory"]["total"], data["memory"]["used"])
        assert found.load == [float(item) for item in data["loadavg"]]
        assert (found.cpus, found.version) == (data["cpuinfo"]["cpus"], data["pveversion"])

    async def test_guests(self, facts: Path, replay: Replay, tools: Bench) -> None:
        """Every guest of the list is listed, a fresh one without a name too, templates apart."""
        del facts
        answer = await replay("cluster-resources")
        entries = answer["body"]["data"]
        found = await tools.call("list_guests", limit=100)
        templates = await tools.call("list_templates", limit=100)

        assert found.total + templates.total == len(entries)
        shown = {item.vmid for item in (*found.guests, *templates.templates)}
        assert shown == {entry["vmid"] for entry in entries}
        assert sum(found.by_status.values()) == found.total

    async def test_storages(self, facts: Path, replay: Replay, tools: Bench) -> None:
        """The storages of all nodes, those of a node that is off as well."""
        del facts
        entries = (await replay("cluster-resources-one-offline", kind="storage"))["body"]["data"]
        found = await tools.call("list_storages", limit=100)

        assert found.total == len(entries)
        assert {(storage.storage, storage.node) for storage in found.storages} == {
            (e["storage"], e["node"]) for e in entries
        }

    async def test_tasks(self, facts: Path, replay: Replay, tools: Bench) -> None:
        """Tasks of the cluster: the token's name beside the user, failures apart from successes and warnings."""
        del facts
        answer = await replay("cluster-tasks")
        entries = answer["body"]["data"]
        found = await tools.call("list_tasks", limit=500)

        assert found.total == len(entries)
        assert {task.upid for task in found.tasks} == {entry["upid"] for entry in entries}
        good = sum(entry.get("status") == "OK" for entry in entries)
        assert found.by_status.get("OK", 0) == good

    @pytest.mark.parametrize(
        ("name", "shown", "status"),
        [
            ("task-status-ok", "good", "OK"),
            ("task-status-warnings", "good", "WARNINGS: 1"),
            ("task-status-error", "bad", None),
            ("task-status-unexpected", "bad", "unexpected status"),
            ("task-status-joberrors", "bad", "job errors"),
            ("task-status-running", "running", "running"),
        ],
    )
    async def test_task(
        self, facts: Path, replay: Replay, tools: Bench, name: str, shown: str, status: str | None
    ) -> None:
        """Each way in which a task can stand; warnings are a success."""
        del facts
        answer = await replay(name)
        upid = answer["path"].split("/")[4]
        found = await tools.call("get_task", upid=upid, lines=0)

        assert (found.running, found.succeeded) == (shown == "running", shown == "good")
        assert found.status == (status or answer["body"]["data"]["exitstatus"])


class TestGuests:
    """A VM and a container of a real node; the cluster's list says where they are."""

    @pytest.fixture(autouse=True)
    async def _here(self, facts: Path, sim: AsyncPve) -> None:
        del facts
        for vmid, kind, name in ((101, "qemu", "web-01"), (201, "lxc", "ct201")):
            await sim.drop_guest(vmid)  # the cluster of the tests has others of these numbers
            await sim.guest(vmid=vmid, name=name, node="pve1", type=kind, config={})

    @pytest.mark.parametrize(
        ("state", "status"), [("running", "running"), ("stopped", "stopped"), ("paused", "paused")]
    )
    async def test_vm(self, facts: Path, replay: Replay, tools: Bench, state: str, status: str) -> None:
        """A VM's size, disks, networks, tags and description, running, stopped or paused."""
        del facts
        await replay("qemu-config", f"qemu-status-current-{state}")
        found = await tools.call("get_guest", vmid=101)

        assert (found.name, found.status, found.cores, found.memory) == ("web-01", status, 1, 128)
        assert found.disks == {"scsi0": 1.0}
        assert found.tags == ["prod", "web"]
        assert found.description == "hello\nwörld"
        assert found.networks == {"net0": "virtio=BC:24:11:28:D9:42,bridge=vmbr0"}
        assert (found.onboot, found.agent, found.digest[:8]) == (True, True, "e0a9c2cf")

    async def test_container(self, facts: Path, replay: Replay, tools: Bench) -> None:
        """A container's configuration has other keys for the same things."""
        del facts
        await replay("lxc-config", "lxc-status-current")
        found = await tools.call("get_guest", vmid=201)

        assert (found.type, found.name, found.memory, found.tags) == ("lxc", "ct201", 128, ["ct"])
        assert "bridge=vmbr0" in found.networks["net0"]

    async def test_pending(self, facts: Path, replay: Replay, tools: Bench) -> None:
        """Exactly what waits for the next start is shown."""
        del facts
        answer = await replay("qemu-pending")
        waiting = [e["key"] for e in answer["body"]["data"] if "pending" in e or "delete" in e]
        found = await tools.call("get_pending_changes", vmid=101)

        assert sorted(item.option for item in found.pending) == sorted(waiting)

    async def test_snapshots(self, facts: Path, replay: Replay, tools: Bench) -> None:
        """`current` is no snapshot."""
        del facts
        answer = await replay("qemu-snapshot-list")
        names = [item["name"] for item in answer["body"]["data"] if item["name"] != "current"]
        found = await tools.call("list_snapshots", vmid=101)

        assert [snapshot.name for snapshot in found.snapshots] == names


class TestRest:
    """Volumes, backups, jobs, users."""

    async def test_volumes(self, facts: Path, replay: Replay, tools: Bench) -> None:
        """Every volume is listed with its size."""
        del facts
        answer = await replay("storage-content")
        entries = answer["body"]["data"]
        found = await tools.call("list_volumes", storage="local", node="pve1", limit=100)

        assert {(e.volid, e.size) for e in found.volumes} == {(e["volid"], e["size"]) for e in entries}

    async def test_jobs(self, facts: Path, replay: Replay, tools: Bench) -> None:
        """A backup job as it was made."""
        del facts
        answer = await replay("cluster-backup")
        found = await tools.call("list_backup_jobs")
        (entry,) = answer["body"]["data"]

        assert [(job.id, job.schedule, job.storage) for job in found.jobs] == [
            (entry["id"], entry["schedule"], entry["storage"])
        ]

    async def test_access(self, facts: Path, replay: Replay, tools: Bench) -> None:
        """Users, roles, grants and permissions."""
        del facts
        users = (await replay("access-users"))["body"]["data"]
        roles = (await replay("access-roles"))["body"]["data"]
        grants = (await replay("access-acl"))["body"]["data"]
        rights = (await replay("access-permissions"))["body"]["data"]

        assert {user.id for user in (await tools.call("list_users")).users} == {user["userid"] for user in users}
        found = {role.id: set(role.privileges) for role in (await tools.call("list_roles")).roles}
        assert found == {role["roleid"]: set(filter(None, role["privs"].split(","))) for role in roles}
        assert (await tools.call("list_grants")).total == len(grants)
        assert set((await tools.call("get_permissions")).paths) == set(rights)


REFUSED: list[tuple[str, str, dict[str, Any], type[errors.AgentdError], str]] = [
    ("err-403", "start_guest", {"vmid": 100}, errors.Denied, r"lacks .* on /vms/100; to grant it: pveum"),
    ("err-500-digest", "api_call", {}, errors.ConfigChanged, "checksum mismatch"),
    ("err-500-lock-timeout", "api_call", {}, errors.GuestLocked, "can't lock|holds the lock"),
    ("err-500-locked", "api_call", {}, errors.GuestLocked, "holds the lock"),
    ("err-500-missing-vm", "api_get", {}, errors.NotFound, "does not exist"),
    ("err-500-no-quorum-put", "api_call", {}, errors.NoQuorum, "no quorum"),
    ("err-501", "api_get", {}, errors.AgentdError, "nosuch"),
    ("err-500-pmxcfs-down", "list_nodes", {}, errors.ProxmoxUnavailable, "RPCEnvironment init request failed"),
    ("err-595-no-route", "get_node", {"node": "pve3"}, errors.ProxmoxUnavailable, "595"),
    ("err-595-refused", "get_node", {"node": "pve2"}, errors.ProxmoxUnavailable, "595"),
]


@pytest.mark.parametrize(("name", "tool", "parameters", "kind", "words"), REFUSED, ids=[item[0] for item in REFUSED])
async def test_refused(
    facts: Path,
    replay: Replay,
    tools: Bench,
    name: str,
    tool: str,
    parameters: dict[str, Any],
    kind: type[errors.AgentdError],
    words: str,
) -> None:
    """What a real cluster has refused is reported by the tool with its meaning."""
    del facts
    if tool == "start_guest":
        await tools.call("stop_guest", **parameters)
    answer = await replay(name)
    if tool.startswith("api_"):
        change = {"parameters": {"description": "x"}, "method": answer["method"]} if tool == "api_call" else {}
        parameters = {"path": answer["path"], **change}

    with pytest.raises(kind, match=words):
        await (tools(tool, **parameters) if tool.startswith("api_") else tools.call(tool, MemoryCall(), **parameters))
