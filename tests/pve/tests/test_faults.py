"""Every fault set over the control port happens, and the log shows what was done."""

from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING

import pytest
import requests

from pve.tests.api import NEW_VM, Api, poll

if TYPE_CHECKING:
    from pve.client import FakePve


def test_rule_answers_with_a_status(api: Api, pve: FakePve) -> None:
    """A rule answers as configured, as often as configured, and counts its hits."""
    pve.rule("POST", "/status/start$", {"status": 500, "reason": "got no worker upid"}, count=1, after=1)
    path = "/nodes/pve1/qemu/101/status/start"
    answers = [api("POST", path) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 500, 200]
    assert answers[1].json() == {"data": None, "message": "got no worker upid\n"}
    assert [(rule["hits"], rule["applied"]) for rule in pve.rules()] == [(3, 1)]


def test_answer_cut_after_the_write(api: Api, pve: FakePve) -> None:
    """With cut_after the write is done and the answer never arrives."""
    pve.rule("POST", "/qemu$", {"cut_after": True}, count=1)
    with pytest.raises(requests.exceptions.ConnectionError):
        api("POST", "/nodes/pve1/qemu", **NEW_VM)

    assert pve.found(300) is not None
    [entry] = pve.log("POST", "/qemu$")
    assert (entry["performed"], entry["status"]) == (True, None)
    assert entry["upid"] == pve.tasks("qmcreate")[0]["upid"]


def test_write_lost_before(api: Api, pve: FakePve) -> None:
    """With lost_before the connection breaks and nothing is done."""
    pve.rule("POST", "/qemu$", {"lost_before": True}, count=1)
    with pytest.raises(requests.exceptions.ConnectionError):
        api("POST", "/nodes/pve1/qemu", **NEW_VM)

    assert pve.found(300) is None
    assert [entry["performed"] for entry in pve.log("POST", "/qemu$")] == [False]
    assert api("POST", "/nodes/pve1/qemu", **NEW_VM).status_code == 200


def test_delay(api: Api, pve: FakePve) -> None:
    """With delay the answer comes late."""
    pve.rule("GET", "^/version$", {"delay": 0.2})
    start = time.monotonic()
    api.data("GET", "/version")

    assert time.monotonic() - start >= 0.2


def test_hold_until_cleared(api: Api, pve: FakePve) -> None:
    """A held request waits, with nothing done, until the rules are cleared."""
    pve.rule("POST", "/qemu$", {"hold": True})
    answers: list[int] = []
    sender = threading.Thread(target=lambda: answers.append(api("POST", "/nodes/pve1/qemu", **NEW_VM).status_code))
    sender.start()
    poll(lambda: pve.rules()[0]["applied"])
    during = pve.found(300)
    pve.clear()
    sender.join(5)

    assert during is None
    assert answers == [200]
    assert pve.found(300) is not None


def test_held_request_of_a_dead_client_is_not_done(api: Api, pve: FakePve) -> None:
    """A held request whose client has gone is dropped when it is let go."""
    pve.rule("POST", "/qemu$", {"hold": True})
    with pytest.raises(requests.exceptions.Timeout):
        api.session.post(api.base + "/nodes/pve1/qemu", data=NEW_VM, timeout=0.2)
    api.session.close()
    pve.clear()
    [entry] = poll(lambda: [e for e in pve.log("POST", "/qemu$") if e["reason"]])

    assert entry["performed"] is False
    assert pve.found(300) is None


def test_task_ends_with_warnings(api: Api, pve: FakePve) -> None:
    """A task set to end with warnings has done its work and says so in its log."""
    pve.rule("POST", "/status/start$", {"task_exit": "WARNINGS: 1"}, count=1)
    upid = api.data("POST", "/nodes/pve1/qemu/101/status/start")
    log = [line["t"] for line in api.data("GET", f"/nodes/pve1/tasks/{upid}/log")]

    assert api.status(upid)["exitstatus"] == "WARNINGS: 1"
    assert (pve.found(101) or {})["status"] == "running"
    assert log[-2].startswith("WARN: ")
    assert log[-1] == "TASK WARNINGS: 1"


def test_a_task_fails_as_configured(api: Api, pve: FakePve) -> None:
    """A task set to fail has not done its work; a failing create leaves no guest."""
    pve.rule("POST", "", {"task_exit": "storage 'x' is not online"})

    assert api.exit("POST", "/nodes/pve1/qemu", **NEW_VM) == "storage 'x' is not online"
    assert api.exit("POST", "/nodes/pve1/qemu/101/status/start") == "storage 'x' is not online"
    assert pve.found(300) is None
    assert (pve.found(101) or {})["status"] == "stopped"


