"""The client of Proxmox VE: recorded answers come out as the right errors, and calls behave against a server."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd.proxmox.client import Proxmox, encode
from agentd.proxmox.responses import TaskStatus, Upid, classify, failure, role_for, task_status
from proxmox_access import AsyncPve, access, connect
from pve.client import FakePve, available

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

TOKEN = "agentd@pve!full"  # noqa: S105 - a name
UPID = "UPID:pve1:000001DF:00033DD8:6B02BFBE:qmcreate:101:agent@pve!full:"


def recorded(facts: Path, name: str) -> dict[str, Any]:
    """Return one recorded answer of the real API."""
    answer: dict[str, Any] = json.loads((facts / "pve" / "recorded" / f"{name}.json").read_text())
    return answer


def judged(answer: dict[str, Any]) -> errors.AgentdError:
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
        found = judged(recorded(facts, name))

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


@pytest.fixture(scope="module")
def simulator() -> Iterator[FakePve]:
    """Run one simulator for this file."""
    if not available():
        pytest.skip("the simulator's environment is not there (.venv-pve)")
    with FakePve(cluster="small") as running:
        yield running


@pytest.fixture
def pve(simulator: FakePve) -> FakePve:
    """Start each test with the cluster as it was at first."""
    simulator.reset()
    return simulator


@pytest.fixture
def sim(pve: FakePve) -> AsyncPve:
    """Steer the simulator without blocking the loop."""
    return AsyncPve(pve)


@pytest.fixture
async def proxmox(pve: FakePve) -> AsyncIterator[Proxmox]:
    """Connect with the token that may do everything."""
    client = connect(pve)
    yield client
    await client.close()


class TestCalls:
    """Calls to a server."""

    async def test_values_arrive_whole(self, proxmox: Proxmox, sim: AsyncPve) -> None:
        """An '=', a ';' and a '&' in a value arrive, booleans as Proxmox reads them."""
        text = "a=b;c&d %3D\nzwölf"
        upid = await proxmox.post("/nodes/pve1/qemu", vmid=300, description=text, onboot=True, cpu=None)

        assert await proxmox.wait(upid, 5) == []
        config = (await sim.found(300))["config"]
        assert config["description"].strip() == text
        assert config["onboot"] == 1

    async def test_warnings(self, proxmox: Proxmox, sim: AsyncPve) -> None:
        """WARNINGS is success, and the warnings come from the task's log."""
        await sim.rule("POST", "/qemu$", {"task_exit": "WARNINGS: 2"})

        lines = await proxmox.wait(await proxmox.post("/nodes/pve1/qemu", vmid=300), 5)

        assert [line.startswith("WARN") for line in lines] == [True, True]

    async def test_task_failed(self, proxmox: Proxmox, sim: AsyncPve) -> None:
        """A task that failed raises its exit status and the last lines of its log."""
        await sim.rule("POST", "/qemu$", {"task_exit": "lvcreate failed"})
        upid = await proxmox.post("/nodes/pve1/qemu", vmid=300)

        with pytest.raises(errors.TaskFailed, match="lvcreate failed") as caught:
            await proxmox.wait(upid, 5)
        assert caught.value.log[-1] == "TASK ERROR: lvcreate failed"

    async def test_task_on_a_locked_guest(self, proxmox: Proxmox, sim: AsyncPve) -> None:
        """A start of a locked VM is accepted and fails; that names the lock and may be tried again."""
        await sim.lock(101)
        upid = await proxmox.post("/nodes/pve1/qemu/101/status/start")

        with pytest.raises(errors.GuestLocked, match="backup"):
            await proxmox.wait(upid, 5)

    async def test_polling_survives(self, proxmox: Proxmox, sim: AsyncPve) -> None:
        """595, 596, 599 and a lost connection while polling are no end of the task."""
        await sim.durations(qmcreate=0.5)
        upid = await proxmox.post("/nodes/pve1/qemu", vmid=300)
        for effect in ({"status": 595}, {"status": 596}, {"status": 599}, {"cut_after": True}):
            await sim.rule("GET", "/status$", effect, 2)

        assert await proxmox.wait(upid, 10) == []

    async def test_wait_has_an_end(self, proxmox: Proxmox, sim: AsyncPve) -> None:
        """A task that still runs at the deadline is reported as such, not as failed."""
        await sim.durations(qmcreate=30)
        upid = await proxmox.post("/nodes/pve1/qemu", vmid=300)

        with pytest.raises(errors.TemporaryError, match="not known to be over"):
            await proxmox.wait(upid, 0.2)

    async def test_lost_answers(self, proxmox: Proxmox, sim: AsyncPve) -> None:
        """A write without an answer has an unknown outcome, whether it happened or not; a read is sent again."""
        await sim.rule("POST", "/qemu$", {"cut_after": True}, 1)
        await sim.rule("POST", "/qemu$", {"lost_before": True}, 1)
        await sim.rule("GET", "/version$", {"cut_after": True}, 1)

        with pytest.raises(errors.UnknownOutcome):
            await proxmox.post("/nodes/pve1/qemu", vmid=300)
        with pytest.raises(errors.UnknownOutcome):
            await proxmox.post("/nodes/pve1/qemu", vmid=301)
        assert (await proxmox.get("/version"))["version"]
        assert await sim.found(300) is not None
        assert await sim.found(301) is None

    async def test_time_out(self, pve: FakePve, sim: AsyncPve) -> None:
        """A write that is not answered in time has an unknown outcome, a read may be sent again."""
        proxmox = connect(pve, timeout=0.2)
        await sim.rule("*", "/(qemu|version)$", {"delay": 0.6})

        with pytest.raises(errors.UnknownOutcome):
            await proxmox.post("/nodes/pve1/qemu", vmid=300)
        with pytest.raises(errors.ProxmoxUnavailable):
            await proxmox.get("/version")
        await proxmox.close()

    async def test_a_refused_connection(self, pve: FakePve) -> None:
        """A refused connection has sent nothing, so even a write is only unavailable."""
        proxmox = connect(pve, url="https://127.0.0.1:1")

        with pytest.raises(errors.ProxmoxUnavailable, match="not reachable"):
            await proxmox.post("/nodes/pve1/qemu", vmid=300)
        await proxmox.close()

    @pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
    async def test_certificate(self, pve: FakePve, monkeypatch: pytest.MonkeyPatch) -> None:
        """An unknown CA is refused whatever the environment says; only an explicit setting accepts it."""
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pve.ca))
        strict, lax = connect(pve, ca_file=None), connect(pve, ca_file=None, verify=False)

        with pytest.raises(errors.ProxmoxUnavailable, match="not trusted"):
            await strict.get("/version")
        assert await lax.get("/version")
        assert (strict.insecure, lax.insecure) == (False, True)
        await strict.close()
        await lax.close()

    async def test_wrong_token(self, pve: FakePve, sim: AsyncPve) -> None:
        """A wrong token is Denied, the secret is not shown, and Proxmox is not asked again at once."""
        proxmox = connect(pve, secret="11111111-2222-3333-4444-555555555555")  # noqa: S106
        await sim.settings(auth_delay=0)
        texts = []
        for _ in range(3):
            with pytest.raises(errors.Denied) as caught:
                await proxmox.get("/version")
            texts.append(str(caught.value))

        assert len(await sim.log("GET", "/version$")) == 1
        assert all(TOKEN in text and "11111111" not in text for text in texts)
        await proxmox.close()

    async def test_permissions(self, pve: FakePve, proxmox: Proxmox) -> None:
        """A token without rights is distinguished from one that sees nothing."""
        blind = connect(pve, "blind")

        assert await blind.permissions() == {}
        assert "VM.Allocate" in (await proxmox.permissions())["/"]
        await blind.close()

    @pytest.mark.parametrize(
        "path", ["", "/nodes/../access", "/nodes//x", "/nodes/a?b=c", "/nodes/a b", "/x%2Fy", "/x/dc%2Fy"]
    )
    async def test_paths(self, proxmox: Proxmox, path: str) -> None:
        """A path that would lead elsewhere is refused before it is sent."""
        with pytest.raises(errors.Rejected):
            await proxmox.get(path)

    async def test_two_calls_a_node(self, pve: FakePve, sim: AsyncPve) -> None:
        """At most two protected calls are in flight on a node; cheap ones and other nodes do not wait for them."""
        seen: list[tuple[str, str]] = []
        proxmox = Proxmox(access(pve), observe=lambda method, outcome, _: seen.append((method, outcome)))
        await sim.rule("GET", "/nodes/pve1/qemu$", {"delay": 0.4})
        started = time.monotonic()
        slow = [asyncio.ensure_future(proxmox.get("/nodes/pve1/qemu")) for _ in range(6)]
        await asyncio.sleep(0.05)
        slow[0].cancel()  # its place is free only when the call is over

        await asyncio.gather(
            proxmox.get("/version"), proxmox.tasks("pve1"), proxmox.get("/nodes/pve2/qemu"), proxmox.get("/nodes")
        )
        prompt = time.monotonic() - started
        await asyncio.gather(*slow[1:])
        arrived = sorted(entry["t"] for entry in await sim.log("GET", "/nodes/pve1/qemu$"))

        assert prompt < 0.4
        assert all(later - early >= 0.35 for early, later in zip(arrived, arrived[2:], strict=False))
        assert seen.count(("GET", "ok")) >= 9
        await proxmox.close()

    async def test_long_log(self, proxmox: Proxmox, sim: AsyncPve) -> None:
        """The tail of a log is its last lines."""
        upid = await proxmox.post("/nodes/pve1/qemu", vmid=300, scsi0="local-lvm:4")
        await proxmox.wait(upid, 5)

        assert await proxmox.log_tail(upid, 1) == ["TASK OK"]
        assert len(await proxmox.log_tail(upid)) == len((await sim.tasks("qmcreate"))[0]["log"])
