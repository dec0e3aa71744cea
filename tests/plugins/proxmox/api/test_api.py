"""The tools for every endpoint against a server: checked before they leave, waited for, never done twice."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentd import errors
from agentd.wire.messages import Tier
from agentd_proxmox.api.schema_cache import Schemas
from proxmox_access import AsyncPve, connect
from tool_bench import Bench, Doubt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pve.client import FakePve


@pytest.fixture
async def bench(lab: FakePve, tmp_path: Path) -> AsyncIterator[Bench]:
    """Offer the tools with the token that may do everything."""
    proxmox = connect(lab)
    yield Bench(proxmox, folder=tmp_path)
    await proxmox.close()


START = "/nodes/pve1/qemu/101/status/start"


class TestSchema:
    """Where the schema comes from."""

    async def test_kept(self, lab: FakePve, sim: AsyncPve, tmp_path: Path) -> None:
        """It is fetched once a version; another process reads the file, half a file is fetched again."""
        proxmox = connect(lab)
        first = await Schemas(proxmox, tmp_path / "new").catalogue()
        (file,) = (tmp_path / "new").iterdir()
        whole = file.read_bytes()
        second = await Schemas(proxmox, tmp_path / "new").catalogue()
        same = first.info("GET /version") == second.info("GET /version")
        file.unlink()
        file.write_bytes(whole[:5000])
        third = await Schemas(proxmox, tmp_path / "new").catalogue()

        assert len(first) == len(second) == len(third) == 680
        assert same
        assert first.info("GET /version") == third.info("GET /version")
        assert file.read_bytes() == whole
        assert [path.name for path in (tmp_path / "new").iterdir()] == [file.name]
        assert len(await sim.log("GET", "/version$")) == 3
        await proxmox.close()

    async def test_no_folder(self, lab: FakePve, tmp_path: Path) -> None:
        """A disk that cannot be written costs memory, not the tool."""
        proxmox = connect(lab)
        (tmp_path / "file").write_text("in the way")
        for folder in (None, tmp_path / "file"):
            assert len(await Schemas(proxmox, folder).catalogue()) == 680
        await proxmox.close()

    @pytest.mark.parametrize(
        ("tool", "method", "path", "parameters", "what"),
        [
            ("api_destroy", "POST", "/access/users/eve@pve/token/t1", {}, "its answer holds a secret"),
            (
                "api_destroy",
                "PUT",
                "/access/password",
                {"userid": "eve@pve", "password": "x1y2z3"},
                "'password': is a secret",
            ),
            ("api_call", "PUT", "/nodes/pve1/qemu/101/config", {"cipassword": "x1y2z3"}, "'cipassword': is a secret"),
        ],
    )
    async def test_secrets_do_not_pass(
        self, lab: FakePve, tools: Bench, tool: str, method: str, path: str, parameters: dict[str, Any], what: str
    ) -> None:
        """A call that takes or answers a secret is refused: both would lie in NATS for days."""
        with pytest.raises(errors.AgentdError, match=what) as caught:
            await tools(tool, method=method, path=path, parameters=parameters)

        assert "x1y2z3" not in str(caught.value)
        assert [request for request in lab.log() if request["method"] != "GET"] == []

    async def test_token_stays(self, lab: FakePve) -> None:
        """What does not lie there is an error, not a schema."""
        proxmox = connect(lab)
        with pytest.raises(errors.AgentdError):
            await proxmox.document("/pve-docs/nothing.js")
        assert b"apiSchema" in await proxmox.document("/pve-docs/api-viewer/apidoc.js")
        await proxmox.close()


class TestFind:
    """api_find and api_describe."""

    async def test_pages(self, bench: Bench) -> None:
        """The answer is short, and its pages together are all that fits."""
        first = await bench("api_find", words="firewall rules", limit=10)
        seen, cursor = list(first.found), first.next
        while cursor:
            page = await bench("api_find", words="firewall rules", limit=10, cursor=cursor)
            seen += page.found
            cursor = page.next

        assert len(seen) == len(set(seen)) == first.total > 10
        assert len(msgspec.json.encode(first)) / 4 < 400

    async def test_method(self, bench: Bench) -> None:
        """One method alone can be asked for; words that fit nothing find nothing."""
        found = await bench("api_find", words="snapshot", method="DELETE")

        assert all(item.startswith("DELETE ") for item in found.found)
        assert (await bench("api_find", words="xyzzy")).total == 0

    async def test_describe(self, bench: Bench) -> None:
        """A method says what it takes, the rights it needs, its tool, and whether a task comes of it."""
        answer = await bench("api_describe", path="/nodes/pve1/qemu/100/status/start", method="POST")

        assert answer.method == "POST /nodes/{node}/qemu/{vmid}/status/start"
        assert answer.tool == "api_call"
        assert answer.permissions == "VM.PowerMgmt on /vms/{vmid}"
        assert answer.task
        assert answer.parameters["timeout"].startswith("integer? 0..")
        assert answer.parameters["migration_type"] == "string? secure|insecure"


class TestCall:
    """api_get, api_call, api_destroy, api_exec."""

    async def test_get(self, bench: Bench) -> None:
        """A list comes as a page of chosen fields, an object whole."""
        listed = await bench("api_get", path="/cluster/resources", parameters={"type": "vm"}, fields=["vmid"], limit=2)

        assert listed.total > 2
        assert listed.next == "2"
        assert [set(item) for item in listed.data] == [{"vmid"}] * 2
        assert (await bench("api_get", path="/version")).data["version"]

    async def test_waits(self, bench: Bench, sim: AsyncPve) -> None:
        """A task is waited for, with progress and the end of its log; the world has changed."""
        await sim.durations(default=0.4)
        call = Doubt()
        done = await bench("api_call", call, path="/nodes/pve1/qemu/{vmid}/status/start", parameters={"vmid": 101})

        assert (await sim.found(101))["status"] == "running"
        assert done.upid.startswith("UPID:pve1:")
        assert done.log[-1] == "TASK OK"
        assert call.texts[0] == f"POST {START}"

    async def test_warnings(self, bench: Bench, sim: AsyncPve) -> None:
        """WARNINGS is a success that says what Proxmox warned of."""
        await sim.rule("POST", "/start$", {"task_exit": "WARNINGS: 1"})
        call = Doubt()
        await bench("api_call", call, path=START)

        assert len(call.warnings) == 1

    async def test_task_failed(self, bench: Bench, sim: AsyncPve) -> None:
        """Accepted is not done: a task that fails is an error."""
        await sim.rule("POST", "/start$", {"task_exit": "no space left"})

        with pytest.raises(errors.TaskFailed, match="no space left"):
            await bench("api_call", path=START)

    @pytest.mark.parametrize(
        ("tool", "method", "path", "parameters", "right"),
        [
            ("api_call", "DELETE", "/nodes/pve1/qemu/101", {}, "api_destroy"),
            ("api_call", "POST", "/nodes/pve1/qemu/101/agent/exec", {"command": ["id"]}, "api_exec"),
            ("api_call", "PUT", "/nodes/pve1/qemu/101/config", {"delete": "scsi0"}, "api_destroy"),
            ("api_destroy", "POST", START, {}, "api_call"),
            ("api_exec", "POST", "/nodes/pve1/status", {"command": "reboot"}, "api_destroy"),
        ],
    )
    async def test_wrong_tool(
        self, bench: Bench, sim: AsyncPve, tool: str, method: str, path: str, parameters: dict[str, Any], right: str
    ) -> None:
        """A call of another tier is refused with the tool that may carry it, and nothing is sent."""
        with pytest.raises(errors.Rejected, match=f"{right} is the tool"):
            await bench(tool, path=path, method=method, parameters=parameters)
        assert [request for request in await sim.log() if request["method"] != "GET"] == []

    async def test_reads_that_are_none(self, bench: Bench) -> None:
        """A GET that shows the inside of a guest is no read."""
        with pytest.raises(errors.Rejected, match="api_exec"):
            await bench("api_get", path="/nodes/pve1/qemu/101/agent/file-read", parameters={"file": "/etc/shadow"})

    async def test_destroy(self, bench: Bench, sim: AsyncPve) -> None:
        """The tool of tier destroy does destroy; the policy refuses it to every principal."""
        await bench("api_destroy", path="/nodes/pve1/qemu/101", method="DELETE")

        assert bench.tools["api_destroy"].tier is Tier.DESTROY
        assert await sim.found(101) is None

    async def test_faults(self, bench: Bench, sim: AsyncPve) -> None:
        """Every fault is named at once, and nothing is sent."""
        parameters = {"cors": 2, "memory": "2048", "onboot": "maybe", "net0": "virtio,bridgge=x"}
        with pytest.raises(errors.Rejected) as caught:
            await bench("api_call", path="/nodes/pve1/qemu/101/config", parameters=parameters)

        assert all(item in str(caught.value) for item in ("cors", "cores", "onboot", "bridgge"))
        assert await sim.log("POST") == []

    @pytest.mark.parametrize(
        "path", ["/nodes/../access/users", "/nodes/pve1%2F..", "/nodes/a\nb/status", "/nodes/pve1/qemu/101/config?x=1"]
    )
    async def test_traversal(self, bench: Bench, sim: AsyncPve, path: str) -> None:
        """A path that would lead elsewhere leads nowhere."""
        with pytest.raises((errors.Rejected, errors.NotFound)):
            await bench("api_get", path=path)
        assert [request for request in await sim.log() if request["path"] != "/version"] == []

    async def test_unknown(self, bench: Bench) -> None:
        """An unknown path names near ones, an unknown method those that there are."""
        with pytest.raises(errors.NotFound, match=r"did you mean .*status/start"):
            await bench("api_call", path="/nodes/pve1/qemu/101/status/startt")
        with pytest.raises(errors.NotFound, match="has no PUT; it has GET"):
            await bench("api_call", path="/version", method="PUT")

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        text=st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=80).filter(str.strip),
        onboot=st.booleans(),
        cores=st.integers(1, 64),
    )
    def test_round_trip(self, lab: FakePve, tmp_path: Path, text: str, cores: int, *, onboot: bool) -> None:
        """What is written arrives whole: '=', ';', '&', '%', emoji, booleans and numbers."""

        async def write() -> None:
            proxmox = connect(lab)
            parameters = {"description": text, "onboot": onboot, "cores": cores}
            await Bench(proxmox, folder=tmp_path)("api_call", path="/nodes/pve1/qemu/101/config", parameters=parameters)
            await proxmox.close()

        asyncio.run(write())
        config = lab.found(101)["config"]  # type: ignore[index]

        assert config["description"].strip() == text.strip()
        assert (int(config["onboot"]), int(config["cores"])) == (int(onboot), cores)


class TestLost:
    """A write whose answer is lost."""

    async def test_settled(self, bench: Bench, sim: AsyncPve) -> None:
        """The task that it began is found in the list and waited for; nothing is sent again."""
        await sim.rule("POST", "/start$", {"cut_after": True}, 1)
        call = Doubt()
        with pytest.raises(errors.UnknownOutcome):
            await bench("api_call", call, path=START)
        done = await bench("api_call", call, path=START)

        assert done.settled
        assert done.upid.startswith("UPID:pve1:")
        assert call.acted == 1
        assert len(await sim.log("POST", "/start$")) == 1

    async def test_an_unlisted_task_has_an_unknown_outcome(self, bench: Bench, sim: AsyncPve) -> None:
        """While its task may yet be listed the outcome is unknown; later a person decides, and nothing is repeated."""
        await sim.rule("POST", "/start$", {"lost_before": True}, 1)
        call = Doubt()
        for _ in range(2):
            with pytest.raises(errors.UnknownOutcome):
                await bench("api_call", call, path=START)
        call.begun = datetime.now(UTC) - timedelta(minutes=1)
        with pytest.raises(errors.PermanentError, match="its result is not known"):
            await bench("api_call", call, path=START)

        assert len(await sim.log("POST", "/start$")) == 1

    async def test_a_foreign_task_is_not_adopted(self, bench: Bench, sim: AsyncPve) -> None:
        """A task of before, or of another kind, is never taken for ours."""
        await bench("api_call", path=START)
        await bench("api_call", path="/nodes/pve1/qemu/101/status/shutdown")
        call = Doubt(datetime.now(UTC) + timedelta(seconds=3))
        with pytest.raises(errors.UnknownOutcome):
            await bench("api_call", call, path=START)

        assert len(await sim.tasks("qmstart")) == 1

    async def test_synchronous(self, bench: Bench, sim: AsyncPve) -> None:
        """A write without a task cannot be settled: a person decides."""
        await sim.rule("PUT", "/config$", {"cut_after": True}, 1)
        call = Doubt()
        config: dict[str, Any] = {"path": "/nodes/pve1/qemu/101/config", "method": "PUT", "parameters": {"cores": 3}}
        with pytest.raises(errors.UnknownOutcome):
            await bench("api_call", call, **config)
        with pytest.raises(errors.PermanentError):
            await bench("api_call", call, **config)

    @pytest.mark.parametrize(
        ("status", "kind"), [(595, "ProxmoxUnavailable"), (596, "UnknownOutcome"), (599, "UnknownOutcome")]
    )
    async def test_proxy(self, bench: Bench, sim: AsyncPve, status: int, kind: str) -> None:
        """595 has sent nothing, 596 and 599 may have."""
        await sim.rule("POST", "/start$", {"status": status}, 1)
        with pytest.raises(errors.TemporaryError) as caught:
            await bench("api_call", path=START)

        assert type(caught.value).__name__ == kind

    async def test_cluster(self, bench: Bench, sim: AsyncPve) -> None:
        """A node that is off, an unknown one and a cluster without a quorum are distinguished."""
        await sim.node("pve3", online=False)
        with pytest.raises(errors.ProxmoxUnavailable, match="offline"):
            await bench("api_call", path="/nodes/pve3/qemu/104/status/start")
        with pytest.raises(errors.NotFound, match="there is no node"):
            await bench("api_get", path="/nodes/pve9/status")
        await sim.quorum(quorate=False)
        with pytest.raises(errors.NoQuorum):
            await bench("api_call", path=START)

    async def test_time_out(self, lab: FakePve, sim: AsyncPve, tmp_path: Path) -> None:
        """A client's time-out on a write is an unknown outcome."""
        proxmox = connect(lab)
        bench = Bench(proxmox, folder=tmp_path)
        await bench("api_find", words="x")
        hasty = connect(lab, timeout=0.3)
        bench = Bench(hasty, folder=tmp_path)
        await sim.rule("POST", "/start$", {"delay": 1.0}, 1)
        with pytest.raises(errors.UnknownOutcome):
            await bench("api_call", path=START)
        await proxmox.close()
        await hasty.close()

    async def test_denied(self, lab: FakePve, tmp_path: Path) -> None:
        """A 403 names path, privilege and the command that grants it."""
        proxmox = connect(lab, "audit")
        with pytest.raises(errors.Denied, match=r"VM\.PowerMgmt on /vms/101; to grant it: pveum acl modify /vms/101"):
            await Bench(proxmox, folder=tmp_path)("api_call", path=START)
        await proxmox.close()
