"""Named places between two writes, where tests kill the process.

`AGENTD_TEST_CRASH=after-post` makes the process kill itself with SIGKILL the first time that it comes to
that place, after it has left a file of that name in the directory `AGENTD_TEST_CRASH_DIR`, by which a test
knows that the place was reached; the next process finds the file and goes on.  Without the variable a point
costs a dictionary look-up.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Final

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

_armed = os.environ.get("AGENTD_TEST_CRASH", "")


def crash_point(name: str) -> None:
    """Die here if a test asked for it."""
    if name == _armed:
        _die(name)


def _die(name: str) -> None:
    reached = Path(os.environ["AGENTD_TEST_CRASH_DIR"]) / name
    try:
        os.close(os.open(reached, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
