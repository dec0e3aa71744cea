"""Files that are sent: whole or not at all, once, from allowed folders alone, in little memory."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from agentd import errors
from agentd.proxmox.upload import CHUNK, Upload
from agentd_proxmox.settings import ToolSettings
from proxmox_access import AsyncPve, connect
from tool_bench import Bench, Doubt, MemoryCall, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from pve.client import FakePve

IMAGE = os.urandom(3 * CHUNK + 17)
RIGHT = hashlib.sha256(IMAGE).hexdigest()
WHERE: dict[str, Any] = {"storage": "local", "node": "pve1"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder that files may be sent from."""
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.iso").write_bytes(IMAGE)
    return folder


@pytest_asyncio.fixture
async def bench(lab: FakePve, folder: Path) -> AsyncIterator[Bench]:
    """Offer the tools with the folder allowed."""
    proxmox = connect(lab)
    yield Bench(proxmox, ToolSettings(lock_timeout=3, upload_dirs=[folder]))
    await proxmox.close()


class Meddling(MemoryCall):
    """A call at whose first progress of a kind something is done."""

    def __init__(self, kind: str, operation: Callable[[], object]) -> None:
        """Keep what is done, and when."""
        super().__init__(seconds=120)
        self.kind, self.operation = kind, operation

    def progress(self, text: str) -> None:
        """Do it once."""
        super().progress(text)
        if text.startswith(self.kind):
            self.operation()
            self.kind = "never"


async def sent(sim: AsyncPve) -> int:
    """Return how many uploads arrived and were taken."""
    return len(await sim.tasks("imgcopy"))


class TestSent:
    """What comes of a good file."""

    async def test_sent(self, bench: Bench, sim: AsyncPve, folder: Path) -> None:
        """A file arrives byte by byte as it is, with its checksum; the second time it is left alone, with a warning."""
        wanted: dict[str, Any] = {**WHERE, "path": str(folder / "a.iso"), "checksum": RIGHT.upper()}
        call, again = MemoryCall(), MemoryCall()
        made = await bench.call("upload_file", call, **wanted)
        same = await bench.call("upload_file", again, **wanted)

        assert (made.volid, made.size) == ("local:iso/a.iso", len(IMAGE))
        assert f"sending {folder}/a.iso: 100 % of {len(IMAGE)} bytes" in call.texts
        assert (same, await sent(sim)) == (made, 1)
        assert again.warnings == [
            "local:iso/a.iso was there already with as many bytes, and is left as it is; it was not compared"
        ]

    @pytest.mark.parametrize(
        ("content", "filename"), [("vztmpl", "d.tar.zst"), ("import", "cloud.qcow2"), ("iso", "other-1.2.img")]
    )
    async def test_contents(self, bench: Bench, sim: AsyncPve, folder: Path, content: str, filename: str) -> None:
        """Templates and images for import go the same way, under another name on request."""
        wanted: dict[str, Any] = {**WHERE, "content": content, "filename": filename}
        made = await bench.call("upload_file", **wanted, path=str(folder / "a.iso"))

        assert (made.volid, made.size, made.content) == (f"local:{content}/{filename}", len(IMAGE), content)
        assert await sent(sim) == 1

    async def test_memory(self, bench: Bench, folder: Path) -> None:
        """A file of 600 MiB does not make the process larger by more than 32 MiB."""
        with (folder / "big.iso").open("wb") as file:
            file.truncate(600 << 20)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        made = await bench.call("upload_file", MemoryCall(seconds=120), **WHERE, path=str(folder / "big.iso"))

        assert made.size == 600 << 20
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10


