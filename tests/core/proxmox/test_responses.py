"""Recorded answers of the Proxmox VE API come out as the right errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd.proxmox.client import encode
from agentd.proxmox.responses import TaskStatus, Upid, classify, failure, role_for, task_status

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "agentd@pve!full"  # noqa: S105 - a name
UPID = "UPID:pve1:000001DF:00033DD8:6B02BFBE:qmcreate:101:agent@pve!full:"


def recorded(facts: Path, name: str) -> dict[str, Any]:
    """Return one recorded answer of the real API."""
    answer: dict[str, Any] = json.loads((facts / "pve" / "recorded" / f"{name}.json").read_text())
    return answer


def error_in(answer: dict[str, Any]) -> errors.AgentdError:
    """Return what a recorded answer means."""
    body = answer["body"] if isinstance(answer["body"], dict) else {}
    return classify(
        answer["method"],
        answer["status"],
        answer["reason"],
        body.get("errors"),
        body,
        path=answer["path"],
        token=TOKEN,
    )


class TestRecordedAnswers:
    """Answers of the real API."""

    @pytest.mark.parametrize(
        ("name", "kind", "words"),
        [
            (
                "err-400",
                errors.Rejected,
                ["cores: value must have a minimum value of 1", "nosuch: ", "vmid: type check"],
            ),
            ("err-401-bad-token", errors.Denied, [TOKEN, "Authentication failed!"]),
            ("err-401-csrf", errors.Denied, ["invalid csrf token"]),
            ("err-401-login", errors.Denied, ["authentication failure"]),
            ("err-401-no-ticket", errors.Denied, ["No ticket"]),
            (
                "err-403",
                errors.Denied,
                [
                    "/vms/100",
                    "VM.PowerMgmt",
                    "pveum acl modify /vms/100 --tokens 'agentd@pve!full' --roles PVEVMUser",
                ],
            ),
            ("err-500-digest", errors.ConfigChanged, ["checksum mismatch"]),
            ("err-500-lock-timeout", errors.GuestLocked, ["lock-101.conf"]),
            ("err-500-locked", errors.GuestLocked, ["'backup'"]),
            ("err-500-missing-vm", errors.NotFound, ["999.conf"]),
            ("err-500-no-quorum-put", errors.NoQuorum, ["quorum"]),
            ("err-500-no-quorum", errors.NoQuorum, ["quorum"]),
            ("err-500-pmxcfs-down", errors.ProxmoxUnavailable, ["RPCEnvironment init request failed"]),
            ("err-501", errors.PermanentError, ["GET /nosuch", "does not offer"]),
            ("err-595-no-route", errors.ProxmoxUnavailable, ["No route to host"]),
            ("err-595-refused", errors.ProxmoxUnavailable, ["Connection refused"]),
            ("err-nextid-taken", errors.VmidTaken, ["VM 100 already exists"]),
        ],
    )
    def test_error(self, facts: Path, name: str, kind: type[errors.AgentdError], words: list[str]) -> None:
        """Each recorded error becomes the right kind, with the words an operator needs, on one line."""
        found = error_in(recorded(facts, name))

        assert type(found) is kind
        assert "\n" not in str(found)
        for word in words:
            assert word in str(found)

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("task-status-running", TaskStatus(UPID, running=True)),
            ("task-status-ok", TaskStatus(UPID, running=False, exit="OK")),
            ("task-status-warnings", TaskStatus(UPID, running=False, exit="WARNINGS: 1")),
            ("task-status-error", TaskStatus(UPID, running=False, exit="VM is locked (backup)")),
            ("task-status-unexpected", TaskStatus(UPID, running=False, exit="unexpected status")),
            ("task-status-joberrors", TaskStatus(UPID, running=False, exit="job errors")),
        ],
    )
    def test_task_status(self, facts: Path, name: str, expected: TaskStatus) -> None:
        """Each recorded task status is understood; warnings are a success."""
        found = task_status(UPID, recorded(facts, name)["body"]["data"])

        assert found == expected
        assert found.succeeded is (expected.exit in {"OK", "WARNINGS: 1"})
        assert found.warnings == (1 if expected.exit == "WARNINGS: 1" else 0)

    def test_upids(self, facts: Path) -> None:
        """Every UPID that was recorded is parsed, with the parts that the answer itself says."""
        for name in ("node-tasks", "tasks-errors", "tasks-active", "cluster-tasks"):
            for entry in recorded(facts, name)["body"]["data"]:
                upid = Upid.parse(entry["upid"])

                assert (upid.node, upid.type, upid.id) == (entry["node"], entry["type"], entry["id"])
                assert upid.start == int(entry["starttime"])
                assert upid.user.partition("!")[0] == entry["user"].partition("!")[0]

    def test_roles(self, facts: Path) -> None:
        """The role that an error recommends really has the privilege."""
        roles = {item["roleid"]: item["privs"].split(",") for item in recorded(facts, "access-roles")["body"]["data"]}

        for privilege in roles["Administrator"]:
            role = role_for(privilege)
            assert role.startswith("Agentd") or privilege in roles[role]
        assert role_for("VM.Allocate") == "PVEVMAdmin"
        assert role_for("Sys.Modify") != "Administrator"


class TestClassify:
    """Answers that were not recorded, with the texts that a real cluster gave."""

    @pytest.mark.parametrize(
        ("method", "status", "reason", "kind"),
        [
            ("POST", 500, "got no worker upid - start worker failed", errors.ProxmoxUnavailable),
            ("PUT", 500, "cfs-lock 'file-user_cfg' error: no quorum!", errors.NoQuorum),
            ("POST", 500, "cfs-lock 'storage-x' error: got lock request timeout", errors.GuestLocked),
            ("POST", 500, "CT is locked (snapshot-delete)", errors.GuestLocked),
            ("POST", 500, "unable to create VM 100 - VM 100 already exists on node 'pve1'", errors.VmidTaken),
            ("POST", 500, "unable to create VM 100: config file already exists", errors.VmidTaken),
            ("POST", 500, "user 'x@pve' already exists", errors.PermanentError),
            ("GET", 500, "hostname lookup 'pve9' failed - failed to get address info for: pve9", errors.NotFound),
            ("POST", 500, "no such cluster node 'pve9'", errors.NotFound),
            ("POST", 500, "400 Parameter verification failed.", errors.Rejected),
            ("GET", 596, "Broken pipe", errors.ProxmoxUnavailable),
            ("POST", 596, "Broken pipe", errors.UnknownOutcome),
            ("GET", 599, "Too many redirections", errors.ProxmoxUnavailable),
            ("DELETE", 599, "", errors.UnknownOutcome),
            ("POST", 595, "No route to host", errors.ProxmoxUnavailable),
            ("POST", 504, "Gateway Timeout", errors.UnknownOutcome),
            ("POST", 500, "storage 'x' is not online", errors.PermanentError),
        ],
    )
    def test_text(self, method: str, status: int, reason: str, kind: type[errors.AgentdError]) -> None:
        """A 500 is classified by its text, a lost answer counts whether it was a write."""
        assert type(classify(method, status, reason)) is kind

    def test_body_over_reason(self) -> None:
        """The body's message is taken, the reason phrase stops at the first newline."""
        found = classify("POST", 500, "first", None, {"message": "first\nsecond\x1b[31m\n"})

        assert str(found).endswith("first second [31m")

    def test_several_privileges(self) -> None:
        """A 403 that several privileges would cure names them all and grants the first."""
        found = classify("PUT", 403, "Permission check failed (/vms/7, VM.Config.Disk|VM.Config.CPU)", token=TOKEN)

        assert "VM.Config.Disk or VM.Config.CPU on /vms/7" in str(found)
        assert "--roles PVEVMAdmin" in str(found)

    @pytest.mark.parametrize(
        ("exit_text", "kind"),
        [
            ("VM is locked (backup)", errors.GuestLocked),
            ("can't lock file '/var/lock/qemu-server/lock-101.conf' - got timeout", errors.GuestLocked),
            ("cluster not ready - no quorum?", errors.NoQuorum),
            ("VM quit/powerdown failed - got timeout", errors.TaskFailed),
            ("unexpected status", errors.TaskFailed),
            ("Configuration file 'nodes/pve1/qemu-server/1.conf' does not exist", errors.TaskFailed),
        ],
    )
    def test_failure(self, exit_text: str, kind: type[errors.AgentdError]) -> None:
        """A task that failed on a lock or the quorum may be tried again; a time-out inside it may not."""
        found = failure(TaskStatus(UPID, running=False, exit=exit_text), ["line"])

        assert type(found) is kind
        assert exit_text in str(found)

    @pytest.mark.parametrize(
        "text",
        ["", "UPID:pve1", UPID[:-1], UPID + "\n", "UPID:pve1:1:00033DD8:6B02BFBE:qmcreate:101:a@pve:", "../" + UPID],
    )
    def test_no_upid(self, text: str) -> None:
        """What is no UPID never becomes part of a path."""
        with pytest.raises(errors.Rejected):
            Upid.parse(text)

    def test_rare_upids(self) -> None:
        """An empty id, an id with @ and a pstart of nine digits are all UPIDs."""
        assert Upid.parse("UPID:pve1:000001AD:00042988:6B02C219:vzdump::root@pam:").id == ""
        assert Upid.parse("UPID:n-1:000001AD:123456789:6B02C219:imgdel:100@local:a@pve!t:").id == "100@local"

    def test_encode(self) -> None:
        """Booleans are 1 and 0, None is left out, a number stays one."""
        assert encode({"a": True, "b": False, "c": None, "d": 1, "e": ["x", "y"]}) == {
            "a": 1,
            "b": 0,
            "d": 1,
            "e": ["x", "y"],
        }
