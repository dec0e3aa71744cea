"""The client of Proxmox VE: calls against a server."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from agentd import errors
from agentd.proxmox.client import Proxmox
from proxmox_access import AsyncPve, access, connect
from pve.client import FakePve, available

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

TOKEN = "agentd@pve!full"  # noqa: S105 - a name

UPID = "UPID:pve1:000001DF:00033DD8:6B02BFBE:qmcreate:101:agent@pve!full:"


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
    """Control the simulator without blocking the loop."""
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
        """An unknown CA is refused for any environment; only an explicit setting accepts it."""
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
