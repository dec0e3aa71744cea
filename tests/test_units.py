"""The units as systemd itself judges them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parent.parent / "systemd"
ANALYZE = shutil.which("systemd-analyze")

needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze on this machine")


@needs_systemd
def test_units_are_right(tmp_path: Path) -> None:
    """Verify prints nothing: it exits with 0 even for a key that it does not know."""
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("/opt/agentd/bin/agentd", "/bin/true").replace("User=agentd", "User=daemon")
        (tmp_path / unit.name).write_text(text.replace("Group=agentd", "Group=daemon"))

    done = subprocess.run(
        [str(ANALYZE), "verify", *(str(each) for each in tmp_path.iterdir())],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


@needs_systemd
def test_units_are_hardened() -> None:
    """The exposure that systemd counts stays at 2.5 of 10 or below."""
    unit = UNITS / "agentd@.service"
    done = subprocess.run(
        [str(ANALYZE), "security", "--offline=true", "--threshold=25", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-400:]
