"""HA, replication and guest agents of the simulator do what the real ones do."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from pve.tests.api import Api, poll

if TYPE_CHECKING:
    from pve.client import FakePve


def test_manager_moves_the_guest(api: Api, pve: FakePve) -> None:
    """A migration of a guest under HA ends at once, and the manager moves it by a task of root@pam."""
    pve.settings(ha_lag=0.2)
    api.data("POST", "/cluster/ha/resources", sid="vm:104")
    path = "/nodes/pve3/qemu/104/migrate"
    offline = api("POST", path, target="pve1")
    asked = api.exit("POST", path, target="pve1", online=1)
    before = (pve.found(104) or {})["node"]
    poll(lambda: (pve.found(104) or {})["node"] == "pve1")

    assert (offline.status_code, offline.reason) == (500, "can't migrate running VM without --online")
    assert (asked, before) == ("OK", "pve3")
    assert [(task["type"], task["token"]) for task in pve.tasks()] == [
        ("hamigrate", "agentd@pve!full"),
        ("qmigrate", "root@pam"),
    ]


def test_resources_follow_their_state(api: Api, pve: FakePve) -> None:
    """A resource starts and stops its guest, is listed with its state, and is refused twice and without a guest."""
    api.data("POST", "/cluster/ha/resources", sid="101")
    started = (pve.found(101) or {})["status"]
    api.data("PUT", "/cluster/ha/resources/vm:101", state="stopped")
    states = {item["id"]: item["state"] for item in api.data("GET", "/cluster/ha/status/current") if "sid" in item}
    twice = api("POST", "/cluster/ha/resources", sid="vm:101")
    wrong = api("PUT", "/cluster/ha/resources/vm:101", state="started", digest="0" * 40)

    assert (started, (pve.found(101) or {})["status"]) == ("running", "stopped")
    assert states == {"service:vm:101": "stopped"}
    assert twice.reason == "resource ID 'vm:101' already defined"
    assert wrong.reason == "checksum mismatch (file change by other user?)"


def test_groups_are_rules(api: Api, pve: FakePve) -> None:
    """Groups are refused as Proxmox VE 9 refuses them, unless a test wants an 8; a rule needs guests under HA."""
    gone = api("GET", "/cluster/ha/groups")
    rule = {"rule": "left", "type": "node-affinity", "resources": "vm:101", "nodes": "pve1"}
    unmanaged = api("POST", "/cluster/ha/rules", **rule)
    pve.settings(ha_has_groups=1)

    assert (gone.status_code, gone.reason) == (500, "cannot index groups: ha groups have been migrated to rules")
    assert unmanaged.status_code == 400
    assert api.data("GET", "/cluster/ha/groups") == []


def test_replication_runs_when_it_is_due(api: Api, pve: FakePve) -> None:
    """A job runs some time after it was made due, one that is deleted goes with its run, one target has one job."""
    pve.settings(replication_lag=0.1)
    job = {"id": "101-0", "type": "local", "target": "pve2"}
    api.data("POST", "/cluster/replication", **job)
    again = api("POST", "/cluster/replication", **{**job, "id": "101-1"})
    api.data("POST", "/nodes/pve1/replication/101-0/schedule_now")
    poll(lambda: api.data("GET", "/nodes/pve1/replication")[0]["last_sync"])
    api.data("DELETE", "/cluster/replication/101-0")
    marked = api.data("GET", "/cluster/replication/101-0")["remove_job"]

    assert again.status_code == 500
    assert marked == "full"
    assert poll(lambda: api.data("GET", "/cluster/replication") == [])


def test_agent_keeps_files(api: Api) -> None:
    """A file that is written can be read in parts, the end of a command is returned once."""
    path = "/nodes/pve1/qemu/100/agent"
    api.data("POST", path + "/file-write", file="/x", content=base64.b64encode(b"\xff-file").decode(), encode=0)
    part = api.data("GET", path + "/file-read", file="/x", decode=0, count=2)
    pid = api.data("POST", path + "/exec", command="true")["pid"]
    first, second = (api("GET", path + "/exec-status", pid=pid) for _ in range(2))
    off = api("POST", "/nodes/pve1/qemu/101/agent/ping")

    assert part == {"content": "/y0=", "truncated": 1}
    assert first.json()["data"]["exited"] == 1
    assert (second.status_code, off.status_code) == (500, 500)
    assert off.reason == "QEMU guest agent is not running"
