"""A file that decides something, or holds a secret, is read only if no other user can have written it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from agentd import files
from agentd.bus.delivery import journal as delivery_journal
from agentd.bus.nats import credentials
from agentd.config import load, settings
from agentd.config.secret_files import read_secret
from agentd.errors import ConfigError, UnsafeFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ROOT = os.geteuid() == 0
only_root = pytest.mark.skipif(not ROOT, reason="only root may give a file to another user")
SECRET = "s3cr3t-c0ntent"  # noqa: S105 - of a file of this test


def fifo(path: Path) -> None:
    """Put a FIFO in the place of a file."""
    path.unlink()
    os.mkfifo(path)


def link(path: Path) -> None:
    """Put a symbolic link to another file in the place of a file."""
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def directory(path: Path) -> None:
    """Put a directory in the place of a file."""
    path.unlink()
    path.mkdir()


def open_parent(path: Path) -> None:
    """Let every user write in the directory."""
    path.parent.chmod(0o777)


def high_parent(path: Path) -> None:
    """Let every user write in the directory above that of the file."""
    path.parent.parent.chmod(0o757)


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "0666": (lambda path: path.chmod(0o666), "chmod go-w {path}"),
    "0664": (lambda path: path.chmod(0o664), "chmod go-w {path}"),
    "0646": (lambda path: path.chmod(0o646), "chmod go-w {path}"),
    "link": (link, "name the file itself"),
    "fifo": (fifo, "is a FIFO, not a regular file"),
    "directory": (directory, "is a directory, not a regular file"),
    "huge": (lambda path: path.write_text("#" * (files.MOST + 1)), "has more than"),
    "parent": (open_parent, "chmod go-w {path.parent}"),
    "above": (high_parent, "chmod go-w {path.parent.parent}"),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file as an administrator leaves it, two directories deep."""
    path = tmp_path / "etc" / "agentd" / "file.toml"
    path.parent.mkdir(parents=True)
    path.write_text(f"# {SECRET}\n")
    path.chmod(0o640)
    return path


def _read_config(path: Path) -> object:
    return load.load(path, {})


def _read_secret(path: Path) -> object:
    return read_secret(str(path), "bus.nkey_file")


def _read_tls(path: Path) -> None:
    files.check(path, secret=True)


READERS: dict[str, Callable[[Path], object]] = {"configuration": _read_config, "secret": _read_secret, "key": _read_tls}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("wrong", WRONG)
def test_refused_with_the_command_that_corrects_it(file: Path, reader: str, wrong: str) -> None:
    """The file is named, with the command that corrects it, and nothing of its content."""
    damage, advice = WRONG[wrong]
    damage(file)
    if (reader, wrong) == ("key", "huge"):
        return  # a library reads it
    with pytest.raises(ConfigError, match=re.escape(advice.format(path=file))) as raised:
        READERS[reader](file)

    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("reader", READERS)
def test_accepted(file: Path, reader: str) -> None:
    """A file of this user that others can't write is read, in a directory below a sticky one too."""
    READERS[reader](file)


@only_root
@pytest.mark.parametrize("reader", READERS)
def test_of_another_user(file: Path, reader: str) -> None:
    """A file of another user is refused, with the command that gives it to root."""
    os.chown(file, 12345, 12345)
    with pytest.raises(ConfigError, match=rf"belongs to another user \(uid 12345\): chown root {file}"):
        READERS[reader](file)


def test_a_part_of_the_configuration(file: Path) -> None:
    """A file of conf.d is checked like the main one."""
    part = file.parent / "conf.d" / "a.toml"
    part.parent.mkdir()
    part.write_text("[web]\nport = 1\n")
    part.chmod(0o666)
    with pytest.raises(UnsafeFile, match=f"chmod go-w {part}"):
        load.load(file, {})


def test_a_secret_that_every_user_can_read(file: Path) -> None:
    """It is refused where the directories let every user come to it; a configuration file is no secret."""
    file.chmod(0o644)
    _read_config(file)
    if files.is_reachable_by_all(file):
        with pytest.raises(ConfigError, match="chmod o-r"):
            _read_secret(file)
    else:  # the directory of this test is closed for other users
        _read_secret(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "is_reachable_by_all", lambda _: True)
        with pytest.raises(ConfigError, match=f"bus.nkey_file: .*every user can read .*chmod o-r {file}"):
            _read_secret(file)


