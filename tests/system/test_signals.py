"""What a daemon reports to systemd, and what it does on its signals: the protocol of sd_notify(3) on a real socket."""

from __future__ import annotations

import itertools
import shutil
import signal
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from harness import Daemon, NatsServer, Net, until

if TYPE_CHECKING:
    from collections.abc import Iterator


class Manager:
    """A service manager: records its messages, with the monotonic time in µs when it came."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="notify-"))  # a socket's path has at most 107 bytes
        self.path = str(self.directory / "socket")
        self.reported: list[tuple[int, dict[str, str]]] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        shutil.rmtree(self.directory)

    def read(self) -> int:
        """Take what has come; return how many messages came until now."""
        while True:
            try:
                text = self.socket.recv(4096).decode()
            except BlockingIOError:
                return len(self.reported)
            fields = dict(line.split("=", 1) for line in text.splitlines())
            self.reported.append((time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000, fields))

    def wait(self, field: str, value: str = "", *, since: int = 0) -> tuple[int, dict[str, str]]:
        """Wait for the first message after number `since` that has this field, and if named this value in it."""

        def found() -> tuple[int, dict[str, str]] | None:
            self.read()
            return next(
                (message for message in self.reported[since:] if field in message[1] and value in message[1][field]),
                None,
            )

        return until(found, f"{field} {value} (received: {self.reported[-5:]})")


@pytest.fixture
def manager() -> Iterator[Manager]:
    """Return a service manager that listens."""
    with Manager() as listening:
        yield listening


@pytest.fixture
def net(tmp_path: Path, nats_server: NatsServer) -> Net:
    """Return a network without a Proxmox, which a monitor does not need."""
    net = Net(tmp_path, nats_server.url)
    net.settings["log"]["level"] = "info"
    return net


def _daemon(net: Net, manager: Manager, *, watchdog: float = 1.0) -> Daemon:
    """Return a specialist that systemd has started."""
    return net.daemon("specialist", NOTIFY_SOCKET=manager.path, WATCHDOG_USEC=str(int(watchdog * 1e6)))


async def _provisioned(net: Net) -> None:
    async with net.client():
        pass


async def test_a_life(net: Net, manager: Manager) -> None:
    """READY comes once when it works, WATCHDOG in time for ever after, STOPPING before it ends with code 0."""
    await _provisioned(net)
    with _daemon(net, manager) as daemon:
        ready_at, ready = manager.wait("READY")
        seen = len(manager.reported)
        until(lambda: manager.read() > seen + 6, "six more messages")
        daemon.signal(signal.SIGTERM)
        code = daemon.wait()
    manager.read()
    alive = [at for at, fields in manager.reported if "WATCHDOG" in fields and at >= ready_at]
    kinds = [field for _, fields in manager.reported for field in fields]

    assert code == 0
    assert ready == {"READY": "1", "STATUS": "working"}
    assert kinds.count("READY") == 1
    assert max(after - before for before, after in itertools.pairwise(alive)) < 1_000_000
    assert manager.reported[-1][1] == {"STOPPING": "1", "STATUS": "finishing what runs"}


async def test_waiting_for_nats(net: Net, manager: Manager, nats_server: NatsServer) -> None:
    """A start without NATS says what it waits for and asks for time; READY comes when NATS has come."""
    await _provisioned(net)
    nats_server.kill()
    daemon = _daemon(net, manager)
    try:
        daemon.start()
        _, waiting = manager.wait("STATUS")
        not_yet = [fields for _, fields in manager.reported if "READY" in fields]
        nats_server.start()
        manager.wait("READY")
    finally:
        daemon.stop()

    assert waiting == {"STATUS": "waiting for NATS", "EXTEND_TIMEOUT_USEC": "30000000"}
    assert not_yet == []
    assert daemon.exit_code == 0


async def test_status(net: Net, manager: Manager, nats_server: NatsServer) -> None:
    """What keeps it from working is in STATUS, and is cleared when it works again; READY is not sent again."""
    await _provisioned(net)
    with _daemon(net, manager):
        manager.wait("READY")
        since = len(manager.reported)
        nats_server.kill()
        _, lost = manager.wait("STATUS", since=since)
        since = len(manager.reported)
        nats_server.start()
        _, back = manager.wait("STATUS", "working", since=since)
    kinds = [field for _, fields in manager.reported for field in fields]

    assert lost["STATUS"].startswith("bus: ")
    assert back == {"STATUS": "working"}
    assert kinds.count("READY") == 1


async def test_reload(net: Net, manager: Manager) -> None:
    """SIGHUP takes over the log's level, and says RELOADING with the time, then READY; a wrong file changes nothing."""
    await _provisioned(net)
    with _daemon(net, manager) as daemon:
        manager.wait("READY")
        before, reported = _lines(daemon, "debug"), _reload(net, manager, daemon, "debug")
        after = len(daemon.log.read_bytes())
        net.config_file().write_text("[log]\nlevel = 'loud'\n")
        _hup(manager, daemon)
        refused = daemon.log.read_bytes()[after:]
        _reload(net, manager, daemon, "error")
        quiet = len(daemon.log.read_bytes())
    at, fields = reported

    assert (before, _lines(daemon, "reloaded")) == (0, 1)
    assert b'"not reloaded"' in refused
    assert b"loud" in refused
    assert daemon.log.read_bytes()[quiet:] == b"", "the level is `error`: a regular end is not logged"
    assert 0 <= at - int(fields["MONOTONIC_USEC"]) < 5_000_000
    assert daemon.exit_code == 0


def _reload(net: Net, manager: Manager, daemon: Daemon, level: str) -> tuple[int, dict[str, str]]:
    net.settings["log"]["level"] = level
    net.config_file()
    return _hup(manager, daemon)


def _hup(manager: Manager, daemon: Daemon) -> tuple[int, dict[str, str]]:
    manager.read()
    since = len(manager.reported)
    daemon.signal(signal.SIGHUP)
    reloading = manager.wait("RELOADING", since=since)
    manager.wait("READY", since=manager.reported.index(reloading))
    return reloading


def _lines(daemon: Daemon, word: str) -> int:
    return daemon.log.read_text().count(f'"{word}"')


async def test_stop_while_waiting(net: Net, manager: Manager, nats_server: NatsServer) -> None:
    """A daemon that waits for NATS ends when it is stopped, with code 0."""
    nats_server.kill()
    daemon = _daemon(net, manager).start()
    manager.wait("STATUS", "waiting for NATS")
    begun = time.monotonic()
    daemon.signal(signal.SIGINT)

    assert daemon.wait() == 0
    assert time.monotonic() - begun < 15
