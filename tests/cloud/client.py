"""Start and control the simulated EC2 (moto_server.py) from a test.

with Moto() as moto:
    moto.fault("RunInstances", "lose")
    ...
    assert moto.seen().count("RunInstances") == 1
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.request import Request, urlopen

if TYPE_CHECKING:
    from types import TracebackType

HERE = Path(__file__).resolve().parent
PYTHON = HERE.parents[1] / ".venv-cloud" / "bin" / "python"
KEY = "AKIDTESTKEY000000001"
"""The access key that the simulated EC2 admits."""


def available() -> bool:
    """Say whether the environment of the simulated EC2 is there, so that a test can skip."""
    return PYTHON.exists()


class Moto:
    """A running simulated EC2; `url` is its endpoint."""

    def __enter__(self) -> Self:
        """Start it on a free port of loopback, and wait until it has loaded its images."""
        command = [str(PYTHON), str(HERE / "moto_server.py"), KEY]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        self.reset()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End it: its standard input ends."""
        self.process.communicate(timeout=10)

    def fault(self, action: str, kind: str, count: int = 1, seconds: float = 0) -> None:
        """Answer the next requests of this action with a fault (moto_server.py lists them)."""
        self._post("/faults", {"action": action, "kind": kind, "count": count, "seconds": seconds})

    def reset(self) -> None:
        """Start again with an empty account."""
        self._post("/reset", {})

    def seen(self) -> list[str]:
        """Return the actions of all requests since the start, in order."""
        return self._post("/seen", {})

    def _post(self, path: str, content: object) -> list[str]:
        asked = Request(self.url + path, json.dumps(content).encode(), method="POST")  # noqa: S310 - loopback
        with urlopen(asked, timeout=60) as answer:  # noqa: S310
            found: list[str] = json.loads(answer.read())
        return found
