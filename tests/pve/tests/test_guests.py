"""The simulated guests start, stop, change, move and end as real ones do, and the tasks are reported as they ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pve.tests.api import NEW_VM, Api, poll

if TYPE_CHECKING:
    from pve.client import FakePve


def test_start_of_a_missing_vm_fails_in_its_task(api: Api) -> None:
    """Starting a VM that does not exist is accepted; its task fails."""
    text = "Configuration file 'nodes/pve1/qemu-server/999.conf' does not exist"

    assert api.exit("POST", "/nodes/pve1/qemu/999/status/start") == text
    assert api.exit("POST", "/nodes/pve1/qemu/999/snapshot", snapname="s1") == text
    assert api.exit("PUT", "/nodes/pve1/qemu/999/resize", disk="scsi0", size="+1G") == text
    assert api.exit("DELETE", "/nodes/pve1/qemu/999") == text


def test_power_state_follows(api: Api, pve: FakePve) -> None:
    """Starting a running VM fails, stopping a stopped one is fine, and the state follows."""
    path = "/nodes/pve1/qemu/101/status"

    assert api.exit("POST", f"{path}/start") == "OK"
    assert api.data("GET", f"{path}/current")["status"] == "running"
    assert api.exit("POST", f"{path}/start") == "VM 101 already running"
    assert api.exit("POST", f"{path}/shutdown") == "OK"
    assert api.exit("POST", f"{path}/shutdown") == "OK"
    assert api.exit("POST", f"{path}/stop") == "OK"
    assert (pve.found(101) or {})["status"] == "stopped"


def test_a_locked_guest_refuses_changes(api: Api, pve: FakePve) -> None:
    """A locked guest refuses a change at once, and a start in its task, until it is unlocked."""
    pve.lock(101, "backup")
    change = api("PUT", "/nodes/pve1/qemu/101/config", onboot=1)

    assert (change.status_code, change.reason) == (500, "VM is locked (backup)")
    assert api.exit("POST", "/nodes/pve1/qemu/101/status/start") == "VM is locked (backup)"
    assert api.data("GET", "/nodes/pve1/qemu/101/status/current")["lock"] == "backup"
    pve.lock(101, None)
    assert api.exit("POST", "/nodes/pve1/qemu/101/status/start") == "OK"


def test_held_lock_file_times_out(api: Api, pve: FakePve) -> None:
    """A lock file held by another process fails a change after the wait that is set."""
    pve.settings(lock_wait=0.1)
    pve.lock(101, None, flock=True)
    text = "can't lock file '/var/lock/qemu-server/lock-101.conf' - got timeout"
    answer = api("PUT", "/nodes/pve1/qemu/101/config", onboot=1)

    assert (answer.status_code, answer.reason) == (500, text)
    assert api.exit("POST", "/nodes/pve1/qemu/101/status/start") == text
    pve.lock(101, None)
    assert api("PUT", "/nodes/pve1/qemu/101/config", onboot=1).status_code == 200


def test_digest_guards_a_change(api: Api) -> None:
    """A change with an old digest is refused, and one with the current digest is made."""
    path = "/nodes/pve1/qemu/101/config"
    digest = api.data("GET", path)["digest"]
    good = api("PUT", path, tags="a;b", digest=digest)
    stale = api("PUT", path, tags="c", digest=digest)

    assert good.status_code == 200
    assert (stale.status_code, stale.reason) == (500, "checksum mismatch (file change by other user?)")


def test_pending_changes_are_merged(api: Api) -> None:
    """A running guest's pending change shows in its configuration, and the live value with current=1."""
    path = "/nodes/pve1/qemu/100"
    api.data("PUT", f"{path}/config", cores=4)

    assert api.data("GET", f"{path}/config")["cores"] == 4
    assert api.data("GET", f"{path}/config", current=1)["cores"] == 2
    api.data("PUT", f"{path}/config", revert="cores")
    assert api.data("GET", f"{path}/config")["cores"] == 2


