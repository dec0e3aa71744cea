"""Fixtures of the rollout tests: a lab of three nodes for all of them, and what its operator has."""

from __future__ import annotations

import hashlib
import os
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pve.client import FakePve
from rollout import image
from rollout.lab import CONTROL, Lab
from rollout.operator_site import FIGURES, PLAYBOOK, Site, wheelhouse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Fetched:
    """What is made with the network of this machine, before the lab is entered, which has none."""

    tools: dict[str, str]
    root: Path
    release: Path


SUITE = os.environ.get("AGENTD_ROLLOUT_SUITE", "bookworm")
"""The release of Debian on the nodes: that below Proxmox VE 8, or `trixie`, below Proxmox VE 9."""
PYTHON = {"bookworm": "3.11", "trixie": "3.13"}


@pytest.fixture(scope="session")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Fetched:
    """Make the root of the nodes and the wheelhouse."""
    if os.geteuid() != 0:
        pytest.skip("needs root: nodes run in namespaces of their own")
    try:
        return Fetched(image.tools(), image.root(SUITE), wheelhouse(tmp_path_factory.mktemp("dist"), PYTHON[SUITE]))
    except image.Unavailable as missing:
        print(missing)  # noqa: T201 - the reason of the skip is fixed, so that it can be listed
        pytest.skip("Debian's packages for the nodes cannot be fetched here")


@pytest.fixture(scope="session")
def lab(fetched: Fetched, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Boot three nodes."""
    with Lab(tmp_path_factory.mktemp("lab"), fetched.root, 3, fetched.tools) as running:
        yield running


@pytest.fixture(scope="session")
def proxmox(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakePve]:
    """Run the simulated Proxmox VE at an address that the nodes reach."""
    assert lab.nodes
    with FakePve(directory=tmp_path_factory.mktemp("pve"), arguments=("--host", CONTROL)) as simulator:
        yield simulator


@pytest.fixture(scope="session")
def site(lab: Lab, fetched: Fetched, proxmox: FakePve, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Return what the operator has: nothing is installed yet."""
    assert PLAYBOOK.exists(), "run it by `make rollout`"
    directory = tmp_path_factory.mktemp("site")
    found = Site(lab, directory, fetched.release)
    FIGURES["megabytes_of_the_wheelhouse"] = fetched.release.stat().st_size >> 20
    assert proxmox.directory is not None
    certificate = ssl.PEM_cert_to_DER_cert((proxmox.directory / "pve.crt").read_text())
    fingerprint = hashlib.sha256(certificate).hexdigest().upper()
    found.use_proxmox(proxmox.url, ":".join(fingerprint[at : at + 2] for at in range(0, 64, 2)), proxmox.tokens["full"])
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured."""
    for name, value in FIGURES.items():
        terminalreporter.write_line(f"{name.replace('_', ' ')}: {value}")
