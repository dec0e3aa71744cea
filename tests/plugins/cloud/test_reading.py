"""Reading tools: what an account offers, in pages; prices; errors that name the fault and no secret."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from agentd.errors import NotFound, PermanentError, Rejected, TemporaryError
from plugins.cloud.conftest import SECRET, account, serving

if TYPE_CHECKING:
    from pathlib import Path

    from cloud.client import Moto
    from plugins.cloud.conftest import Clouds


async def test_what_an_account_offers(clouds: Clouds) -> None:
    """Accounts, locations and sizes are listed, each size with its price and whether it is allowed."""
    accounts = (await clouds.tools["list_cloud_accounts"].run(None, None)).accounts  # type: ignore[arg-type]
    zones = await clouds("list_cloud_locations")
    sizes = await clouds("list_cloud_sizes", query="t3.", min_memory_mib=4096)

    assert [(found.account, found.provider, found.changes) for found in accounts] == [("lab", "ec2", True)]
    assert "us-east-1a" in {zone.name for zone in zones.locations}
    assert {size.id for size in sizes.sizes} >= {"t3.medium", "t3.large"}
    assert all(size.memory_mib >= 4096 for size in sizes.sizes)
    assert {size.id: size.hourly_cost for size in sizes.sizes}["t3.large"] == pytest.approx(0.0882)


async def test_pages_of_images(clouds: Clouds) -> None:
    """A search for images is answered in pages, each image once; a search without words is refused."""
    found: list[str] = []
    cursor = ""
    while True:
        page = await clouds("list_cloud_images", query="ubuntu", limit=1, cursor=cursor)
        found += [image.id for image in page.images]
        assert len(page.images) == 1
        cursor = page.next
        if not cursor:
            break
    with pytest.raises(Rejected, match="too many images"):
        await clouds("list_cloud_images")

    assert len(found) == len(set(found)) == page.total > 1


async def test_a_wrong_account(clouds: Clouds) -> None:
    """An unknown alias gets the similar ones."""
    with pytest.raises(NotFound, match="did you mean lab"):
        await clouds("list_cloud_nodes", account="labb")


async def test_cost(clouds: Clouds, moto: Moto) -> None:
    """The preview counts what would be added and what runs, and creates nothing."""
    cost = await clouds("estimate_cloud_cost", size="t3.micro", count=2)
    with pytest.raises(Rejected, match=r"did you mean t3\.micro"):
        await clouds("estimate_cloud_cost", size="t3.mikro")

    assert cost.hourly == pytest.approx(2 * 0.0104)
    assert cost.monthly == pytest.approx(2 * 0.0104 * 730, abs=0.01)
    assert (cost.running_hourly, cost.refused) == (0, "")
    assert "RunInstances" not in moto.seen()


async def test_any_provider_is_listed_and_not_changed() -> None:
    """A provider for which agentd cannot tag what it creates is only read."""
    dummy = serving({"lab": {"provider": "dummy", "key": "0"}})
    nodes = await dummy("list_cloud_nodes", limit=1)
    more = await dummy("list_cloud_nodes", limit=1, cursor=nodes.next)
    images = await dummy("list_cloud_images", query="ubuntu")
    with pytest.raises(Rejected, match="agentd only reads"):
        await dummy.create(size="1", image="1")
    with pytest.raises(Rejected, match="agentd only reads"):
        await dummy("delete_cloud_node", node="dummy-1")
    with pytest.raises(Rejected, match="does not offer this"):
        await dummy("list_cloud_key_pairs")

    assert [node.name for node in (*nodes.nodes, *more.nodes)] == ["dummy-1", "dummy-2"]
    assert (nodes.total, more.next) == (2, "")
    assert all("Ubuntu" in image.name for image in images.images)


async def test_an_unknown_provider() -> None:
    """A misspelt provider is named, with the similar ones."""
    with pytest.raises(PermanentError, match="did you mean openstack"):
        await serving({"lab": {"provider": "openstak"}})("list_cloud_nodes")


async def test_wrong_credentials(moto: Moto, tmp_path: Path) -> None:
    """Wrong credentials are an error that names the settings, without key and secret."""
    wrong = serving({"lab": account(moto.url, tmp_path / "secret", key="AKIDWRONG")})
    with pytest.raises(PermanentError, match=r"refused the credentials.*secret_file") as caught:
        await wrong("list_cloud_nodes")

    assert "AKIDWRONG" not in str(caught.value)


@pytest.mark.parametrize("kind", ["throttle", "error", "lose"])
async def test_temporary_errors(clouds: Clouds, moto: Moto, kind: str) -> None:
    """A limit of the rate, an error of the provider and a broken connection can be repeated, and show no secret."""
    moto.fault("DescribeInstances", kind)
    with pytest.raises(TemporaryError) as caught:
        await clouds("list_cloud_nodes")
    again = await clouds("list_cloud_nodes")

    assert again.total == 0
    for hidden in (SECRET, "AKID", "Signature="):
        assert hidden not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_a_hanging_endpoint(moto: Moto, tmp_path: Path) -> None:
    """An endpoint that hangs ends the call at its time limit, delays nothing else, and holds few threads."""
    slow = serving({"lab": account(moto.url, tmp_path / "secret", timeout=2)})
    moto.fault("DescribeInstances", "hang", count=20, seconds=6)
    started = time.monotonic()
    calls = [asyncio.create_task(slow("list_cloud_nodes")) for _ in range(8)]
    ticks = 0
    while not all(call.done() for call in calls):
        await asyncio.sleep(0.01)
        ticks += 1
    errors = [call.exception() for call in calls]

    assert all(isinstance(error, TemporaryError) for error in errors)
    assert time.monotonic() - started < 6
    assert ticks > 20
    assert moto.seen().count("DescribeInstances") <= 8


async def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, lab: dict[str, Any]) -> None:
    """Without apache-libcloud the tools exist, and an error names the extra."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "libcloud"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "libcloud", None)
    with pytest.raises(PermanentError, match=r"agentd\[cloud\]"):
        await serving({"lab": lab})("list_cloud_nodes")
