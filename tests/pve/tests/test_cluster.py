"""The simulated cluster shows nodes, storages and guests as they are, and new guests come as on a real one."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from pve.tests.api import NEW_VM, Api

if TYPE_CHECKING:
    from pathlib import Path

    from pve.client import FakePve


def test_nodes_storages_and_bridges_are_there(api: Api) -> None:
    """Each node has its storages, a bridge and room that a check can read."""
    for node in ("pve1", "pve2", "pve3"):
        storages = {item["storage"]: item for item in api.data("GET", f"/nodes/{node}/storage")}
        bridges = api.data("GET", f"/nodes/{node}/network", type="bridge")
        memory = api.data("GET", f"/nodes/{node}/status")["memory"]

        assert set(storages) == {"local", "local-lvm", "shared"}
        assert [bridge["iface"] for bridge in bridges] == ["vmbr0"]
        assert 0 < memory["used"] < memory["total"]


def test_figures_follow_the_guests(api: Api) -> None:
    """Starting a guest takes memory of its node, and a disk takes room on the node's storage only."""
    path = "/nodes/pve1/status"
    before, room = api.data("GET", path)["memory"]["used"], storage_used(api)
    api.exit("POST", "/nodes/pve1/qemu", **NEW_VM)
    api.exit("POST", "/nodes/pve1/qemu/101/status/start")
    after, now = api.data("GET", path)["memory"]["used"], storage_used(api)

    assert after > before
    assert now["pve1"] - room["pve1"] == 8 * 1024**3
    assert now["pve2"] == room["pve2"]


def storage_used(api: Api) -> dict[str, int]:
    """Return the used bytes of local-lvm by node."""
    items = api.data("GET", "/cluster/resources", type="storage")
    return {item["node"]: item["disk"] for item in items if item["storage"] == "local-lvm"}


def test_resources_match_the_guests(api: Api, pve: FakePve) -> None:
    """The list of resources and the real world hold the same guests."""
    listed = {item["vmid"]: item for item in api.data("GET", "/cluster/resources", type="vm")}
    inventory = {guest["vmid"]: guest for guest in pve.inventory()["guests"]}

    assert set(listed) == set(inventory)
    assert all(listed[vmid]["status"] == inventory[vmid]["status"] for vmid in inventory)
    assert listed[9000]["template"] == 1
    assert listed[100]["tags"] == "prod;web"


@pytest.mark.parametrize(
    ("file", "path"),
    [
        ("nodes", "/nodes"),
        ("cluster-status", "/cluster/status"),
        ("cluster-resources", "/cluster/resources?type=vm"),
        ("qemu-status-current-running", "/nodes/pve1/qemu/100/status/current"),
        ("qemu-status-current-stopped", "/nodes/pve1/qemu/101/status/current"),
        ("node-storage", "/nodes/pve1/storage"),
        ("node-tasks", "/nodes/pve1/tasks"),
        ("cluster-tasks", "/cluster/tasks"),
        ("node-lxc", "/nodes/pve1/lxc"),
    ],
)
def test_answers_have_the_recorded_fields(api: Api, facts: Path, file: str, path: str) -> None:
    """Answers hold the fields of the recorded real ones, with the same types."""
    api.exit("POST", "/nodes/pve1/qemu/101/status/stop")
    recorded = json.loads((facts / "pve" / "recorded" / f"{file}.json").read_text())["body"]["data"]
    answer = api.data("GET", path)
    optional = {"lock", "tags", "saved"}
    real, ours = (data[0] if isinstance(data, list) else data for data in (recorded, answer))

    assert not set(real) - set(ours) - optional
    for key in set(real) & set(ours) - optional:
        kinds = {float: (int, float)}.get(
            type(real[key]), (int, float) if isinstance(real[key], int) else type(real[key])
        )
        assert isinstance(ours[key], kinds), key


def test_create_takes_its_time(api: Api, pve: FakePve) -> None:
    """While a VM is created its configuration holds the lock 'create' and nothing else is known of it."""
    pve.durations(qmcreate=0.5)
    upid = api.data("POST", "/nodes/pve1/qemu", **NEW_VM, description="mark")
    during = api.data("GET", "/nodes/pve1/qemu/300/config")
    running = api.status(upid)
    exitstatus = pve.wait(upid)
    after = api.data("GET", "/nodes/pve1/qemu/300/config")

    assert during["lock"] == "create"
    assert "description" not in during
    assert running["status"] == "running"
    assert "exitstatus" not in running
    assert exitstatus == "OK"
    assert (after["name"], after["description"], "lock" in after) == ("new", "mark", False)
    assert after["scsi0"] == "local-lvm:vm-300-disk-0,size=8G"


