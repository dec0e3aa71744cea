"""What the command line prints where the output is narrow, closed or full, or the configuration is not found."""

from __future__ import annotations

import io
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agentd.cli.output import terminal
from harness import SCRIPTS

if TYPE_CHECKING:
    from collections.abc import Callable

COLUMNS = ["WORKFLOW", "STATUS", "ERROR"]
ROWS = [["vm_deployment-a98533dd2c", "[green]✓[/] completed", ""], ["w2", "failed", "no such node: it is not there"]]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[str]]:
    """Return a function that prints ROWS at a width and returns the lines."""

    def at(width: int) -> list[str]:
        out = io.StringIO()
        monkeypatch.setattr(terminal.console, "_file", out)
        monkeypatch.setattr(terminal.console, "_width", width)
        terminal.print_rows(COLUMNS, ROWS, "nothing")
        return [line.rstrip() for line in out.getvalue().splitlines()]

    return at


def test_wide(printed: Callable[[int], list[str]]) -> None:
    """Where there is room each row is one line."""
    assert printed(80) == [
        "WORKFLOW                  STATUS       ERROR",
        "vm_deployment-a98533dd2c  ✓ completed",
        "w2                        failed       no such node: it is not there",
    ]


def test_narrower(printed: Callable[[int], list[str]]) -> None:
    """A long text is wrapped between words; ids stay whole."""
    assert printed(50) == [
        "WORKFLOW                  STATUS       ERROR",
        "vm_deployment-a98533dd2c  ✓ completed",
        "w2                        failed       no such",
        "                                       node: it is",
        "                                       not there",
    ]


def test_too_narrow(printed: Callable[[int], list[str]]) -> None:
    """Where not even the words fit beside each other a row is a block, and an id can still be copied."""
    assert printed(30) == [
        "workflow  vm_deployment-a98533dd2c",
        "status    ✓ completed",
        "",
        "workflow  w2",
        "status    failed",
        "error     no such node: it is not there",
    ]


def test_markup_of_the_empty_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text for an empty table is printed as it is written, with its brackets."""
    out = io.StringIO()
    monkeypatch.setattr(terminal.console, "_file", out)
    terminal.print_rows(COLUMNS, [], "write [schedules.NAME]")

    assert out.getvalue() == "write [schedules.NAME]\n"


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash with agentd on its PATH."""
    path = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["/bin/bash", "-c", f"set -o pipefail; {command}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"PATH": path} | environment,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize("command", ["agentd explain", "agentd --json explain", "agentd explain usage"])
def test_full_disk(command: str) -> None:
    """An output that cannot be written is an error of one line and exit code 1."""
    done = shell(f"{command} > /dev/full")

    assert (done.stderr, done.returncode) == ("agentd: No space left on device\n", 1)


@pytest.mark.parametrize(
    "command", ["agentd explain >&-", "agentd explain 2>&-", "agentd explain <&-", "agentd explain | true"]
)
def test_closed_streams(command: str) -> None:
    """A closed standard stream, or a reader that has gone, causes no message and no abort."""
    done = shell(command)

    assert done.stderr == ""
    assert done.returncode == (1 if "|" in command else 0)


def test_unknown_status() -> None:
    """A status that no workflow can have is rejected with the nearest one, before NATS is asked."""
    done = shell("agentd workflows --status fail")
    exported = shell("agentd export --status fail")

    assert done.stderr == exported.stderr == "agentd: --status: unknown 'fail'; did you mean failed?\n"
    assert (done.returncode, exported.returncode) == (2, 2)


def test_missing_configuration(tmp_path: Path) -> None:
    """A missing file that AGENTD_CONFIG names is an error with the name of the variable."""
    done = shell("agentd config check", AGENTD_CONFIG=str(tmp_path / "no.toml"))

    assert done.stderr == (
        f"agentd: {tmp_path}/no.toml: cannot be read: No such file or directory (AGENTD_CONFIG names it)\n"
    )
    assert done.returncode == 78


def test_unwritable_state(tmp_path: Path) -> None:
    """A state directory that cannot be created is an error of one line."""
    (tmp_path / "file").touch()
    done = shell(f"agentd up --port 4999 --state {tmp_path}/file/state")

    assert done.stderr.startswith("agentd: Not a directory: ")
    assert (len(done.stderr.splitlines()), done.returncode) == (1, 1)
