"""No path leads out of the served directories, even while other processes change them."""

from __future__ import annotations

import ctypes
import os
import threading
from typing import TYPE_CHECKING

import pytest

from agentd.errors import AgentdError, PermanentError, Rejected
from agentd_filesystem.roots import Roots
from agentd_filesystem.settings import FilesystemSettings
from agentd_filesystem.tools.reading import whole
from tool_bench import MemoryCall

if TYPE_CHECKING:
    from pathlib import Path

    from plugins.filesystem.conftest import Files

READS, WRITES = 100_000, 10_000


def links(files: Files) -> list[str]:
    """Create links of each kind that lead out, and return the paths through them."""
    (files.root / "out").symlink_to(files.outside)
    (files.root / "file").symlink_to(files.outside / "secret")
    (files.root / "up").symlink_to("../served-not/secret")
    (files.root / "dangling").symlink_to(files.outside / "none")
    (files.root / "magic").symlink_to("/proc/self/root")
    (files.root / "loop").symlink_to("loop")
    root = files.root
    return [
        *(f"{root}/out/secret", f"{root}/file", f"{root}/up", f"{root}/dangling", f"{root}/loop"),
        *(
            f"{root}/magic{files.outside}/secret",
            f"{root}/../served-not/secret",
            f"{root}/docs/../../served-not/secret",
        ),
        *(f"{root}-not/secret", f"{files.outside}/secret", "/etc/passwd", "../served-not/secret", ""),
        *(f"{root}/readme.txt\0{root}", f"{root}/.agentd-trash/x", f"{root}/work/.agentd-trash"),
    ]


async def test_every_way_out_is_refused(files: Files) -> None:
    """Links, `..`, a similar directory, NUL and the trash: refused by each tool, and the error names no other path."""
    for path in links(files):
        for tool in (
            "read_text_file",
            "read_media_file",
            "list_directory",
            "get_checksum",
            "search_text",
            "watch_path",
        ):
            parameters = {"path": path, **({"pattern": "*"} if tool == "search_files" else {})}
            parameters |= {"text": "secret"} if tool == "search_text" else {}
            with pytest.raises(AgentdError) as refused:
                await files(tool, **parameters)

            assert "the secret" not in str(refused.value)
            assert path.startswith("/etc") or str(files.outside) not in str(refused.value).replace(path, "")


async def test_paths_outside_of_roots_are_not_changed(files: Files) -> None:
    """No tool that changes something changes what is outside, or what is in a read-only part of a root."""
    (files.writable / "readonly").symlink_to("../docs")
    (files.writable / "out").symlink_to(files.outside)
    paths = [f"{files.writable}/out/secret", f"{files.writable}/readonly/a.md", f"{files.root}/readme.txt"]
    paths += [f"{files.outside}/secret", f"{files.writable}/../readme.txt", str(files.writable)]
    for path in paths:
        for tool, more in (
            ("write_file", {"content": "x"}),
            ("edit_file", {"edits": [{"oldText": "e", "newText": "x"}], "all": True}),
            ("append_file", {"content": "x"}),
            ("delete_file", {"recursive": True}),
            ("set_file_mode", {"mode": "777"}),
        ):
            with pytest.raises(AgentdError):
                await files(tool, MemoryCall(key=f"{tool}-{path}"), path=path, **more)
        with pytest.raises(AgentdError):
            await files("move_file", source=path, destination=f"{files.writable}/moved")
        with pytest.raises(AgentdError):
            await files("copy_file", source=f"{files.writable}/old.txt", destination=path)

    assert (files.outside / "secret").read_text() == "the secret\n"
    assert (files.root / "docs" / "a.md").read_text() == "alpha\nbeta\n"
    assert (files.root / "readme.txt").read_text() == "one\ntwo\nthree\n"
    assert sorted(path.name for path in files.writable.iterdir()) == ["old.txt", "out", "readonly"]


