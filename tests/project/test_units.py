"""The systemd units: systemd finds no fault in them, and they expose little."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from harness import ALL_ROLES

UNITS = Path(__file__).parents[2] / "systemd"
ANALYZE = shutil.which("systemd-analyze")
ROLES = (*ALL_ROLES, "filesystem", "mounts")
SERVICES = (*(f"agentd@{role}.service" for role in ROLES), "nats-server.service")
MOST = 15
"""Highest exposure, in tenths."""

needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze on this machine")


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze."""
    return subprocess.run([str(ANALYZE), *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Return a copy of the units, with a program that exists, and one unit for each role."""
    copy = Path(shutil.copytree(UNITS, tmp_path / "units"))
    for unit in copy.glob("*.service"):
        lines = ("ExecStart=/bin/true" if line.startswith("ExecStart=") else line for line in _lines(unit))
        unit.write_text("\n".join(lines))
    for role in ROLES:
        (copy / f"agentd@{role}.service").symlink_to("agentd@.service")
    return copy


def _lines(unit: Path) -> list[str]:
    return unit.read_text().splitlines()


@needs_systemd
def test_units_have_no_fault(units: Path) -> None:
    """Verify prints nothing: it exits with 0 even for a key that it does not know."""
    done = analyze("verify", *(str(units / name) for name in (*SERVICES, "agentd.target")))

    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


@needs_systemd
def test_a_fault_is_found(units: Path) -> None:
    """An unknown key in a drop-in of a role is printed, so the test above can fail."""
    drop_in = units / "agentd@mcp-bridge.service.d" / "role.conf"
    drop_in.write_text(drop_in.read_text() + "MemoryMaximum=1G\n")

    done = analyze("verify", str(units / "agentd@mcp-bridge.service"))

    assert "MemoryMaximum" in done.stdout + done.stderr


@needs_systemd
@pytest.mark.parametrize("name", SERVICES)
def test_units_are_hardened(units: Path, name: str) -> None:
    """The exposure that systemd counts is 1.5 of 10 or lower, with the drop-in of the role."""
    done = analyze("security", "--offline=true", f"--threshold={MOST}", str(units / name))

    assert done.returncode == 0, done.stdout[-400:]


@needs_systemd
def test_a_loose_unit_is_found(units: Path) -> None:
    """A drop-in that takes the protection away is counted, so the test above can fail."""
    drop_in = units / "agentd@mcp-bridge.service.d" / "role.conf"
    drop_in.write_text(drop_in.read_text() + "SystemCallFilter=\nProtectSystem=no\nDynamicUser=no\nPrivateUsers=no\n")

    done = analyze("security", "--offline=true", f"--threshold={MOST}", str(units / "agentd@mcp-bridge.service"))

    assert done.returncode != 0


def test_only_the_bridge_reads_the_token() -> None:
    """The token of Proxmox is a credential of the role that calls Proxmox, and of no other."""
    having = {
        path.relative_to(UNITS).parts[0] for path in UNITS.rglob("*") if path.is_file() and "token" in path.read_text()
    }

    assert having == {"agentd@mcp-bridge.service.d"}
