"""A nats-server that is given by path is run only if its content is the one that its checksum names."""

from __future__ import annotations

import hashlib
import shutil
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from agentd.cli.main import cli
from agentd.cli.setup import nats_server
from agentd.errors import UsageError
from harness import SCRIPTS

if TYPE_CHECKING:
    from pathlib import Path


def test_the_right_binary_runs(tmp_path: Path) -> None:
    """A copy with the right SHA-256, in any case of letters, is started and answers."""
    binary = tmp_path / "my-nats"
    shutil.copy(SCRIPTS / "nats-server", binary)
    digest = hashlib.sha256(binary.read_bytes()).hexdigest().upper()

    with nats_server.nats_server(tmp_path / "data", given=nats_server.Binary(binary, digest), users="users: []") as url:
        assert url.startswith("nats://127.0.0.1:")


@pytest.mark.parametrize("digest", ["", "0" * 64, "abc"])
def test_another_binary_is_not_run(tmp_path: Path, digest: str) -> None:
    """With another SHA-256 nothing is started, and the error says both sums."""
    binary = tmp_path / "my-nats"
    binary.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    binary.chmod(0o755)

    with (
        pytest.raises(UsageError, match="it was not run"),
        nats_server.nats_server(tmp_path / "data", given=nats_server.Binary(binary, digest), users="users: []"),
    ):
        pass
    assert not (tmp_path / "ran").exists()


def test_a_missing_binary_is_named(tmp_path: Path) -> None:
    """A path at which there is nothing is an error that names it."""
    with (
        pytest.raises(UsageError, match="nothing-here cannot be read"),
        nats_server.nats_server(
            tmp_path, given=nats_server.Binary(tmp_path / "nothing-here", "0" * 64), users="users: []"
        ),
    ):
        pass


def test_path_and_checksum_go_together() -> None:
    """A binary without its checksum is refused on the command line."""
    found = CliRunner().invoke(cli, ["up", "--nats-server", "/usr/bin/true"])

    assert found.exit_code == 2
    assert "--nats-server and --nats-server-sha256 go together" in found.output