class Swapper(threading.Thread):
    """Replaces a directory by a link that leads out, and back, as fast as it can."""

    def __init__(self, directory: Path, link: Path) -> None:
        """Swap `directory` and `link`, which is beside it."""
        super().__init__(daemon=True)
        self.directory, self.link, self.stop, self.swaps = directory, link, False, 0

    def run(self) -> None:
        """Swap both names in one system call (RENAME_EXCHANGE), until `stop`."""
        rename = ctypes.CDLL(None).renameat2
        beside = os.open(self.directory.parent, os.O_RDONLY | os.O_DIRECTORY)
        names = os.fsencode(self.directory.name), os.fsencode(self.link.name)
        while not self.stop:
            assert rename(beside, names[0], beside, names[1], 2) == 0
            self.swaps += 1
        os.close(beside)


@pytest.fixture
def swapped(files: Files) -> Swapper:
    """Return a thread that swaps the directory `work/swap` with a link to the outside."""
    (files.writable / "swap").mkdir()
    (files.writable / "swap" / "secret").write_text("harmless\n")
    (files.writable / "link").symlink_to(files.outside)
    return Swapper(files.writable / "swap", files.writable / "link")


def test_reads_while_a_directory_is_swapped(files: Files, swapped: Swapper) -> None:
    """100,000 reads through a directory that is swapped with a link to the outside: none returns the secret."""
    roots = Roots(FilesystemSettings(roots=(files.root,), writable_roots=(files.writable,)))
    swapped.start()
    read = 0
    try:
        for _ in range(READS):
            try:
                data = whole(roots.find(f"{files.writable}/swap/secret"), 100)
            except AgentdError:
                continue
            read += 1

            assert data == b"harmless\n"
    finally:
        swapped.stop = True
        swapped.join()

    assert read > READS / 100
    assert swapped.swaps > READS / 100


async def test_writes_while_a_directory_is_swapped(files: Files, swapped: Swapper) -> None:
    """10,000 writes through a directory that is swapped with a link to the outside: none is outside."""
    swapped.start()
    written = 0
    try:
        for number in range(WRITES):
            try:
                await files("write_file", path=f"{files.writable}/swap/{number}", content="x")
            except AgentdError:
                continue
            written += 1
    finally:
        swapped.stop = True
        swapped.join()

    assert sorted(path.name for path in files.outside.iterdir()) == ["secret"]
    assert written > WRITES / 100


@pytest.mark.parametrize("root", ["/", "/etc", "/proc/sys", "/etc/agentd/keys", "relative", "/srv/../etc"])
def test_directories_that_are_never_served(root: str) -> None:
    """A root that holds keys or controls the machine, or contains such a directory, is a configuration error."""
    with pytest.raises(ValueError, match=r"never served|absolute path"):
        FilesystemSettings.model_validate({"roots": [root]})


def test_a_root_that_links_to_a_directory_that_is_never_served(tmp_path: Path) -> None:
    """The real path of a root counts, too."""
    (tmp_path / "link").symlink_to("/etc/ssh")
    roots = Roots(FilesystemSettings(roots=(tmp_path / "link",)))

    with pytest.raises(PermanentError, match="never served"):
        roots.find(f"{tmp_path}/link/ssh_config").open()


def test_writable_outside_of_roots(tmp_path: Path) -> None:
    """A writable directory must be below one that is served."""
    with pytest.raises(ValueError, match="writable_roots"):
        FilesystemSettings(roots=(tmp_path / "a",), writable_roots=(tmp_path / "b",))


async def test_special_files_are_not_read(files: Files) -> None:
    """A FIFO, a socket and a device are refused at once; no call waits for a writer."""
    os.mkfifo(files.root / "fifo")
    for tool in ("read_text_file", "read_media_file", "get_checksum", "tail_file"):
        with pytest.raises(Rejected, match="FIFO"):
            await files(tool, path=f"{files.root}/fifo")

    assert (await files("get_file_info", path=f"{files.root}/fifo")).type == "FIFO"
    assert (await files("search_text", path=str(files.root), text="one")).content == "readme.txt:1:one"
