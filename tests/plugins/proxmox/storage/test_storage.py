"""Storages and volumes: listed short, fetched whole or not at all, deleted only when nothing uses them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd import errors
from agentd_proxmox.model import pages
from agentd_proxmox.settings import ToolSettings
from agentd_proxmox.storage.volumes import VolumeLine, _line
from plugins.download_server import IMAGE
from proxmox_access import AsyncPve, connect
from tool_bench import Bench, MemoryCall, size

if TYPE_CHECKING:
    from pve.client import FakePve

RIGHT = hashlib.sha256(IMAGE).hexdigest()
WHERE: dict[str, Any] = {"storage": "local", "node": "pve1"}


class TestList:
    """list_volumes and get_storage_status."""

    async def test_listed(self, tools: Bench) -> None:
        """Volumes are listed by name with a tally, by pages; one content, one guest, the largest on request."""
        listed = await tools.call("list_volumes", storage="local-lvm", node="pve1", limit=2)
        rest = await tools.call("list_volumes", storage="local-lvm", node="pve1", limit=2, cursor=listed.next)
        largest = await tools.call("list_volumes", storage="local-lvm", node="pve1", largest=True, limit=1)
        one = await tools.call("list_volumes", storage="local-lvm", node="pve1", vmid=200, show=["size"])

        assert (listed.total, listed.by_content, len(listed.volumes), rest.next) == (
            3,
            {"images": 2, "rootdir": 1},
            2,
            "",
        )
        assert [volume.vmid for volume in listed.volumes + rest.volumes] == [100, 101, 200]
        assert largest.volumes[0].vmid == 101
        assert one.volumes == [VolumeLine("local-lvm:vm-200-disk-0", size=8 * 2**30)]

    async def test_refused(self, tools: Bench, sim: AsyncPve) -> None:
        """A wrong storage, content or field is reported by its name."""
        with pytest.raises(errors.NotFound, match="no storage 'nope' on pve1"):
            await tools.call("list_volumes", storage="nope", node="pve1")
        with pytest.raises(errors.Rejected, match="does not hold backup"):
            await tools.call("list_volumes", storage="local-lvm", node="pve1", content="backup")
        with pytest.raises(errors.Rejected, match="show: there is no 'colour'; there are volid"):
            await tools.call("list_volumes", **WHERE, show=["colour"])
        await sim.storage("local", active=False)
        with pytest.raises(errors.ProxmoxUnavailable, match="storage local is not online on pve1"):
            await tools.call("list_volumes", **WHERE)

    async def test_many(self, tools: Bench, sim: AsyncPve) -> None:
        """500 volumes cost two calls and fewer than 1,000 tokens."""
        await sim.volumes("local", "pve1", 500)
        await sim.call("DELETE", "/log")
        listed = await tools.call("list_volumes", **WHERE)

        assert (listed.total, listed.by_content) == (502, {"backup": 500, "iso": 1, "vztmpl": 1})
        assert size(listed) < 1000
        assert len(await sim.log("GET")) == 2

    async def test_status(self, tools: Bench, sim: AsyncPve) -> None:
        """A storage is shown as it is; one that is off line says so, one that is not there is reported."""
        on = await tools.call("get_storage_status", storage="local-lvm", node="pve1")
        await sim.storage("local-lvm", active=False)
        off = await tools.call("get_storage_status", storage="local-lvm", node="pve1")

        assert (on.active, on.content, on.free) == (True, ["images", "rootdir"], on.total - on.used)
        assert (off.active, off.total) == (False, 0)
        with pytest.raises(errors.NotFound, match="No such storage"):
            await tools.call("get_storage_status", storage="nope", node="pve1")

    def test_recorded(self, recorded: Any) -> None:
        """The recorded list is read as it is; control characters are not handed on."""
        lines = [_line(item) for item in recorded("storage-content")]
        odd = _line({"volid": "a:b", "notes": "x\x1b[31m\ny", "ctime": 0})

        assert [line.content for line in lines] == ["rootdir", "rootdir", "rootdir", "backup", "vztmpl"]
        assert (lines[0].used, lines[3].notes) == (909312, "ct201")
        assert (odd.notes, odd.time) == ("x [31m y", None)


class TestDownload:
    """download_url."""

    async def test_fetched(self, tools: Bench, sim: AsyncPve, download_server: str) -> None:
        """A file is fetched and compared; the second time Proxmox says that it is there."""
        wanted: dict[str, Any] = {
            **WHERE,
            "url": f"{download_server}/image.iso",
            "filename": "a.iso",
            "checksum": RIGHT.upper(),
        }
        made = await tools.call("download_url", **wanted)
        again = await tools.call("download_url", **wanted)

        assert (made.volid, made.size, made.content) == ("local:iso/a.iso", len(IMAGE), "iso")
        assert again == made
        assert len(await sim.tasks("download")) == 2

    @pytest.mark.parametrize(
        ("path", "checksum", "reported"),
        [("image.iso", "0" * 64, "checksum mismatch"), ("cut.iso", "", "download failed"), ("no.iso", "", "404")],
    )
    async def test_wrong(
        self, tools: Bench, sim: AsyncPve, download_server: str, path: str, checksum: str, reported: str
    ) -> None:
        """A wrong checksum, a download that is cut off, a missing file: an error, and nothing is left."""
        with pytest.raises(errors.TaskFailed, match=f"{reported}.*local:iso/b.iso: nothing was left"):
            await tools.call(
                "download_url", **WHERE, url=f"{download_server}/{path}", filename="b.iso", checksum=checksum
            )
        assert "iso/b.iso" not in (await sim.inventory())["volumes"]["local"]

    async def test_there(self, tools: Bench, sim: AsyncPve, download_server: str) -> None:
        """A file that is there is left alone with a warning; with another checksum that is an error."""
        wanted: dict[str, Any] = {**WHERE, "url": f"{download_server}/image.iso", "filename": "a.iso"}
        await tools.call("download_url", **wanted)
        await tools.call("download_url", call := MemoryCall(), **wanted)

        assert "was there already" in call.warnings[0]
        assert len(await sim.tasks("download")) == 1
        with pytest.raises(errors.TaskFailed, match=r"checksum mismatch.*a file of that name is there"):
            await tools.call("download_url", **wanted, checksum="0" * 64)

    @pytest.mark.parametrize("fault", ["cut_after", "lost_before"])
    @pytest.mark.parametrize("seconds", [0.0, 0.7])
    async def test_lost(self, tools: Bench, sim: AsyncPve, download_server: str, fault: str, seconds: float) -> None:
        """A download with a lost answer or request is settled by reading: it is fetched once."""
        await sim.durations(download=seconds)
        await sim.rule("POST", "/download-url$", {fault: True}, 1)
        wanted: dict[str, Any] = {**WHERE, "url": f"{download_server}/image.iso", "filename": "a.iso"}
        made = await tools.until_done("download_url", MemoryCall(), **wanted)

        assert made.size == len(IMAGE)
        assert len(await sim.tasks("download")) == 1

    async def test_refused(self, tools: Bench, sim: AsyncPve) -> None:
        """What cannot be right is refused by the name of its field before anything is sent."""
        good: dict[str, Any] = {**WHERE, "url": "http://192.0.2.1/a.iso", "filename": "a.iso"}
        with pytest.raises(errors.Rejected, match="checksum: sha256 has 64 digits, this has 3"):
            await tools.call("download_url", **good, checksum="abc")
        for field, value in {
            "url": "file:///etc/passwd", "filename": "../../etc/passwd", "checksum": "xyz", "content": "backup",
            "algorithm": "crc32",
        }.items():  # fmt: skip
            with pytest.raises(errors.InvalidMessage, match=field):
                await tools.call("download_url", **good | {field: value})
        with pytest.raises(errors.Rejected, match="local-lvm of pve1 does not hold iso"):
            await tools.call("download_url", **good | {"storage": "local-lvm"})
        assert await sim.log("POST") == []

    async def test_denied(self, lab: FakePve) -> None:
        """A token without the right gets the path, the privilege and the command."""
        proxmox = connect(lab, "audit")

        with pytest.raises(errors.Denied, match=r"Datastore.AllocateTemplate on /storage/local; .*pveum acl modify"):
            await Bench(proxmox, ToolSettings()).call(
                "download_url", **WHERE, url="http://192.0.2.1/a.iso", filename="a.iso"
            )
        await proxmox.close()


class TestAllocate:
    """create_volume."""

    @pytest.mark.parametrize(("storage", "volid"), [("local-lvm", "vm-101-data"), ("shared", "101/vm-101-data.raw")])
    async def test_made(self, tools: Bench, sim: AsyncPve, storage: str, volid: str) -> None:
        """A disk is there with its size, once, though the answer was lost."""
        await sim.rule("POST", "/content$", {"cut_after": True}, 1)
        wanted: dict[str, Any] = {"storage": storage, "node": "pve1", "vmid": 101, "size": 3, "name": "data"}
        made = await tools.until_done("create_volume", MemoryCall(), **wanted)

        assert (made.volid, made.size, made.vmid) == (f"{storage}:{volid}", 3 * 2**30, 101)
        assert len(await sim.log("POST")) == 1
        with pytest.raises(errors.Rejected, match="is there with 3 GiB, not 4 GiB"):
            await tools.call("create_volume", **wanted | {"size": 4})

    async def test_name_from_key(self, tools: Bench) -> None:
        """Without a name it comes from the call's key: the same call finds its own, another makes another."""
        wanted: dict[str, Any] = {"storage": "local-lvm", "node": "pve1", "vmid": 101, "size": 1}
        first = await tools.call("create_volume", MemoryCall("wf.a"), **wanted)
        again = await tools.call("create_volume", MemoryCall("wf.a"), **wanted)
        other = await tools.call("create_volume", MemoryCall("wf.b"), **wanted)

        assert first == again
        assert first.volid != other.volid
        with pytest.raises(errors.Rejected, match="holds raw disks only"):
            await tools.call("create_volume", **wanted, format="qcow2")


