"""Fixtures of the rollout tests: a lab of three nodes for all of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from rollout import image
from rollout.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Boot three nodes with Debian 12, the release below Proxmox VE 8."""
    if os.geteuid() != 0:
        pytest.skip("needs root: nodes run in namespaces of their own")
    try:
        environment, base = image.tools(), image.root("bookworm")
    except image.Unavailable as missing:
        pytest.skip(f"no nodes here: {missing}")
    with Lab(tmp_path_factory.mktemp("lab"), base, 3, environment) as running:
        yield running
