"""axe-core, which checks the accessibility of a page: fetched once, by hash, from the package index.

The wheel is only opened, not installed: its own dependencies are a second way to drive a browser.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

WHEEL = "axe-playwright-python==0.1.8 --hash=sha256:fdd263c998388f1a8e67cad02677e612d946248bd44d163be5e8650ea31f95f8"
MEMBER = "axe_playwright_python/axe.min.js"
KEPT = Path(__file__).parents[2] / ".dashboard" / "axe-0.1.8.min.js"


def axe_script() -> str:
    """Return the script; skips the test where the package index cannot be reached."""
    if not KEPT.exists():
        with tempfile.TemporaryDirectory() as folder:
            wanted = Path(folder) / "axe.txt"
            wanted.write_text(WHEEL)
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
            command += ["--require-hashes", "--disable-pip-version-check", "-d", folder, "-r", str(wanted)]
            if subprocess.run(command, check=False, timeout=120, capture_output=True).returncode:
                pytest.skip("axe-core cannot be fetched here")
            (wheel,) = Path(folder).glob("*.whl")
            script = zipfile.ZipFile(wheel).read(MEMBER)
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        KEPT.write_bytes(script)
    return KEPT.read_text("utf-8")