def test_a_credential_of_systemd(tmp_path: Path) -> None:
    """A credential as systemd leaves it (0400 in a directory 0500) is read."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "agentd-proxmox-token").write_text("t")
    (folder / "agentd-proxmox-token").chmod(0o400)
    folder.chmod(0o500)
    try:
        assert read_secret(str(folder / "agentd-proxmox-token"), "x") == "t"
    finally:
        folder.chmod(0o700)


def test_tls_files_are_checked(file: Path) -> None:
    """The key of a certificate that others can write is refused before it is loaded."""
    file.chmod(0o666)
    tls = settings.Bus(tls_cert_file=str(file), tls_key_file=str(file), servers=("tls://a:1",))
    with pytest.raises(ConfigError, match=f"bus: .*chmod go-w {file}"):
        credentials.options(tls, tls, "me")


def test_a_link_to_a_ca_is_followed(file: Path) -> None:
    """Distributions lay CA certificates out as links: what a link leads to is checked."""
    ca = file.parent / "ca.pem"
    ca.symlink_to(file)
    files.check(ca, follow=True)
    file.chmod(0o666)
    with pytest.raises(UnsafeFile, match=f"chmod go-w {file}"):
        files.check(ca, follow=True)


def test_state_is_not_kept_through_a_link(tmp_path: Path) -> None:
    """The journal of open deliveries does not write where a link leads."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "state").symlink_to(victim)
    with pytest.raises(ConfigError, match="symbolic link"):
        delivery_journal.Journal(tmp_path / "state")

    assert victim.read_text() == "precious"


@pytest.mark.parametrize("wrong", ["link", "dangling", "fifo", "directory", "parent"])
def test_a_secret_is_written_to_its_file_only(tmp_path: Path, wrong: str) -> None:
    """A new token's secret follows no link, fills no FIFO, and needs a directory that others can't write."""
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o700)
    target, victim = folder / "eve@pve!t", tmp_path / "victim"
    victim.write_text("precious")
    damage: dict[str, Callable[[], object]] = {
        "link": lambda: target.symlink_to(victim),
        "dangling": lambda: target.symlink_to(tmp_path / "new"),
        "fifo": lambda: os.mkfifo(target),
        "directory": target.mkdir,
        "parent": lambda: folder.chmod(0o777),
    }
    damage[wrong]()
    with pytest.raises(UnsafeFile):
        files.write_secret(target, SECRET.encode())

    assert victim.read_text() == "precious"
    assert not (tmp_path / "new").exists()
    assert SECRET not in "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())


def test_a_secret_is_replaced(tmp_path: Path) -> None:
    """An old secret is replaced by a new file of mode 0600, for any old mode."""
    target = tmp_path / "secrets" / "eve@pve!t"
    target.parent.mkdir()
    target.write_text("old")
    target.chmod(0o644)
    files.write_secret(target, b"new\n")

    assert target.read_text() == "new\n"
    assert target.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in target.parent.iterdir()] == [target.name]


@pytest.fixture
def another_user() -> Iterator[None]:
    """Run a test as a user who is not root."""
    if ROOT:
        os.seteuid(65534)
    yield
    if ROOT:
        os.seteuid(0)


@pytest.mark.parametrize("closed", ["agentd", "agentd/conf.d"])
def test_a_directory_that_cannot_be_read(tmp_path: Path, closed: str, request: pytest.FixtureRequest) -> None:
    """A configuration that this user may not read is an error that says what to do; it is not taken for absent."""
    folder = tmp_path / closed
    folder.mkdir(parents=True)
    folder.chmod(0)
    request.getfixturevalue("another_user")

    with pytest.raises(ConfigError, match="cannot be read: Permission denied; run the command as root"):
        load.load(None, {"XDG_CONFIG_HOME": str(tmp_path)}, ())
