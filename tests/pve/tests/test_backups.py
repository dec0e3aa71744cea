"""The simulated backups, jobs and snapshots match the documentation of the real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pve.tests.api import Api, poll

if TYPE_CHECKING:
    from pve.client import FakePve

CONTENT = "/nodes/pve1/storage/local/content"
PRUNE = "/nodes/pve1/storage/local/prunebackups"


def back_up(api: Api, vmid: int = 101, **more: Any) -> str:
    """Back a guest up and return its newest archive."""
    before = {item["volid"] for item in api.data("GET", CONTENT, content="backup")}
    assert api.exit("POST", "/nodes/pve1/vzdump", vmid=vmid, storage="local", **more) == "OK"
    return str(next(e["volid"] for e in api.data("GET", CONTENT, content="backup") if e["volid"] not in before))


def test_notes_and_protection(api: Api) -> None:
    """Notes are rendered, a list shows their first line alone, one volume all of them; protection keeps it."""
    notes: dict[str, Any] = {"notes-template": "{{guestname}}/{{vmid}} on {{node}}\\nmore \\\\ here"}
    volid = back_up(api, protected=1, **notes)
    listed = api.data("GET", CONTENT, content="backup")[0]
    whole = api.data("GET", f"{CONTENT}/{volid}")

    assert (listed["notes"], listed["protected"], listed["subtype"]) == ("db-01/101 on pve1", 1, "qemu")
    assert whole["notes"] == "db-01/101 on pve1\nmore \\ here"
    assert "cannot remove protected volume" in api.exit("DELETE", f"{CONTENT}/{volid}")
    api.data("PUT", f"{CONTENT}/{volid}", protected=0, notes="x=1;y")
    assert api.data("GET", f"{CONTENT}/{volid}")["notes"] == "x=1;y"
    assert api.exit("DELETE", f"{CONTENT}/{volid}") == "OK"


def test_log_and_extension(api: Api) -> None:
    """The log names the archive and each guest's fate; the extension is the compression's."""
    volid = back_up(api, compress="gzip", mode="stop")
    upid = api.data("POST", "/nodes/pve1/vzdump", vmid="101,102", storage="local")
    lines = [item["t"] for item in api.data("GET", f"/nodes/pve1/tasks/{upid}/log")]

    assert volid.endswith(".vma.gz")
    assert api.status(upid)["exitstatus"] == "job errors"
    assert api.status(upid)["id"] == ""
    assert "ERROR: Backup of VM 102 failed - unable to find VM '102'" in lines
    assert any(line.startswith("INFO: creating vzdump archive '/var/lib/vz/dump/vzdump-qemu-101-") for line in lines)


def test_restore(api: Api, pve: FakePve) -> None:
    """A restore takes the archive's configuration and what the request says; over a guest only by force and stopped."""
    api.data("PUT", "/nodes/pve1/qemu/101/config", description="a: b\nc")
    volid = back_up(api)
    text = api.data("GET", "/nodes/pve1/vzdump/extractconfig", volume=volid)

    assert text.startswith("#a: b\n#c\n")
    assert api.exit("POST", "/nodes/pve1/qemu", vmid=320, archive=volid, name="copy", description="new") == "OK"
    assert (pve.found(320) or {})["description"] == "new"
    assert "already exists" in api("POST", "/nodes/pve1/qemu", vmid=101, archive=volid).reason
    assert "vm is running" in api("POST", "/nodes/pve1/qemu", vmid=100, archive=volid, force=1).reason
    api.data("PUT", "/nodes/pve1/qemu/101/config", memory=1111)
    assert api.exit("POST", "/nodes/pve1/qemu", vmid=101, archive=volid, force=1) == "OK"
    assert str((pve.found(101) or {})["config"]["memory"]) == "4096"