class TestLost:
    """What comes of an answer, or a connection, that is lost."""

    @pytest.mark.parametrize("fault", ["cut_after", "lost_before"])
    @pytest.mark.parametrize("seconds", [0.0, 0.7])
    async def test_answer(self, bench: Bench, sim: AsyncPve, folder: Path, fault: str, seconds: float) -> None:
        """An upload with a lost answer or connection is settled by reading: it is stored once."""
        await sim.durations(imgcopy=seconds)
        await sim.rule("POST", "/upload$", {fault: True}, 1)
        made = await bench.until_done("upload_file", MemoryCall(), **WHERE, path=str(folder / "a.iso"))

        assert (made.size, await sent(sim)) == (len(IMAGE), 1)

    async def test_our_names_are_answered(self, bench: Bench, folder: Path) -> None:
        """A file of our own lost request is not foreign: there is no warning."""
        call = Doubt()
        first = await bench("upload_file", call, **WHERE, path=str(folder / "a.iso"))
        second = await bench("upload_file", call, **WHERE, path=str(folder / "a.iso"))

        assert (first, call.warnings) == (second, [])

    async def test_cut(self, bench: Bench, sim: AsyncPve, folder: Path) -> None:
        """A connection that breaks in the middle leaves nothing, and says how far it came."""
        await sim.rule("POST", "/upload$", {"lost_before": True})

        with pytest.raises(errors.ProxmoxUnavailable, match=rf"lost after \d+ of {len(IMAGE)} bytes of a.iso; nothing"):
            await bench.call("upload_file", **WHERE, path=str(folder / "a.iso"))
        assert "iso/a.iso" not in (await sim.inventory())["volumes"]["local"]

    async def test_stopped(self, bench: Bench, sim: AsyncPve, folder: Path) -> None:
        """An agent that is stopped while it sends a file closes the connection, and nothing is kept."""
        sending = asyncio.Event()
        with (folder / "big.iso").open("wb") as file:
            file.truncate(600 << 20)
        call = Meddling("sending", sending.set)
        running = asyncio.create_task(bench.call("upload_file", call, **WHERE, path=str(folder / "big.iso")))
        await sending.wait()
        running.cancel()

        with pytest.raises(asyncio.CancelledError):
            await running
        cut = await until(partial(sim.log, "POST", "/upload$"))
        assert (len(cut), cut[0]["performed"], await sent(sim)) == (1, False, 0)