def test_node_offline(api: Api, pve: FakePve) -> None:
    """A dead node is offline in every list, and calls to it are 595 with an empty body."""
    pve.node("pve2", online=False)
    answer = api("GET", "/nodes/pve2/qemu/102/config")
    nodes = {node["node"]: node for node in api.data("GET", "/nodes")}
    status = {item["name"]: item.get("online") for item in api.data("GET", "/cluster/status")}
    guests = {item["vmid"]: item["status"] for item in api.data("GET", "/cluster/resources", type="vm")}

    assert (answer.status_code, answer.reason, answer.text) == (595, "No route to host", "")
    assert nodes["pve2"]["status"] == "offline"
    assert "uptime" not in nodes["pve2"]
    assert nodes["pve2"]["maxmem"] == 64 * 1024**3
    assert status["pve2"] == 0
    assert (guests[102], guests[100]) == ("unknown", "running")
    pve.node("pve2")
    assert api("GET", "/nodes/pve2/qemu/102/config").status_code == 200


def test_no_quorum(api: Api, pve: FakePve) -> None:
    """Without a quorum reads and stops work; creates, starts and changes fail with the real texts."""
    pve.quorum(quorate=False)
    create = api("POST", "/nodes/pve1/qemu", **NEW_VM)
    start = api("POST", "/nodes/pve1/qemu/101/status/start")
    change = api("PUT", "/nodes/pve1/qemu/101/config", onboot=1)

    assert api.data("GET", "/cluster/status")[0]["quorate"] == 0
    assert {(answer.status_code, answer.reason) for answer in (create, start)} == {
        (500, "cluster not ready - no quorum?")
    }
    assert change.status_code == 500
    assert re.fullmatch(r"unable to open file '/etc/pve/.*' - Permission denied", change.reason)
    assert api.exit("POST", "/nodes/pve1/qemu/100/status/stop") == "OK"
    assert api.exit("DELETE", "/nodes/pve1/qemu/101") == "cluster not ready - no quorum?"


def test_a_foreign_guest_leaves_no_trace(api: Api, pve: FakePve) -> None:
    """A guest of another client is there without a task and without a request."""
    made = pve.guest(vmid=400, name="foreign", node="pve2", config={"description": "theirs"})

    assert made["vmid"] == 400
    assert api.data("GET", "/nodes/pve2/qemu/400/config")["description"] == "theirs"
    assert pve.tasks() == []
    assert pve.creates() == []


def test_the_log_holds_every_request(api: Api, audit: Api, pve: FakePve) -> None:
    """The log holds each request with its token, its parameters and its answer."""
    api("POST", "/nodes/pve1/qemu", **NEW_VM)
    audit("POST", "/nodes/pve1/qemu", vmid=301)
    first, second = pve.log("POST")

    assert (first["token"], first["params"]["vmid"], first["performed"]) == ("agentd@pve!full", "300", True)
    assert (second["token"], second["status"], second["performed"]) == ("agentd@pve!audit", 403, False)
    assert pve.log("POST", since=first["n"]) == [second]


def test_writes_that_are_not_simulated_are_not_performed(api: Api, pve: FakePve) -> None:
    """A write that the simulator only nods at is marked as not performed in the log."""
    api("PUT", "/cluster/options", description="x")

    assert [entry["performed"] for entry in pve.log("PUT", "/cluster/options$")] == [False]


def test_reset_restores_the_start(api: Api, pve: FakePve) -> None:
    """A reset brings back guests, rules, quorum and durations."""
    pve.rule("GET", "", {"delay": 0})
    pve.durations(qmcreate=9)
    pve.quorum(quorate=False)
    pve.guest(vmid=400)
    pve.reset()

    assert pve.rules() == []
    assert pve.found(400) is None
    assert pve.inventory()["quorate"] is True
    assert pve.durations() == {}
    assert api("POST", "/nodes/pve1/qemu", **NEW_VM).status_code == 200


def test_bad_control_request_is_explained(pve: FakePve) -> None:
    """A rule with an unknown effect is refused with a sentence."""
    with pytest.raises(ValueError, match="not a rule"):
        pve.rule("GET", "", {"explode": True})


def test_calls_take_milliseconds(api: Api) -> None:
    """A call takes a few milliseconds, so that a benchmark measures its client."""
    start = time.monotonic()
    for _ in range(50):
        api.data("GET", "/cluster/resources")

    assert (time.monotonic() - start) / 50 < 0.02


def test_failed_create_is_none(api: Api, pve: FakePve) -> None:
    """A create whose task failed is not counted as one that happened."""
    pve.rule("POST", "/qemu$", {"task_exit": "no space"}, count=1)
    api("POST", "/nodes/pve1/qemu", **NEW_VM)
    api("POST", "/nodes/pve1/qemu", **NEW_VM)

    assert [entry["performed"] for entry in pve.log("POST", "/qemu$")] == [True, True]
    assert len(pve.creates()) == 1


def test_answer_without_a_body(api: Api, pve: FakePve) -> None:
    """A rule can answer as a node whose cluster file system is down: a reason, and no body."""
    reason = "RPCEnvironment init request failed: Unable to load access control list: Connection refused"
    pve.rule("*", "", {"status": 500, "reason": reason, "empty": True})
    answer = api("GET", "/nodes")

    assert (answer.status_code, answer.reason, answer.text) == (500, reason, "")