def test_resize_changes_the_disk(api: Api, pve: FakePve) -> None:
    """A resize makes the disk larger in the configuration and refuses to shrink it."""
    path = "/nodes/pve1/qemu/101/resize"

    assert api.exit("PUT", path, disk="scsi0", size="+8G") == "OK"
    assert "size=40G" in (pve.found(101) or {})["config"]["scsi0"]
    assert api.exit("PUT", path, disk="scsi0", size="10G") == "shrinking disks is not supported"
    assert api.exit("PUT", path, disk="scsi9", size="10G") == "disk 'scsi9' does not exist"


def test_migration_moves_the_guest(api: Api, pve: FakePve) -> None:
    """A migration moves the guest; the own and an unknown node are refused, a dead one fails in the task."""
    path = "/nodes/pve1/qemu/101/migrate"
    own, unknown = api("POST", path, target="pve1"), api("POST", path, target="pve9")
    pve.node("pve3", online=False)

    assert (own.status_code, own.json()["errors"]) == (400, {"target": "target is local node."})
    assert (unknown.status_code, unknown.reason) == (500, "no such cluster node 'pve9'")
    assert api.exit("POST", path, target="pve3") == "migration aborted"
    assert api.exit("POST", path, target="pve2") == "OK"
    assert (pve.found(101) or {})["node"] == "pve2"


def test_delete_refuses_a_running_guest(api: Api, pve: FakePve) -> None:
    """A running guest is not deleted; a stopped one is gone with its disks."""
    running = api("DELETE", "/nodes/pve1/qemu/100")

    assert (running.status_code, running.reason) == (500, "VM 100 is running - destroy failed")
    assert api.exit("DELETE", "/nodes/pve1/qemu/101") == "OK"
    assert pve.found(101) is None
    assert not [volume for volume in pve.inventory()["volumes"]["local-lvm"] if "-101-" in volume]


def test_backup_and_restore(api: Api, pve: FakePve) -> None:
    """A backup locks its guest and leaves an archive from which a new guest can be made."""
    pve.durations(vzdump=0.3)
    upid = api.data("POST", "/nodes/pve1/vzdump", vmid=101, storage="local")
    poll(lambda: (pve.found(101) or {})["lock"] == "backup")

    assert pve.wait(upid) == "OK"
    archive = api.data("GET", "/nodes/pve1/storage/local/content", content="backup")[0]["volid"]
    assert api.data("GET", "/nodes/pve2/storage/local/content", content="backup") == []
    assert api.exit("POST", "/nodes/pve1/qemu", vmid=320, archive=archive) == "OK"
    assert (pve.found(320) or {})["name"] == "db-01"
    assert api.exit("POST", "/nodes/pve1/vzdump", vmid=999) == "job errors"


def test_task_is_known_at_its_own_node_only(api: Api) -> None:
    """A task asked for elsewhere, or never started, is 400; its log elsewhere is a single line."""
    upid = api.data("POST", "/nodes/pve1/qemu/101/status/stop")
    elsewhere = api("GET", f"/nodes/pve2/tasks/{upid}/status")
    invented = api("GET", f"/nodes/pve1/tasks/{upid.replace(':101:', ':102:')}/status")
    log = api.data("GET", f"/nodes/pve2/tasks/{upid}/log")

    assert (elsewhere.status_code, elsewhere.json()["errors"]) == (400, {"upid": "no such task"})
    assert (invented.status_code, invented.json()["errors"]) == (400, {"upid": "no such task"})
    assert log == [{"n": 1, "t": "unable to open file - No such file or directory"}]


def test_task_names_its_user_and_token_apart(api: Api) -> None:
    """A task's status shows the user without the token, and its log ends with the outcome."""
    upid = api.data("POST", "/nodes/pve1/qemu/101/status/stop")
    status = api.status(upid)
    log = api("GET", f"/nodes/pve1/tasks/{upid}/log").json()

    assert (status["user"], status["tokenid"], status["exitstatus"]) == ("agentd@pve", "full", "OK")
    assert log["data"][-1]["t"] == "TASK OK"
    assert log["total"] == len(log["data"])


