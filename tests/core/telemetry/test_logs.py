"""The log: one line an event, no secrets, a level that can change."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from agentd.telemetry import logs

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "hunter2"  # noqa: S105 - what must not be seen


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.fixture
def stream() -> io.StringIO:
    """Log as JSON into memory, from debug upward."""
    stream = io.StringIO()
    logs.configure("debug", "json", stream, env={})
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """Return what was logged."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_line_is_json_with_time_and_level(stream: io.StringIO) -> None:
    """An event is one JSON object that begins with time, level and text and holds what was bound."""
    logs.get_logger(agent="monitor-pve1").bind(role="monitor").info("ready", roles=["monitor"])
    (line,) = lines(stream)

    assert list(line)[:3] == ["time", "level", "event"]
    assert line["time"].endswith("Z")
    assert line | {"time": ""} == {
        "time": "",
        "level": "info",
        "event": "ready",
        "agent": "monitor-pve1",
        "role": "monitor",
        "roles": ["monitor"],
    }


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_level_has_its_method(stream: io.StringIO, level: str) -> None:
    """Each level is written under its name."""
    getattr(logs.get_logger(), level)("x")

    assert lines(stream)[0]["level"] == level


def test_level_changes_for_loggers_that_exist(stream: io.StringIO) -> None:
    """A reload that changes the level reaches every logger that was made before."""
    log = logs.get_logger().bind(a=1)
    logs.set_level("warning")
    log.info("not this")
    log.warning("this")
    logs.set_level("info")
    log.info("and this")

    assert [line["event"] for line in lines(stream)] == ["this", "and this"]


def test_logger_that_was_made_first_follows_the_configuration() -> None:
    """A logger that exists before `configure` writes where and as it is configured."""
    log = logs.get_logger(a=1)
    stream = io.StringIO()
    logs.configure("info", "console", stream, env={})
    log.info("hello")

    assert "hello" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_secret_is_hidden(stream: io.StringIO) -> None:
    """A value whose name is that of a secret is never written, at any depth."""
    logs.get_logger(token=SECRET).info(
        "x", password=SECRET, headers={"Authorization": SECRET}, more=[{"client_secret": SECRET}], key="wf.t"
    )
    (line,) = lines(stream)

    assert SECRET not in stream.getvalue()
    assert (line["token"], line["headers"], line["key"]) == ("***", {"Authorization": "***"}, "wf.t")


def test_exception_has_its_traceback_and_no_variables(stream: io.StringIO) -> None:
    """An exception is logged with its traceback, in JSON and on a terminal, without the values of variables."""
    terminal = Terminal()
    for target, form in ((stream, "json"), (terminal, "auto")):
        logs.configure("info", form, target, env={})
        try:
            password = SECRET
            password.index("x")
        except ValueError:
            logs.get_logger().exception("it broke", tool="t")

    assert "ValueError: substring not found" in lines(stream)[0]["exception"]
    assert lines(stream)[0]["level"] == "error"
    assert "ValueError: substring not found" in terminal.getvalue()
    assert SECRET not in stream.getvalue() + terminal.getvalue()


def test_terminal_gets_colours_unless_it_wants_none() -> None:
    """On a terminal the log is coloured text, and NO_COLOR is respected."""
    coloured, plain = Terminal(), Terminal()
    logs.configure("info", "auto", coloured, env={})
    logs.get_logger().info("hello")
    logs.configure("info", "auto", plain, env={"NO_COLOR": "1"})
    logs.get_logger().info("hello")

    assert "\x1b[" in coloured.getvalue()
    assert "\x1b[" not in plain.getvalue()
    assert "[info     ] hello" in plain.getvalue()


def test_journal_lines_have_priorities(tmp_path: Path) -> None:
    """When standard error is the journal, every line begins with its priority."""
    path = tmp_path / "log"
    with path.open("w") as stream:
        status = os.fstat(stream.fileno())
        logs.configure("info", "console", stream, env={"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        logs.get_logger().info("fine")
        logs.get_logger().error("two\nlines")
    written = path.read_text().splitlines()

    assert [line[:3] for line in written] == ["<6>", "<3>", "<3>"]


def test_redirected_stream_is_not_the_journal(tmp_path: Path) -> None:
    """A stream that was redirected gets no priorities, though $JOURNAL_STREAM was inherited."""
    with (tmp_path / "log").open("w") as stream:
        redirected = logs.is_journal(stream, {"JOURNAL_STREAM": "1:2"})

    assert not redirected
    assert not logs.is_journal(stream, {"JOURNAL_STREAM": "1:2"})
    assert not logs.is_journal(io.StringIO(), {"JOURNAL_STREAM": "1:2"})


def test_libraries_go_the_same_way(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """What libraries log comes out as our lines from WARNING upward, once, also after a second `configure`."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own would raise for the third
    for _ in range(2):
        logs.configure("debug", "json", stream, env={})
    logging.getLogger("nats.aio").warning("slow %s", "consumer")
    logging.getLogger("urllib3").info("not this")
    logging.getLogger("agentd.web").info("ours")
    logging.getLogger("x").error("does not %d fit", "x")
    try:
        int("k")
    except ValueError:
        logging.getLogger("uvicorn.error").exception("it broke")
    found = [(line["level"], line["logger"], line["event"]) for line in lines(stream)]

    assert found == [
        ("warning", "nats.aio", "slow consumer"),
        ("info", "agentd.web", "ours"),
        ("error", "x", "does not %d fit"),
        ("error", "uvicorn.error", "it broke"),
    ]
    assert "ValueError" in lines(stream)[3]["exception"]


def test_any_value_can_be_logged(stream: io.StringIO) -> None:
    """A value that JSON does not know is written as its text."""
    logs.get_logger().info("x", value=ValueError("why"))

    assert lines(stream)[0]["value"] == "why"


def test_closed_stream_does_not_stop_the_work() -> None:
    """A log that cannot be written raises nothing."""
    stream = io.StringIO()
    logs.configure("info", "json", stream, env={})
    stream.close()
    logs.get_logger().info("x")

    assert stream.closed


def test_rich_is_not_loaded_for_the_log() -> None:
    """A daemon's log does not load rich, and rich can still be imported afterwards."""
    loaded = "print('rich' in sys.modules)"
    code = f"import sys, agentd.telemetry.logs; {loaded}; import rich.console; {loaded}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False", "True"]
