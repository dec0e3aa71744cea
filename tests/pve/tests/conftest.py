"""One simulator for all of its tests, brought back to its start before each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pve.client import FakePve, available
from pve.tests.api import Api

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def running() -> Iterator[FakePve]:
    """Run one simulator for all tests."""
    if not available():
        pytest.skip("the simulator's environment is not there (.venv-pve)")
    with FakePve(cluster="demo") as simulator:
        yield simulator


@pytest.fixture
def pve(running: FakePve) -> FakePve:
    """Start each test with the cluster as it was at first."""
    running.reset()
    return running


@pytest.fixture
def api(pve: FakePve) -> Iterator[Api]:
    """Log in with the token that may do everything."""
    client = Api(pve)
    yield client
    client.session.close()


@pytest.fixture
def audit(pve: FakePve) -> Iterator[Api]:
    """Log in with the token that may only read."""
    client = Api(pve, "audit")
    yield client
    client.session.close()


@pytest.fixture
def blind(pve: FakePve) -> Iterator[Api]:
    """Log in with the token without any right."""
    client = Api(pve, "blind")
    yield client
    client.session.close()