class TestDelete:
    """delete_volume."""

    async def test_deleted(self, tools: Bench, sim: AsyncPve) -> None:
        """A volume that nothing uses is gone; deleting it again does nothing."""
        made = await tools.call("create_volume", storage="local-lvm", node="pve1", vmid=101, size=1, name="old")
        gone = await tools.call("delete_volume", volid=made.volid, node="pve1")
        again = await tools.call("delete_volume", call := MemoryCall(), volid=made.volid, node="pve1")

        assert (gone.before["volid"], again.before, call.adopted) == (made.volid, None, True)
        assert "vm-101-old" not in (await sim.inventory())["volumes"]["local-lvm"]

    async def test_used(self, tools: Bench, sim: AsyncPve) -> None:
        """A disk that its guest or a snapshot of it uses, and an image in a drive, stay; the guest is named."""
        with pytest.raises(errors.Rejected, match=r"used by VM 101 'db-01' on pve1 \(scsi0\): nothing was done"):
            await tools.call("delete_volume", volid="local-lvm:vm-101-disk-0", node="pve1")
        iso = "local:iso/debian-12.11.0-amd64-netinst.iso"
        await sim.guest(vmid=500, node="pve1", name="inst", type="qemu", config={"ide2": f"{iso},media=cdrom"})
        with pytest.raises(errors.Rejected, match=r"VM 500 'inst' on pve1 \(ide2\)"):
            await tools.call("delete_volume", volid=iso, node="pve1")
        proxmox = tools.tools["get_guest"].run.__self__.proxmox  # type: ignore[attr-defined] # a bound method
        await tools.call("create_snapshot", vmid=500, name="with-iso")
        await proxmox.put("/nodes/pve1/qemu/500/config", delete="ide2")
        with pytest.raises(errors.Rejected, match=r"VM 500 'inst' on pve1 \(snapshot with-iso: ide2\)"):
            await tools.call("delete_volume", volid=iso, node="pve1")
        assert await sim.log("DELETE") == []

    async def test_blind(self, tools: Bench, sim: AsyncPve) -> None:
        """If a guest that may use an image cannot be asked, the image stays."""
        await sim.node("pve2", online=False)

        with pytest.raises(errors.ProxmoxUnavailable):
            await tools.call("delete_volume", volid="local:iso/debian-12.11.0-amd64-netinst.iso", node="pve1")
        assert await sim.log("DELETE") == []

    @pytest.mark.parametrize("fault", ["cut_after", "lost_before"])
    async def test_lost(self, tools: Bench, sim: AsyncPve, fault: str) -> None:
        """A delete with a lost answer or request is settled by reading."""
        await sim.durations(imgdel=0.7)
        await sim.rule("DELETE", "/content/", {fault: True}, 1)
        volid = "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst"
        await tools.until_done("delete_volume", MemoryCall(), volid=volid, node="pve1")

        assert len(await sim.tasks("imgdel")) == 1

    @pytest.mark.parametrize("volid", ["local", "local:", "local:a,b", "x:y,z", "nope:iso/a.iso"])
    async def test_bad(self, tools: Bench, sim: AsyncPve, volid: str) -> None:
        """What is no volume is refused, and nothing is sent; one that is not there is reported as gone."""
        with pytest.raises(errors.AgentdError):
            await tools.call("delete_volume", volid=volid, node="pve1")
        gone = await tools.call("delete_volume", volid="local:iso/../../etc", node="pve1")

        assert not gone.existed
        assert await sim.log("DELETE") == []


class TestPages:
    """Paging, without a server."""

    @given(st.lists(st.text(min_size=1), unique=True), st.integers(1, 7))
    def test_all(self, names: list[str], limit: int) -> None:
        """Page after page each line comes exactly once, in order."""
        seen: list[str] = []
        cursor = ""
        while True:
            shown, cursor = pages.page(names, str, limit, cursor)
            seen += shown
            if not cursor:
                break

        assert seen == sorted(names)
