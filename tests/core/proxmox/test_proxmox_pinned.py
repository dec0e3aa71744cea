"""A pinned fingerprint replaces a CA, and what it is not is refused before the token is sent."""

from __future__ import annotations

import hashlib
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from agentd import errors
from agentd.config import proxmox as settings
from proxmox_access import AsyncPve, connect

if TYPE_CHECKING:
    from pve.client import FakePve


def fingerprint(pve: FakePve) -> str:
    """Return the SHA-256 fingerprint of the simulator's certificate."""
    url = urlsplit(pve.url)
    pem = ssl.get_server_certificate((url.hostname or "", url.port or 0))
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


async def test_pinned(pve: FakePve) -> None:
    """The certificate with the fingerprint is trusted without its CA; any other is refused, nothing is sent to it."""
    right, wrong = fingerprint(pve), "00" * 32
    pinned = connect(pve, ca_file=None, fingerprint=right)
    other = connect(pve, ca_file=None, fingerprint=wrong)

    assert (await pinned.get("/version"))["version"]
    assert len(await AsyncPve(pve).log("GET", "/version$")) == 1
    with pytest.raises(errors.ProxmoxUnavailable, match="not the pinned one"):
        await other.get("/version")
    with pytest.raises(errors.ProxmoxUnavailable, match="not the pinned one"):
        await other.post("/nodes/pve1/qemu", vmid=300)
    assert len(await AsyncPve(pve).log()) == 1
    assert not pinned.insecure
    await pinned.close()
    await other.close()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fingerprint": "ab:cd"}, "64 hexadecimal digits"),
        ({"fingerprint": "00" * 32, "ca_file": "/ca.pem"}, "exclude each other"),
        ({"fingerprint": "00" * 32, "verify": False}, "needs verify = true"),
    ],
)
def test_wrong(changes: dict[str, object], words: str) -> None:
    """A setting that cannot be meant is refused with what would be right."""
    with pytest.raises(ValueError, match=words):
        settings.Proxmox.model_validate({"url": "https://pve1:8006", **changes})


def test_colons() -> None:
    """The form in which Proxmox shows a fingerprint is taken as it is."""
    shown = ":".join(["AB"] * 32)

    assert settings.Proxmox(url="https://pve1:8006", fingerprint=shown).fingerprint == "ab" * 32


async def test_restarted(pve: FakePve) -> None:
    """While pvedaemon restarts a read is unavailable for the moment, and a write too if nothing was sent."""
    proxmox = connect(pve)
    sim = AsyncPve(pve)
    await sim.rule("GET", "/version$", {"status": 502}, 1)
    await sim.rule("POST", "/start$", {"status": 595, "reason": "Connection refused"}, 1)
    await sim.rule("POST", "/start$", {"status": 502}, 1)

    with pytest.raises(errors.ProxmoxUnavailable):
        await proxmox.get("/version")
    with pytest.raises(errors.ProxmoxUnavailable):
        await proxmox.post("/nodes/pve1/qemu/101/status/start")
    with pytest.raises(errors.UnknownOutcome):
        await proxmox.post("/nodes/pve1/qemu/101/status/start")
    assert (await proxmox.get("/version"))["version"]
    await proxmox.close()
