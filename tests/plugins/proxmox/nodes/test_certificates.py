"""Certificates: one that is due is renewed, once; one that is not is left alone, and no client is locked out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from proxmox_access import AsyncPve, connect
from tool_bench import Bench, MemoryCall

if TYPE_CHECKING:
    from pve.client import FakePve

PVE1: dict[str, Any] = {"node": "pve1"}


async def orders(sim: AsyncPve) -> list[str]:
    """Return the types of the tasks that asked a provider."""
    return [task["type"] for task in await sim.tasks() if task["type"].startswith("acme")]


async def say_domain(lab: FakePve) -> None:
    """Do what a person does before: set the domain of the certificate."""
    proxmox = connect(lab)
    await proxmox.put("/nodes/pve1/config", acmedomain0="pve1.example.com")
    await proxmox.close()


async def test_listed(tools: Bench, lab: FakePve, sim: AsyncPve) -> None:
    """Each is listed with its days, the one that ends first before the others; what ends soon is warned of."""
    await say_domain(lab)
    await sim.settings(acme_days=10)
    await tools.call("renew_certificate", **PVE1)
    found = await tools.call("list_certificates", call := MemoryCall(), **PVE1)

    assert [certificate.file for certificate in found.certificates] == [
        "pveproxy-ssl.pem",
        "pve-ssl.pem",
        "pve-root-ca.pem",
    ]
    assert datetime.now(UTC) - found.certificates[0].since < timedelta(hours=2)
    assert found.certificates[0].days == 9
    assert call.warnings == [f"pveproxy-ssl.pem of pve1 ends in 9 days ({found.certificates[0].until:%Y-%m-%d})"]


async def test_ordered_and_left_alone(tools: Bench, lab: FakePve, sim: AsyncPve) -> None:
    """The first time one is ordered; while it holds for long nothing is asked of the provider."""
    await say_domain(lab)
    made = await tools.call("renew_certificate", first := MemoryCall(), **PVE1)
    again = await tools.call("renew_certificate", second := MemoryCall(), **PVE1)

    assert (first.acted, second.acted) == (1, 0)
    assert again == made
    assert await orders(sim) == ["acmenewcert"]


async def test_due(tools: Bench, lab: FakePve, sim: AsyncPve, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its last days it is renewed; one that was made just now is what was asked for, however short it holds."""
    await say_domain(lab)
    await sim.settings(acme_days=6)
    await tools.call("renew_certificate", **PVE1)
    await tools.call("renew_certificate", fresh := MemoryCall(), **PVE1)
    monkeypatch.setattr("agentd_proxmox.nodes.certificates.FRESH", timedelta(0))
    await sim.settings(acme_days=90)
    found = await tools.call("renew_certificate", due := MemoryCall(), **PVE1)

    assert (fresh.acted, due.acted) == (0, 1)
    assert [certificate.days for certificate in found.certificates if certificate.file == "pveproxy-ssl.pem"] == [89]
    assert await orders(sim) == ["acmenewcert", "acmerenew"]


@pytest.mark.parametrize("fault", ["cut_after", "lost_before"])
async def test_answer_lost(tools: Bench, lab: FakePve, sim: AsyncPve, fault: str) -> None:
    """An order whose answer never came is found, running or done, and not made again."""
    await say_domain(lab)
    await sim.settings(acme_days=6)
    await sim.rule("POST", "/acme/certificate$", {fault: True}, 1)
    await tools.until_done("renew_certificate", MemoryCall(), **PVE1)

    assert await orders(sim) == ["acmenewcert"]


async def test_without_an_acme_domain(tools: Bench) -> None:
    """Without a domain Proxmox cannot order any: what a person has to do is reported."""
    with pytest.raises(errors.Rejected, match=r"pvenode config set --acmedomain0 pve1\.example\.com"):
        await tools.call("renew_certificate", **PVE1)


async def test_pinned(lab: FakePve) -> None:
    """The certificate that agentd itself pins is not renewed under its feet."""
    await say_domain(lab)
    proxmox = connect(lab)
    listed = (await Bench(proxmox).call("list_certificates", **PVE1)).certificates
    await proxmox.close()
    pinned = next(item.fingerprint for item in listed if item.file == "pve-ssl.pem")
    proxmox = connect(lab, ca_file=None, fingerprint=pinned.lower())
    with pytest.raises(errors.Rejected, match="fingerprint pins a certificate of this node"):
        await Bench(proxmox).call("renew_certificate", **PVE1)
    await proxmox.close()
