"""The key that signs the audit: the agent's own, made once, and not used by other agents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentd.cli.records.audit import _pinned
from agentd.errors import ConfigError, UsageError
from agentd.safety.signing import Head, Memory, Signer, own_seed, valid

if TYPE_CHECKING:
    from pathlib import Path


def test_made_once(tmp_path: Path) -> None:
    """The key is made at the first start, for its owner alone, and is the same at the next."""
    file = tmp_path / "state" / "key"
    seed = own_seed(file)

    assert own_seed(file) == seed
    assert file.stat().st_mode & 0o777 == 0o600
    assert Signer(seed).public.startswith("U")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o606, 0o601])
def test_others_may_not_have_it(tmp_path: Path, mode: int) -> None:
    """A key that others can read or replace is refused, with the command that corrects it."""
    file = tmp_path / "key"
    own_seed(file)
    file.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        own_seed(file)


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder"])
def test_no_other_kind_of_file(tmp_path: Path, kind: str) -> None:
    """Neither key nor memory follows a link or waits at a pipe."""
    import os

    file, elsewhere = tmp_path / "file", tmp_path / "elsewhere"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        if kind == "link":
            elsewhere.write_text("SUAFJ")
        file.symlink_to(elsewhere)
    for read in (own_seed, Memory):
        with pytest.raises(ConfigError, match=str(file)):
            read(file)
    assert kind != "dangling link" or not elsewhere.exists()


@pytest.mark.parametrize("seed", ["", "x" * 58, "UDQ7P2WFEEGKZEBECW3JSUJQLTT77JNATKKCQVXYDXTDUW2336QC4NH2"])
def test_no_seed(seed: str) -> None:
    """What is no seed is refused, and not repeated."""
    with pytest.raises(ConfigError, match="NKey seed") as refused:
        Signer(seed)
    assert not seed or seed not in str(refused.value)


def test_signatures() -> None:
    """A signature holds for its text and its key alone; nonsense is no signature and no error."""
    one, two = Signer.new(), Signer.new()
    signature = one.sign("text")

    assert valid(one.public, "text", signature)
    assert not valid(one.public, "texts", signature)
    assert not valid(two.public, "text", signature)
    for public in ("", "U", one.public[:-1], one.public.lower(), "\u00e4" * 56):
        assert not valid(public, "text", signature)
    for nonsense in ("", "!", signature[:-4], signature + "AAAA", "\u00e4"):
        assert not valid(one.public, "text", nonsense)


def test_remembered(tmp_path: Path) -> None:
    """The head and the alarm outlive the process, however long the alarm; a damaged file is none."""
    file = tmp_path / "head"
    Memory(file).keep(Head(7, "f" * 64), "\u00e4" * 10_000, "2026-11-22T18:30:00.123456789Z")
    again = Memory(file)
    assert again.head == Head(7, "f" * 64)
    assert again.alarm
    again.keep(None, "")
    assert (Memory(file).head, Memory(file).alarm) == (None, "")
    file.write_bytes(b"\xff" * 100)
    assert Memory(file).head is None


@pytest.mark.parametrize(
    "line", ["a", "a b", "a UD73", "a U" + "A" * 55 + " x", "a U" + "A" * 55 + " 1 2", "a u" + "a" * 55]
)
def test_keys_of_a_file(tmp_path: Path, line: str) -> None:
    """A file of public keys names the line that is none."""
    file = tmp_path / "keys"
    file.write_text(f"# kept elsewhere\n\nb U{'A' * 55}  # since the beginning\nb U{'B' * 55} 100\n")
    assert [(item.public[1], item.first) for item in _pinned(file)["b"]] == [("A", 1), ("B", 100)]
    file.write_text(f"# kept elsewhere\n{line}\n")
    with pytest.raises(UsageError, match=":2: "):
        _pinned(file)
