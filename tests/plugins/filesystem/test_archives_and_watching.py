"""Directories are archived and restored whole or not at all; changes of files are seen when they happen."""

from __future__ import annotations

import asyncio
import io
import tarfile
from typing import TYPE_CHECKING

import pytest

from agentd.errors import Rejected
from tool_bench import MemoryCall

if TYPE_CHECKING:
    from plugins.filesystem.conftest import Files


async def test_there_and_back(files: Files) -> None:
    """Files, directories, links and modes come back; the archive and the restored directory go by their undo."""
    (files.root / "docs" / "link").symlink_to("a.md")
    (files.root / "docs" / "a.md").chmod(0o600)
    (files.root / "docs" / "sub").mkdir()
    packed, restored = MemoryCall(key="a.1"), MemoryCall(key="a.2")
    archive, directory = f"{files.writable}/docs.tar.gz", f"{files.writable}/again"
    await files("archive_directory", packed, path=f"{files.root}/docs", archive=archive)
    await files("restore_directory", restored, archive=archive, path=directory)
    again = files.writable / "again"

    assert (again / "link").read_text() == "alpha\nbeta\n"
    assert (again / "a.md").stat().st_mode & 0o777 == 0o600
    assert (again / "sub").is_dir()
    with pytest.raises(Rejected, match="exists"):
        await files("restore_directory", archive=archive, path=directory)
    await files.undo(restored)
    await files.undo(packed)

    assert sorted(path.name for path in files.writable.iterdir()) == [".agentd-trash", "old.txt"]


def hostile(kind: str) -> bytes:
    """Return an archive whose one member would be written outside, or is no file."""
    member = tarfile.TarInfo("x")
    match kind:
        case "up":
            member.name = "../x"
        case "absolute":
            member.name = "/x"
        case "link-up" | "link-absolute" | "link-behind-link":
            member.type = tarfile.SYMTYPE
            member.linkname = {"link-up": "../../x", "link-absolute": "/etc", "link-behind-link": "d/../../x"}[kind]
        case "hard-link":
            member.type, member.linkname = tarfile.LNKTYPE, "/etc/passwd"
        case "device":
            member.type = tarfile.CHRTYPE
        case "fifo":
            member.type = tarfile.FIFOTYPE
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        tar.addfile(member)
    return file.getvalue()


@pytest.mark.parametrize(
    "kind", ["up", "absolute", "link-up", "link-absolute", "link-behind-link", "hard-link", "device", "fifo"]
)
async def test_hostile_archives(files: Files, kind: str) -> None:
    """A member that leads out of the directory, and what is neither file, directory nor link, is left out and named."""
    (files.writable / "evil.tar.gz").write_bytes(hostile(kind))
    call = MemoryCall(key=f"b.{kind}")
    await files("restore_directory", call, archive=f"{files.writable}/evil.tar.gz", path=f"{files.writable}/evil")

    assert list((files.writable / "evil").iterdir()) == []
    assert len(call.warnings) == 1
    assert sorted(path.name for path in files.root.iterdir()) == ["docs", "readme.txt", "work"]


async def test_archives_that_are_broken_or_too_large(files: Files) -> None:
    """A file that is no archive, one that is cut off and one that grows too large leave nothing behind."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as tar:
        member = tarfile.TarInfo("zeros")
        member.size = 1 << 20
        tar.addfile(member, io.BytesIO(bytes(1 << 20)))
    (files.writable / "bomb.tar.gz").write_bytes(whole.getvalue())
    (files.writable / "cut.tar.gz").write_bytes(whole.getvalue()[:-400])
    (files.writable / "no.tar.gz").write_text("text")
    for name, more in (("bomb", {"max_bytes": 1000}), ("cut", {}), ("no", {})):
        with pytest.raises(Rejected, match="archive"):
            await files(
                "restore_directory", archive=f"{files.writable}/{name}.tar.gz", path=f"{files.writable}/to", **more
            )

    assert not [path for path in files.writable.iterdir() if path.is_dir() and path.name != ".agentd-trash"]


async def test_a_change_is_seen(files: Files) -> None:
    """The wait ends with the change, and names what happened; without one it ends by its time."""
    waiting = asyncio.ensure_future(files("watch_path", path=str(files.writable), seconds=30))
    await asyncio.sleep(0.2)
    (files.writable / "new").write_text("x")
    events = await asyncio.wait_for(waiting, 5)

    assert {"created", "written"} & {event.what for event in events.events}
    assert {event.name for event in events.events} == {"new"}
    assert (await files("watch_path", path=str(files.writable), seconds=0.05)).events == []


async def test_a_log_that_grows(files: Files) -> None:
    """The last lines first, then what is added, as soon as it is written; a file that is emptied is read again."""
    log = files.writable / "log"
    log.write_text("".join(f"{number}\n" for number in range(100)))
    first = await files("tail_file", path=str(log), lines=2)
    waiting = asyncio.ensure_future(files("tail_file", path=str(log), offset=first.offset, seconds=30))
    await asyncio.sleep(0.2)
    with log.open("a") as file:
        file.write("more\n")
    grown = await asyncio.wait_for(waiting, 5)

    assert first.content == "98\n99\n"
    assert grown.content == "more\n"
    log.write_text("again\n")
    again = await files("tail_file", path=str(log), offset=grown.offset)

    assert (again.content, again.restarted) == ("again\n", True)