def test_restore_of_a_container(api: Api, pve: FakePve) -> None:
    """A container comes back with its configuration, on a storage for containers."""
    volid = back_up(api, 200)

    assert api.exit("POST", "/nodes/pve1/lxc", vmid=330, ostemplate=volid, restore=1, hostname="copy") == "OK"
    found = pve.found(330) or {}
    assert (found["name"], found["config"]["rootfs"]) == ("copy", "local-lvm:vm-330-disk-0,size=8G")


def test_prune(api: Api) -> None:
    """A rule keeps the newest, the newest of each span, and what is protected; the list deletes nothing."""
    oldest, middle, newest = (back_up(api) for _ in range(3))
    api.data("PUT", f"{CONTENT}/{oldest}", protected=1)
    rule = {"prune-backups": "keep-last=1", "vmid": 101}
    marks = {item["volid"]: item["mark"] for item in api.data("GET", PRUNE, **rule)}

    assert marks == {oldest: "protected", middle: "remove", newest: "keep"}
    assert {item["mark"] for item in api.data("GET", PRUNE, vmid=101)} == {"protected", "keep"}
    yearly = {item["volid"]: item["mark"] for item in api.data("GET", PRUNE, **{"prune-backups": "keep-yearly=2"})}
    assert yearly[newest] == "keep"
    assert api.exit("DELETE", PRUNE, **rule) == "OK"
    assert {item["volid"] for item in api.data("GET", CONTENT, content="backup")} == {oldest, newest}


def test_jobs(api: Api, audit: Api, pve: FakePve) -> None:
    """Jobs are kept as the recorded ones are shown; guests in none are reported; no quorum, no change."""
    job = {"id": "nightly", "schedule": "02:00", "storage": "local", "vmid": "100,101"}
    api.data("POST", "/cluster/backup", **job, **{"prune-backups": "keep-last=3,keep-weekly=2"})
    shown = api.data("GET", "/cluster/backup")[0]

    assert shown["prune-backups"] == {"keep-last": "3", "keep-weekly": "2"}
    assert (shown["enabled"], shown["type"], shown["mode"]) == (1, "vzdump", "snapshot")
    assert "already exists" in api("POST", "/cluster/backup", **job).reason
    assert {100, 101} & {item["vmid"] for item in api.data("GET", "/cluster/backup-info/not-backed-up")} == set()
    assert audit("PUT", "/cluster/backup/nightly", enabled=0).status_code == 403
    pve.quorum(quorate=False)
    assert "no quorum!" in api("PUT", "/cluster/backup/nightly", enabled=0).reason
    pve.quorum(quorate=True)
    api.data("PUT", "/cluster/backup/nightly", enabled=0, delete="prune-backups")
    assert "prune-backups" not in api.data("GET", "/cluster/backup/nightly")
    assert 100 in {item["vmid"] for item in api.data("GET", "/cluster/backup-info/not-backed-up")}
    api.data("DELETE", "/cluster/backup/nightly")
    assert api.data("GET", "/cluster/backup") == []


def test_snapshot_takes_time(api: Api, pve: FakePve) -> None:
    """While a snapshot is made, its guest is locked and the snapshot is shown as not finished."""
    pve.durations(qmsnapshot=0.5)
    upid = api.data("POST", "/nodes/pve1/qemu/101/snapshot", snapname="s1")
    poll(lambda: (pve.found(101) or {})["lock"] == "snapshot")
    states = {item["name"]: item.get("snapstate") for item in api.data("GET", "/nodes/pve1/qemu/101/snapshot")}

    assert states == {"s1": "prepare", "current": None}
    assert pve.wait(upid) == "OK"


def test_storage_off_line(api: Api, pve: FakePve) -> None:
    """A storage that is off line is listed as unknown and refuses a backup."""
    pve.storage("local", active=False)
    listed = {e["storage"]: e["status"] for e in api.data("GET", "/cluster/resources", type="storage")}

    assert listed["local"] == "unknown"
    assert "is not online" in api("POST", "/nodes/pve1/vzdump", vmid=101, storage="local").reason