def test_clone_shows_its_name_at_the_end_only(api: Api, pve: FakePve) -> None:
    """A clone's target is locked and carries a fixed description until it is finished."""
    pve.durations(qmclone=0.5)
    upid = api.data("POST", "/nodes/pve1/qemu/9000/clone", newid=301, name="web-09", description="mark", full=1)
    during = api.data("GET", "/nodes/pve1/qemu/301/config")
    exitstatus = pve.wait(upid)
    after = api.data("GET", "/nodes/pve1/qemu/301/config")

    assert (during["lock"], during["description"]) == ("clone", " qmclone temporary file")
    assert "name" not in during
    assert exitstatus == "OK"
    assert (after["name"], after["description"], "lock" in after) == ("web-09", "mark", False)
    assert after["ide2"].startswith("shared:301/vm-301-cloudinit")


def test_clone_to_another_node_needs_shared_storage(api: Api, pve: FakePve) -> None:
    """A clone lands on another node if its disks are on shared storage, and is refused if they are local."""
    shared = api.exit("POST", "/nodes/pve1/qemu/9000/clone", newid=302, target="pve2", full=1)
    local = api("POST", "/nodes/pve1/qemu/101/clone", newid=303, target="pve2", full=1)

    assert shared == "OK"
    assert (pve.found(302) or {})["node"] == "pve2"
    assert (local.status_code, local.reason) == (500, "can't clone VM to node 'pve2' (VM uses local storage)")


def test_taken_ids_are_refused_at_once(api: Api, pve: FakePve) -> None:
    """A create or clone to an id that is taken anywhere in the cluster is refused, without a task."""
    create = api("POST", "/nodes/pve2/qemu", vmid=100)
    clone = api("POST", "/nodes/pve1/qemu/9000/clone", newid=102)
    other = api("POST", "/nodes/pve2/qemu", vmid=200)

    assert (create.status_code, create.reason) == (
        500,
        "unable to create VM 100 - VM 100 already exists on node 'pve1'",
    )
    assert (clone.status_code, clone.reason) == (500, "unable to create VM 102: config file already exists")
    assert other.reason == "unable to create VM 200 - CT 200 already exists on node 'pve1'"
    assert pve.tasks() == []


def test_only_one_of_parallel_creates_succeeds(pve: FakePve) -> None:
    """Of many clients that use the same id at once, exactly one gets it: answers, log and tasks agree."""
    pve.durations(qmcreate=0.2)

    def create(number: int) -> int:
        api = Api(pve)
        status = api("POST", f"/nodes/pve{number % 3 + 1}/qemu", vmid=310).status_code
        api.session.close()
        return status

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(create, range(12)))

    assert sorted(answers) == [200] + [500] * 11
    assert len(pve.creates()) == 1
    assert len(pve.tasks("qmcreate")) == 1


def test_next_id_is_the_first_free_one(api: Api, pve: FakePve) -> None:
    """The next id is free but not reserved, and a taken one is refused."""
    first, second = api.data("GET", "/cluster/nextid"), api.data("GET", "/cluster/nextid")
    pve.guest(vmid=int(first), name="foreign")

    assert first == second == "106"
    assert api.data("GET", "/cluster/nextid") == "107"
    assert api("GET", "/cluster/nextid", vmid=100).json()["errors"] == {"vmid": "VM 100 already exists"}


def test_new_guest_is_unknown_at_first(api: Api, pve: FakePve) -> None:
    """With a lag set, a new guest has neither name nor state in the list of resources, and both at its node."""
    pve.settings(stat_lag=60)
    api.exit("POST", "/nodes/pve1/qemu", **NEW_VM)
    [listed] = [item for item in api.data("GET", "/cluster/resources", type="vm") if item["vmid"] == 300]

    assert listed["status"] == "unknown"
    assert "name" not in listed
    assert api.data("GET", "/nodes/pve1/qemu/300/status/current")["name"] == "new"


def test_new_member_is_unknown_at_first(api: Api, pve: FakePve) -> None:
    """With a lag set, a pool knows neither name nor state of a new guest; the list of resources knows its pool."""
    pve.settings(stat_lag=60)
    api.data("POST", "/pools", poolid="core")
    api.exit("POST", "/nodes/pve1/qemu", **NEW_VM)
    api.data("PUT", "/pools", poolid="core", vms="300")
    [listed] = [item for item in api.data("GET", "/cluster/resources", type="vm") if item["vmid"] == 300]
    [member] = api.data("GET", "/pools", poolid="core")[0]["members"]

    assert (listed["pool"], "name" in listed) == ("core", False)
    assert (member["status"], "name" in member) == ("unknown", False)


def test_start_waits_for_a_clone(api: Api, pve: FakePve) -> None:
    """Starting a guest that is still being cloned waits until the clone is finished, and then starts it."""
    pve.durations(qmclone=0.4)
    clone = api.data("POST", "/nodes/pve1/qemu/9000/clone", newid=301)
    start = api.data("POST", "/nodes/pve1/qemu/301/status/start")
    running = api.status(start)["status"]

    assert running == "running"
    assert (pve.wait(clone), pve.wait(start)) == ("OK", "OK")
    assert (pve.found(301) or {})["status"] == "running"
