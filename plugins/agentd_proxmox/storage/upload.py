"""Send files of the agent's host to storages.

Proxmox overwrites a file of the same name without a warning, so this module checks for it first and does not replace
it.  The worker task of Proxmox (imgcopy) has no id; its log names the file that it copies, but only after the checksum
has been compared.  So the check waits while a copy of our token runs that may be ours, and then reads the storage:
Proxmox removes a copy that failed, and only a node that died leaves a partial file, which its size reveals.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec

from agentd import Call, Found, NotFound, Rejected, Repeat, Target, TaskFailed, Tier, Upload, formats, tool
from agentd_proxmox import area, targets
from agentd_proxmox.model import fields
from agentd_proxmox.storage.volumes import LENGTHS, VolumeLine, _line
from agentd_proxmox.targets import upid_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO


ENDINGS: Final = {
    "iso": (".iso", ".img"),
    "vztmpl": (".tar.gz", ".tar.xz", ".tar.zst", ".tar.bz2"),
    "import": (".ova", ".qcow2", ".raw", ".vmdk"),
}
"""Allowed file name endings, by content; Proxmox takes no others."""
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


class UploadFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the agent's host, by its absolute path, and the storage for it.

    filename: the name on the storage (default: the name of the file)
    checksum: hexadecimal, by `algorithm`; if the file has another one, nothing is sent
    """

    path: Annotated[str, formats.full_match(r"/[^\x00-\x1f\x7f]+", most=4096)]
    storage: fields.Storage
    node: fields.Node
    content: Literal["iso", "vztmpl", "import"] = "iso"
    filename: Annotated[
        str, formats.full_match("(?:[A-Za-z0-9][A-Za-z0-9_.-]{0,254})?", "letters, digits and . _ - only")
    ] = ""
    checksum: Annotated[str, formats.full_match("[0-9A-Fa-f]*")] = ""
    algorithm: Literal["md5", "sha1", "sha224", "sha256", "sha384", "sha512"] = "sha256"


class Uploads(area.Area):
    """The tool that uploads files."""

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="storage_management")
    async def upload_file(self, call: Call, p: UploadFile) -> VolumeLine:
        """Upload a file of the agent's host to a storage.

        Proxmox compares the checksum and keeps only the complete file.  Only files in the folders of the setting
        `upload_dirs` can be sent.  An existing file of that name is not changed.
        """
        name = _name(p)
        volid = f"{p.storage}:{p.content}/{name}"
        call.target(Target(f"volume/{volid}", f"{volid} on {p.node}", labels=[f"storage/{p.storage}"]))
        with open_in_folders(p.path, self.inventory.settings.upload_dirs) as file:
            body = Upload(file, name, _progress_reporter(call, p.path, file))
            if not body.size:
                raise Rejected(f"path: {p.path} is empty: nothing was sent")

            async def check() -> Found | None:
                await self._idle(call, p, name)
                return await self._free(call, p, volid, body.size)

            async def apply() -> str | None:
                with contextlib.ExitStack() as until_sent:
                    until_sent.enter_context(call.allow_stop())
                    checksum = await self._checksum(p, body)
                    body.describe({"content": p.content, "checksum-algorithm": p.algorithm, "checksum": checksum})
                    where = f"/nodes/{p.node}/storage/{p.storage}/upload"
                    return upid_of(await self.proxmox.upload(where, body, until_sent.close))

            found = await call.ensure(check, apply)
        return await self._wait_for_copy(call, p, volid, found)

    async def _idle(self, call: Call, p: UploadFile, name: str) -> None:
        """Wait while a copy task of our token runs that may be for this file.

        The task runs on the node that this agent is connected to.
        """
        while True:
            nodes = [node["node"] for node in await self.proxmox.get("/nodes") or [] if node.get("status") == "online"]
            active = await self.inventory.active({p.node, *nodes})
            ours = [task for task in active if task.type == "imgcopy" and task.user == self.proxmox.user]
            for task in ours:
                log = await self.proxmox.log_tail(task.text, 100)
                copied = next((line.rpartition("/")[2] for line in log if line.startswith("target file:")), name)
                if copied == name:
                    break
            else:
                return
            await targets.wait_a_moment(call, f"a file is being taken in ({task.text}): is it {name}?")

    async def _free(self, call: Call, p: UploadFile, volid: str, size: int) -> Found | None:
        """Return Found if the file exists, None if it does not and there is space for it.

        Raise Rejected if there is no space, or if a file of another size exists.
        """
        entry = await targets.storage(self.inventory, p.node, p.storage, p.content)
        existing = await self._one(p.node, volid)
        if existing is None:
            free = int(entry.get("maxdisk") or 0) - int(entry.get("disk") or 0)
            if size > free:
                raise Rejected(f"{p.storage} of {p.node} has {free} bytes left, {p.path} {size}: nothing was sent")
            call.inverse("delete_volume", {"volid": volid, "node": p.node})
            return None
        if existing.size != size:
            raise Rejected(
                f"{volid} is there with {existing.size} bytes, and {p.path} has {size}: nothing was sent; "
                "choose another filename, or delete_volume first"
            )
        if call.begun is None:  # else an earlier run of ours sent it, and the answer was lost
            call.warn(f"{volid} was there already with as many bytes, and is left as it is; it was not compared")
        return Found()

    async def _checksum(self, p: UploadFile, body: Upload) -> str:
        try:
            found = await asyncio.to_thread(body.digest, p.algorithm)
        except asyncio.CancelledError:
            body.drop()
            raise
        if p.checksum and p.checksum.lower() != found:
            raise Rejected(f"checksum: {p.path} has {p.algorithm} {found}, not {p.checksum}: nothing was sent")
        return found

    async def _wait_for_copy(self, call: Call, p: UploadFile, volid: str, found: Found) -> VolumeLine:
        try:
            await self.inventory.finish(call, found)
        except TaskFailed as error:
            left = await self._one(p.node, volid)
            what = "nothing was left" if left is None else f"a file of {left.size} bytes is there"
            raise TaskFailed(f"{error}; {volid}: {what}", log=error.log) from error
        line = await self._one(p.node, volid)
        if line is None:
            raise NotFound(f"Proxmox reports success, but {volid} is not there: another client deleted it")
        return line

    async def _one(self, node: str, volid: str) -> VolumeLine | None:
        entries = await self.proxmox.get(f"/nodes/{node}/storage/{volid.partition(':')[0]}/content") or []
        return next((_line(entry) for entry in entries if entry.get("volid") == volid), None)