def test_task_lists_filter(api: Api) -> None:
    """The node's task list obeys its filters, page and total."""
    path = "/nodes/pve1/tasks"
    for vmid, action in ((101, "start"), (101, "start"), (999, "start"), (100, "stop")):
        api.exit("POST", f"/nodes/pve1/qemu/{vmid}/status/{action}")
    api.exit("POST", "/nodes/pve2/qemu/102/status/stop")
    now = int(time.time())

    assert len(api.data("GET", path)) == 4
    assert len(api.data("GET", path, vmid=101)) == 2
    assert [task["type"] for task in api.data("GET", path, typefilter="qmstop")] == ["qmstop"]
    assert len(api.data("GET", path, errors=1)) == 2
    assert len(api.data("GET", path, statusfilter="ok")) == 2
    assert len(api.data("GET", path, userfilter="foreign")) == 0
    assert len(api.data("GET", path, since=now + 60)) == 0
    assert len(api.data("GET", path, until=now - 60)) == 0
    assert api.data("GET", path, limit=0) == []
    page = api("GET", path, start=1, limit=2).json()
    assert (len(page["data"]), page["total"]) == (2, 4)
    assert len(api.data("GET", "/cluster/tasks")) == 5


def test_running_tasks_are_in_the_active_list(api: Api, pve: FakePve) -> None:
    """A running task is listed as RUNNING among the active ones, and in the archive when it has ended."""
    pve.durations(qmstart=0.4)
    upid = api.data("POST", "/nodes/pve1/qemu/101/status/start")
    active = api.data("GET", "/nodes/pve1/tasks", source="active")
    archive = api.data("GET", "/nodes/pve1/tasks")
    pve.wait(upid)

    assert [(task["status"], task["user"]) for task in active] == [("RUNNING", "agentd@pve!full")]
    assert archive == []
    assert [task["status"] for task in api.data("GET", "/nodes/pve1/tasks")] == ["OK"]


def test_finished_task_enters_the_archive_late(api: Api, pve: FakePve) -> None:
    """With a lag set, a finished task is missing from the archive until the next one starts."""
    pve.settings(archive_lag=60)
    api.exit("POST", "/nodes/pve1/qemu/101/status/start")

    assert api.data("GET", "/nodes/pve1/tasks") == []
    api.exit("POST", "/nodes/pve1/qemu/101/status/stop")
    assert [task["type"] for task in api.data("GET", "/nodes/pve1/tasks")] == ["qmstart"]


def test_killed_task_leaves_the_lock(api: Api, pve: FakePve) -> None:
    """A deleted task ends with 'unexpected status', without a last line, and its guest stays locked."""
    pve.durations(qmcreate=30)
    upid = api.data("POST", "/nodes/pve1/qemu", **NEW_VM)
    api.data("DELETE", f"/nodes/pve1/tasks/{upid}")
    log = api.data("GET", f"/nodes/pve1/tasks/{upid}/log")

    assert api.status(upid)["exitstatus"] == "unexpected status"
    assert not any(line["t"].startswith("TASK") for line in log)
    assert (pve.found(300) or {})["lock"] == "create"


def test_containers_live_too(api: Api, pve: FakePve) -> None:
    """A container starts, stops, is locked and is cloned as a VM is, with its own words."""
    path = "/nodes/pve2/lxc/201"
    pve.lock(201, "backup")
    locked = api("PUT", f"{path}/config", cores=2)
    pve.lock(201, None)

    assert (locked.status_code, locked.reason) == (500, "CT is locked (backup)")
    assert api.exit("POST", f"{path}/status/start") == "OK"
    assert (pve.found(201) or {})["status"] == "running"
    assert api.exit("POST", f"{path}/status/stop") == "OK"
    assert api.exit("POST", f"{path}/clone", newid=202, hostname="copy", full=1) == "OK"
    assert (pve.found(202) or {})["type"] == "lxc"


def test_snapshot_and_rollback(api: Api, pve: FakePve) -> None:
    """A snapshot keeps the configuration, a second of the same name fails in its task, a rollback brings it back."""
    path = "/nodes/pve1/qemu/101"

    assert api.exit("POST", f"{path}/snapshot", snapname="s1") == "OK"
    assert api.exit("POST", f"{path}/snapshot", snapname="s1") == "snapshot name 's1' already used"
    api.data("PUT", f"{path}/config", memory=8192)
    assert api.exit("POST", f"{path}/snapshot/s1/rollback") == "OK"
    assert str((pve.found(101) or {})["config"]["memory"]) == "4096"
