"""Every known attack on a running network is refused: `make attack`, as one test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "attack" / "run.py"


@pytest.mark.system
@pytest.mark.timeout(900)
def test_every_attack_is_refused() -> None:
    """The script ends with 0: no attack has written, destroyed or stopped anything."""
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False, timeout=850)

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "BREACH" not in done.stdout