@contextlib.contextmanager
def open_in_folders(path: str, folders: list[Path]) -> Iterator[BinaryIO]:
    """Open a file in one of the folders, without following a link below it.

    Raise Rejected if the file is in none of them or cannot be opened.
    """
    wanted = Path(path)
    folder = next((parent for parent in folders if wanted.is_relative_to(parent) and wanted != parent), None)
    if folder is None or ".." in wanted.parts:
        allowed = ", ".join(map(str, folders)) or "none"
        raise Rejected(f"path: {path} is in no folder that files may be sent from (upload_dirs: {allowed})")
    try:
        file = _open(folder, wanted.relative_to(folder).parts)
    except OSError as error:
        raise Rejected(f"path: {path} cannot be opened: {error.strerror}; no link is followed") from error
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Rejected(f"path: {path} is no regular file")
        yield file


def _open(folder: Path, parts: tuple[str, ...]) -> BinaryIO:
    """Open the path part by part, so that a link created meanwhile is not followed."""
    at = os.open(folder, _FOLDER)
    try:
        for part in parts[:-1]:
            below = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = below
        return os.fdopen(os.open(parts[-1], _FILE | os.O_NOFOLLOW, dir_fd=at), "rb", buffering=0)
    finally:
        os.close(at)


def _name(p: UploadFile) -> str:
    """Return the name of the new file.

    Raise Rejected for a name that Proxmox would change or refuse.
    """
    if p.checksum and len(p.checksum) != LENGTHS[p.algorithm]:
        raise Rejected(f"checksum: {p.algorithm} has {LENGTHS[p.algorithm]} digits, not {len(p.checksum)}")
    name = p.filename or Path(p.path).name
    try:
        msgspec.convert({**msgspec.structs.asdict(p), "filename": name}, UploadFile)
    except msgspec.ValidationError as error:
        raise Rejected(f"filename: Proxmox would change {name!r}; give one of letters, digits and . _ -") from error
    if not name.endswith(ENDINGS[p.content]):
        raise Rejected(f"filename: {name} is no name for {p.content}: it ends in {' or '.join(ENDINGS[p.content])}")
    return name


def _progress_reporter(call: Call, path: str, file: BinaryIO) -> Callable[[str, int], None]:
    """Return a function that reports each further percent, from any thread."""
    loop, size, last = asyncio.get_running_loop(), max(1, os.fstat(file.fileno()).st_size), [("", -1)]

    def tell(what: str, done: int) -> None:
        now = (what, 100 * done // size)
        if now != last[0]:
            last[0] = now
            loop.call_soon_threadsafe(call.progress, f"{what} {path}: {now[1]} % of {size} bytes")

    return tell
