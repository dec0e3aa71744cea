"""Start and control the simulated Proxmox VE cluster from a test or the demo.

    with FakePve(cluster="demo") as pve:
        pve.rule("POST", "/qemu$", {"cut_after": True}, count=1)
        ...
        assert len(pve.creates()) == 1

The simulator runs in an environment of its own (see README.md); this file needs the standard library only and shares
no code with it.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

HERE = Path(__file__).resolve().parent
# The interpreter with fakepve in it, unless AGENTD_PVE_PYTHON names another.
PYTHON = HERE.parents[1] / ".venv-pve" / "bin" / "python"
START_TIMEOUT = 30.0
STOP_TIMEOUT = 5.0

Json = Any


def python() -> Path:
    """Return the interpreter that the simulator runs in."""
    return Path(os.environ.get("AGENTD_PVE_PYTHON") or PYTHON)


def available() -> bool:
    """Say whether the simulator's environment is there, so that a test can skip."""
    return python().exists()


def succeeded(task: dict[str, Json]) -> bool:
    """Say whether a task runs or ended well, with or without warnings."""
    exitstatus = task["exitstatus"]
    return exitstatus is None or exitstatus == "OK" or str(exitstatus).startswith("WARNINGS: ")


class FakePve:
    """A running simulator; `url`, `ca` and `tokens` are what a client of Proxmox VE needs."""

    def __init__(
        self,
        cluster: str = "small",
        durations: dict[str, float] | None = None,
        directory: Path | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        """Say what to start; nothing runs before `start` or `with`."""
        self.cluster = cluster
        self.initial = durations or {}
        self.arguments = arguments
        self.directory = directory
        self.scratch: tempfile.TemporaryDirectory[str] | None = None
        self.process: subprocess.Popen[str] | None = None
        self.url = self.control = ""
        self.ca = Path()
        self.tokens: dict[str, str] = {}
        self.pid = 0

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    # ------------------------------------------------------------------ life

    def start(self) -> Self:
        """Start the simulator and wait until it serves."""
        if self.directory is None:
            self.scratch = tempfile.TemporaryDirectory(prefix="fakepve-")
        place = str(self.directory or (self.scratch.name if self.scratch else ""))
        command = [str(python()), str(HERE / "launcher.py"), "--dir", place, "--cluster", self.cluster]
        command += ["--durations", json.dumps(self.initial), *self.arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            ready = json.loads(self._first_line(self.process))
        except BaseException:
            self.stop()
            raise
        self.url, self.control, self.tokens = ready["url"], ready["control"], ready["tokens"]
        self.ca, self.pid = Path(ready["ca"]), int(ready["pid"])
        return self

    @staticmethod
    def _first_line(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], START_TIMEOUT)
        line = process.stdout.readline() if readable else ""
        if not line:
            raise RuntimeError(f"the simulator did not start within {START_TIMEOUT:g} s, or ended (see its stderr)")
        return line

    def stop(self) -> None:
        """End the simulator; safe to call twice."""
        process, self.process = self.process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_TIMEOUT)
            if process.stdout is not None:
                process.stdout.close()
        if self.scratch is not None:
            self.scratch.cleanup()
            self.scratch = None

    # --------------------------------------------------------------- control port

    def call(self, method: str, path: str, body: Json = None) -> Json:
        """Call the control port; ValueError says what it did not like."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.control + path, data=data, method=method)  # noqa: S310 - loopback
        request.add_header("Content-Type", "application/json")
        try:
            with urlopen(request, timeout=START_TIMEOUT) as answer:  # noqa: S310 - loopback
                return json.load(answer)
        except HTTPError as error:
            with error:
                raise ValueError(error.read().decode()) from error

    def rule(
        self, method: str, path: str, effect: dict[str, Json], count: int | None = None, after: int = 0
    ) -> dict[str, Json]:
        """Let requests go wrong; `path` is a regular expression on the path without /api2/json."""
        rule = {"method": method, "path": path, "effect": effect, "count": count, "after": after}
        return dict(self.call("POST", "/rules", rule))

    def rules(self) -> list[dict[str, Json]]:
        """List the rules with `hits` (requests that matched) and `applied`."""
        return list(self.call("GET", "/rules"))

    def clear(self, number: int | None = None) -> None:
        """Drop one rule or all, and let go the requests they hold."""
        self.call("DELETE", "/rules" if number is None else f"/rules?id={number}")

    def lock(self, vmid: int, lock: str | None = "backup", *, flock: bool = False) -> None:
        """Lock a guest; None unlocks it. With `flock` its lock file is held instead."""
        body = {"vmid": vmid, "lock": lock, "flock": flock}
        self.call("DELETE" if lock is None and not flock else "POST", "/lock", body)

    def node(self, node: str, *, online: bool = True, delay: float | None = None, add: bool = False) -> None:
        """Take a node off the network or back, or add an empty one."""
        body: dict[str, Json] = {"node": node, "online": online, "add": add}
        self.call("POST", "/node", body if delay is None else body | {"delay": delay})

    def quorum(self, *, quorate: bool) -> None:
        """Take the cluster's quorum away, or give it back."""
        self.call("POST", "/quorum", {"quorate": quorate})

    def storage(self, storage: str, **changes: Json) -> dict[str, Json]:
        """Take a storage off line (active=False) or back, or change its content types."""
        return dict(self.call("POST", "/storage", {"storage": storage, **changes}))

    def hardware(self, **state: Json) -> None:
        """Give the cluster Ceph or a directory to sync with, or a node a disk or a pool in trouble."""
        self.call("POST", "/hardware", state)

    def volumes(self, storage: str, node: str, backups: int) -> None:
        """Put a number of backups of foreign guests on a storage."""
        self.call("POST", "/storage", {"storage": storage, "node": node, "backups": backups})

    def durations(self, **seconds: float) -> dict[str, float]:
        """Set how long tasks take by type; `default` is for the others."""
        return dict(self.call("POST", "/durations", seconds))

    def settings(self, **values: float) -> dict[str, float]:
        """Set auth_delay, offline_delay, lock_wait, archive_lag or stat_lag, in seconds."""
        return dict(self.call("POST", "/settings", values))

    def guest(self, **guest: Json) -> dict[str, Json]:
        """Create a guest of another client: no task, no request; vmid and node are chosen if they are not given."""
        return dict(self.call("POST", "/guest", guest))

    def drop_guest(self, vmid: int) -> None:
        """Let a guest be gone, without a task."""
        self.call("DELETE", f"/guest?vmid={vmid}")

    def log(self, method: str | None = None, path: str | None = None, since: int = 0) -> list[dict[str, Json]]:
        """List the requests that arrived, with what was answered and whether it was done."""
        query = {"method": method, "path": path, "since": since}
        return list(self.call("GET", "/log?" + urlencode({key: value for key, value in query.items() if value})))

    def inventory(self) -> dict[str, Json]:
        """Return guests, tasks, volumes and nodes as they really are."""
        return dict(self.call("GET", "/inventory"))

    def reset(self) -> None:
        """Go back to the cluster as it started, without rules and log."""
        self.call("POST", "/reset", {})

    # ------------------------------------------------------------------ short cuts

    def found(self, vmid: int) -> dict[str, Json] | None:
        """Return a guest as it really is, or None."""
        return next((guest for guest in self.inventory()["guests"] if guest["vmid"] == vmid), None)

    def tasks(self, kind: str | None = None) -> list[dict[str, Json]]:
        """List the tasks there were, of one type or all, oldest first."""
        return [task for task in self.inventory()["tasks"] if kind in (None, task["type"])]

    def creates(self) -> list[dict[str, Json]]:
        """List the creates and clones that were accepted and whose task did not fail, from the log of requests."""
        failed = {task["upid"] for task in self.tasks() if not succeeded(task)}
        made = self.log("POST", r"/(qemu|lxc)(/\d+/clone)?$")
        return [entry for entry in made if entry["performed"] and entry["upid"] not in failed]

    def wait(self, upid: str, timeout: float = 10.0) -> str:
        """Wait until a task has ended and return its exit status."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            task = self.call("GET", "/task?" + urlencode({"upid": upid}))
            if task["status"] == "stopped":
                return str(task["exitstatus"])
            time.sleep(0.02)
        raise TimeoutError(f"{upid} still runs after {timeout:g} s")

    def headers(self, token: str = "full") -> dict[str, str]:  # noqa: S107 - the name of a token
        """Return the header by which a client logs in with the named token."""
        return {"Authorization": f"PVEAPIToken={self.tokens[token]}"}
