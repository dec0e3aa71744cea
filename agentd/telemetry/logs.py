"""Logging: one line an event, to standard error, for journald or a terminal.

structlog renders; the logger is our own subclass because the level must change while the daemon runs (SIGHUP), and
structlog's filtering logger fixes it in the class of every logger that exists.  Below the level a call costs one
comparison.  Messages of libraries through `logging` (nats, uvicorn, proxmoxer, urllib3) are logged in the same way from
WARNING upward.  Values with the name of a secret are hidden, whatever code logs them.

structlog imports rich if it is installed, for tracebacks that show local variables, which must not be shown: the import
of rich is blocked.  This saves each daemon 4 to 6 MiB and 180 ms of its start; the command line still imports rich.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TextIO

import msgspec

from agentd.config.secret_files import is_secret
from agentd.printable import cleaned, escaped, printable
from agentd.wire.secrets import redacted

_blocked = "rich" not in sys.modules
if _blocked:
    sys.modules["rich"] = None  # type: ignore[assignment]  # makes `import rich` raise ImportError

import structlog  # noqa: E402
from structlog.dev import ConsoleRenderer, plain_traceback  # noqa: E402
from structlog.processors import format_exc_info  # noqa: E402

if _blocked:
    del sys.modules["rich"]

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    from structlog.typing import ExcInfo, Processor

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""syslog's priorities, written at the beginning of a line as sd-daemon(3) requires: `<3>`."""
HIDDEN: Final = "***"

_encode = msgspec.json.Encoder(enc_hook=str).encode


class Sink:
    """The output of all loggers of the process: stream, lowest level, and format."""

    def __init__(self) -> None:
        """Log from level info to standard error, one JSON object a line."""
        self.threshold = LEVELS["info"]
        self.stream: TextIO | None = None
        self.journal = False
        self.processors: list[Processor] = [_order_fields, format_exc_info, _json]

    def write(self, line: str, level: str) -> None:
        """Write a line; for the journal it is preceded by its priority."""
        if self.journal:
            prefix = f"<{PRIORITIES[level]}>"
            line = prefix + line.replace("\n", f"\n{prefix}")
        stream = self.stream or sys.stderr
        # A closed pipe must not stop the work, and there is no other place to report it.
        with contextlib.suppress(OSError, ValueError):
            stream.write(line + "\n")
            stream.flush()


class Logger(structlog.BoundLoggerBase):
    """Logs events with named values; `bind` returns a logger with more values."""

    _logger: Sink

    def debug(self, event: str, **values: object) -> None:
        """Log an event that is of interest only to a developer."""
        self._log("debug", event, values)

    def info(self, event: str, **values: object) -> None:
        """Log an event that may be of interest to an operator."""
        self._log("info", event, values)

    def warning(self, event: str, **values: object) -> None:
        """Log an event that an operator should look at some time."""
        self._log("warning", event, values)

    def error(self, event: str, **values: object) -> None:
        """Log an event that an operator should look at now."""
        self._log("error", event, values)

    def exception(self, event: str, **values: object) -> None:
        """Log the exception that is being handled, as an error."""
        self._log("error", event, {"exc_info": True, **values})

    def _log(self, level: str, event: str, values: dict[str, Any]) -> None:
        if LEVELS[level] >= self._logger.threshold:
            args, _ = self._process_event(level, event, values)
            self._logger.write(str(args[0]), level)


class RateLimitedLog:
    """Logs warnings that any user may cause, at a limited rate."""

    def __init__(self, log: Logger, every: float = 10.0) -> None:
        """Log to `log`, with at least `every` seconds between two lines."""
        self._log = log
        self._every = every
        self._last_line_at = -every
        self._omitted = 0

    def warning(self, event: str, **values: object) -> None:
        """Log a warning and the number omitted since the last, or omit and count it."""
        at = time.monotonic()
        if at - self._last_line_at < self._every:
            self._omitted += 1
            return
        self._log.warning(event, unsaid=self._omitted, **values)
        self._last_line_at, self._omitted = at, 0


class _FromLibraries(logging.Handler):
    """Passes records of the standard library's logging to agentd's logger."""

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self._to = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Log `record` like an event of agentd."""
        level = next((name for name, number in LEVELS.items() if record.levelno <= number), "critical")
        try:
            event = record.getMessage()
        except (TypeError, ValueError):  # a library's format does not fit its arguments
            event = str(record.msg)
        more = {"exc_info": record.exc_info} if record.exc_info else {}
        self._to._log(level, event, {"logger": record.name, **more})  # noqa: SLF001 - the level is a value here


def get_logger(**values: object) -> Logger:
    """Return a logger that adds `values` to each event."""
    return Logger(_sink, _sink.processors, dict(values))


def configure(
    level: str,
    format: str,  # noqa: A002 - the setting's name
    stream: TextIO | None = None,
    *,
    env: Mapping[str, str] = os.environ,
) -> None:
    """Configure logging: lowest `level`, `format` (auto, json, console), `stream`."""
    target = stream or sys.stderr
    terminal = target.isatty()
    _sink.stream = stream
    _sink.journal = is_journal(target, env)
    console = format == "console" or (format == "auto" and terminal)
    colors = terminal and "NO_COLOR" not in env
    # In place: loggers that exist already share this list.  Plain tracebacks: rich ones show local variables.
    _sink.processors[:] = (
        [
            _order_fields,
            _remove_control_characters,
            ConsoleRenderer(colors=colors, timestamp_key="time", exception_formatter=_traceback),
        ]
        if console
        else [_order_fields, format_exc_info, _json]
    )
    root = logging.getLogger()
    for handler in [existing for existing in root.handlers if isinstance(existing, _FromLibraries)]:
        root.removeHandler(handler)
    root.addHandler(_FromLibraries(get_logger()))
    root.setLevel(logging.WARNING)
    set_level(level)


def set_level(level: str) -> None:
    """Log from `level` upward from now on; this also applies to existing loggers."""
    _sink.threshold = LEVELS[level]
    logging.getLogger("agentd").setLevel(_sink.threshold)


def is_journal(stream: TextIO, env: Mapping[str, str]) -> bool:
    """Return whether `stream` is systemd's journal.

    $JOURNAL_STREAM alone does not prove it: a process whose output is redirected inherits the variable too.
    """
    device, _, inode = env.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # the stream has no file, or is closed
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


def _order_fields(_: object, level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put time, level and event first, and hide secrets."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line: dict[str, Any] = {"time": time, "level": level, "event": _hidden("", event.pop("event"))}
    for key, value in event.items():
        line[key] = _hidden(key, value)
    return line


def _hidden(key: str, value: object) -> object:
    if is_secret(key) and value:
        return HIDDEN
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {name: _hidden(str(name), item) for name, item in value.items()}
    return [_hidden("", item) for item in value] if isinstance(value, list) else value


def _json(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    if isinstance(event.get("exception"), str):
        event["exception"] = redacted(event["exception"])
    return escaped(_encode(event).decode())


def _remove_control_characters(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Remove control characters: some values come from guests and other agents."""
    return {key: value if key == "exc_info" else cleaned(value) for key, value in event.items()}


def _traceback(to: TextIO, exc_info: ExcInfo) -> None:
    """Write a traceback without secrets and control characters."""
    buffer = io.StringIO()
    plain_traceback(buffer, exc_info)
    to.write(printable(redacted(buffer.getvalue()), lines=True))


_sink = Sink()  # global, like the standard library's root logger: there is one standard error