class TestRefused:
    """What is not sent, or not kept, and the report of it."""

    @pytest.mark.parametrize(
        ("wrong", "reported"),
        [
            ({"storage": "nope"}, "there is no storage 'nope' on pve1"),
            ({"storage": "local-lvm"}, "storage local-lvm of pve1 does not hold iso, but images,rootdir"),
            ({"checksum": "0" * 64}, rf"checksum: \S+/a.iso has sha256 {RIGHT}, not 0{{64}}: nothing was sent"),
            ({"checksum": "0" * 63}, "checksum: sha256 has 64 digits, not 63"),
            ({"filename": "a.txt"}, r"filename: a.txt is no name for iso: it ends in .iso or .img"),
            ({"path": "{folder}/no.iso"}, r"no.iso cannot be opened: No such file or directory"),
            ({"path": "{folder}/empty.iso"}, r"empty.iso is empty: nothing was sent"),
            ({"path": "{folder}/link.iso"}, r"link.iso cannot be opened: .*no link is followed"),
            ({"path": "{folder}/out/passwd", "filename": "p.iso"}, r"passwd cannot be opened: .*no link is followed"),
            ({"path": "{folder}/pipe.iso"}, r"pipe.iso is no regular file"),
            ({"path": "{folder}/../secret.iso"}, r"is in no folder that files may be sent from \(upload_dirs: \S+\)"),
            (
                {"path": "/etc/passwd", "filename": "p.iso"},
                r"path: /etc/passwd is in no folder that files may be sent from",
            ),
            ({"path": "{folder}/büro $(id).iso"}, r"filename: Proxmox would change 'büro \$\(id\).iso'; give one of"),
        ],
    )
    async def test_wrong(
        self, bench: Bench, sim: AsyncPve, folder: Path, tmp_path: Path, wrong: dict[str, str], reported: str
    ) -> None:
        """A wrong file, name, checksum or storage is reported by its field, and nothing is sent."""
        (tmp_path / "secret.iso").write_bytes(b"x")
        (folder / "empty.iso").touch()
        (folder / "büro $(id).iso").write_bytes(b"x")
        (folder / "link.iso").symlink_to(tmp_path / "secret.iso")
        (folder / "out").symlink_to("/etc")
        os.mkfifo(folder / "pipe.iso")
        wrong = {key: value.replace("{folder}", str(folder)) for key, value in wrong.items()}

        with pytest.raises(errors.AgentdError, match=reported):
            await bench.call("upload_file", **{**WHERE, "path": str(folder / "a.iso"), **wrong})
        assert await sim.log("POST") == []

    async def test_without_an_allowed_directory(self, lab: FakePve, folder: Path) -> None:
        """Where no folder is allowed nothing is sent."""
        proxmox = connect(lab)
        tools = Bench(proxmox, ToolSettings())

        with pytest.raises(errors.Rejected, match=r"upload_dirs: none"):
            await tools.call("upload_file", **WHERE, path=str(folder / "a.iso"))
        await proxmox.close()

    async def test_full(self, bench: Bench, sim: AsyncPve, folder: Path) -> None:
        """A file that the storage has no room for is not sent."""
        with (folder / "huge.iso").open("wb") as file:
            file.truncate(200 << 30)

        with pytest.raises(
            errors.Rejected, match=r"local of pve1 has \d+ bytes left, \S+/huge.iso 214748364800: nothing"
        ):
            await bench.call("upload_file", **WHERE, path=str(folder / "huge.iso"))
        assert await sim.log("POST") == []

    async def test_other(self, bench: Bench, sim: AsyncPve, folder: Path) -> None:
        """Another file of that name is named with its size and left alone."""
        name = "debian-12.11.0-amd64-netinst.iso"

        with pytest.raises(errors.Rejected, match=rf"{name} is there with 702545920 bytes, .* choose another filename"):
            await bench.call("upload_file", **WHERE, path=str(folder / "a.iso"), filename=name)
        assert await sim.log("POST") == []

    async def test_shorter(self, bench: Bench, sim: AsyncPve, folder: Path) -> None:
        """A file that becomes shorter while it is sent leaves nothing."""
        with (folder / "big.iso").open("wb") as file:
            file.truncate(300 << 20)
        call = Meddling("sending", lambda: os.truncate(folder / "big.iso", 100))

        with pytest.raises(errors.Rejected, match=r"big.iso: the file became shorter while it was read; nothing was k"):
            await bench.call("upload_file", call, **WHERE, path=str(folder / "big.iso"))
        assert await sent(sim) == 0

    def test_changed(self, folder: Path) -> None:
        """A file that is written to after its checksum was taken is not brought to its end."""
        with (folder / "a.iso").open("rb", buffering=0) as file:
            body = Upload(file, "a.iso")
            body.describe({"content": "iso", "checksum-algorithm": "sha256", "checksum": body.digest("sha256")})
            (folder / "a.iso").write_bytes(bytes(len(IMAGE)))

            with pytest.raises(
                errors.Rejected, match=r"a.iso: the file was changed while it was read; nothing was kept"
            ):
                list(body)
        assert not body.whole

    async def test_compared(self, lab: FakePve, folder: Path) -> None:
        """What arrives is compared with the checksum that was sent along."""
        proxmox = connect(lab)
        with (folder / "a.iso").open("rb", buffering=0) as file:
            body = Upload(file, "a.iso")
            body.describe({"content": "iso", "checksum-algorithm": "sha256", "checksum": "0" * 64})
            upid = await proxmox.upload("/nodes/pve1/storage/local/upload", body)

            with pytest.raises(errors.TaskFailed, match=f"checksum mismatch: got '{RIGHT}' != expect '0"):
                await proxmox.wait(upid, 5)
        await proxmox.close()

    async def test_failed(self, bench: Bench, sim: AsyncPve, folder: Path) -> None:
        """A copy that fails on the node says so, with what was left."""
        await sim.rule("POST", "/upload$", {"task_exit": "import failed: no space left on device"})

        with pytest.raises(errors.TaskFailed, match=r"no space left.*local:iso/a.iso: nothing was left"):
            await bench.call("upload_file", **WHERE, path=str(folder / "a.iso"))

    async def test_denied(self, lab: FakePve, folder: Path) -> None:
        """A token without the right gets the missing one, and how to grant it."""
        proxmox = connect(lab, "audit")

        with pytest.raises(errors.Denied, match=r"Datastore.AllocateTemplate.*pveum acl modify /storage/local"):
            await Bench(proxmox, ToolSettings(upload_dirs=[folder])).call(
                "upload_file", **WHERE, path=str(folder / "a.iso")
            )
        await proxmox.close()


async def test_targets_of_an_upload(bench: Bench, folder: Path) -> None:
    """What a file becomes and where is reported before, so that a protected storage is known as one."""
    call = MemoryCall()
    await bench.call("upload_file", call, **WHERE, path=str(folder / "a.iso"))

    assert [(target.name, target.labels) for target in call.targets] == [("volume/local:iso/a.iso", ["storage/local"])]
