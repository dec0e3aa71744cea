"""Short chaos runs: everything goes wrong for a while, and after it nothing is lost and nothing was done twice.

The long ones are `make chaos SEED=… MINUTES=…`.  A run that fails prints its seed, by which it is repeated.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pve.client import available

RUN = Path(__file__).with_name("run.py")
LIMIT = 175

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(LIMIT + 20),
    pytest.mark.skipif(not available(), reason="no environment for the simulated Proxmox VE"),
]


@pytest.mark.parametrize(("servers", "minutes"), [("one", "0.6"), ("three", "0.5")])
def test_no_work_is_lost_or_repeated(servers: str, minutes: str, tmp_path: Path) -> None:
    """With any kills, pauses and lost answers each workflow ends once, and each VM exists once or not at all."""
    command = [sys.executable, str(RUN), "--minutes", minutes, "--settle", "80", "--keep", str(tmp_path / "run")]
    command += ["--cluster"] if servers == "three" else []
    if "AGENTD_TEST_SEED" in os.environ:
        command += ["--seed", os.environ["AGENTD_TEST_SEED"]]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT, check=False
    )
    last = (done.stdout.splitlines() or ["no output"])[-1]
    sys.stdout.write(last + "\n")

    assert done.returncode == 0, done.stdout
    assert last.startswith("chaos passed")
    assert "lost 0, doubled 0" in last
