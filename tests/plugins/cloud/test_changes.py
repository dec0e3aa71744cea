"""Changes in a cloud account: made once, only to what has the tag, within quotas; and previews of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from agentd.errors import Denied, NotFound, Rejected, TemporaryError, UnknownOutcome
from agentd_cloud import catalogue, model
from plugins.cloud.conftest import IMAGE, ZONE, serving
from tool_bench import MemoryCall

if TYPE_CHECKING:
    from cloud.client import Moto
    from plugins.cloud.conftest import Clouds

PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICZw6yQl9aXu6ZvSDRqB2njy2ySBYiGF5rSVemdFzmTd test"


async def test_the_life_of_a_node(clouds: Clouds) -> None:
    """A node is created with the mark of its call, stopped, started, rebooted and deleted; each act names its undo."""
    call = MemoryCall("wf.create")
    node = await clouds("create_cloud_node", call, name="web1", size="t3.micro", image=IMAGE, location=ZONE)
    found = await clouds("get_cloud_node", node="web1")
    stop = MemoryCall("wf.stop")
    stopped = await clouds("stop_cloud_node", stop, node="web1")
    started = await clouds("start_cloud_node", node=node.id)
    await clouds("reboot_cloud_node", node=node.id)
    delete = MemoryCall("wf.delete")
    gone = await clouds("delete_cloud_node", delete, node="web1")
    again = await clouds("delete_cloud_node", node="web1")

    assert (node.state, node.mark, node.size, node.location) == ("running", "wf.create", "t3.micro", ZONE)
    assert found == node
    assert call.undo == ("delete_cloud_node", {"account": "lab", "node": "web1"})
    assert stop.undo == ("start_cloud_node", {"account": "lab", "node": node.id})
    assert (stopped.state, started.state) == ("stopped", "running")
    assert (gone.existed, again.existed) == (True, False)
    assert delete.targets[-1].name == f"cloud/lab/{node.id}"
    assert delete.targets[-1].labels == ["cloud/lab/web1"]
    assert (await clouds("list_cloud_nodes")).total == 0


@pytest.mark.parametrize("kind", ["lose", "hold"])
async def test_a_lost_answer(lab: dict[str, Any], moto: Moto, kind: str) -> None:
    """A node whose creation was not answered is found by its tag, and not created a second time."""
    clouds = serving({"lab": lab | {"timeout": 5}})
    moto.fault("RunInstances", kind, seconds=6)
    with pytest.raises(UnknownOutcome):
        await clouds.create()
    call = MemoryCall("wf.create")
    node = await clouds("create_cloud_node", call, name="web1", size="t3.micro", image=IMAGE)

    assert call.adopted
    assert moto.seen().count("RunInstances") == 1
    assert (node.name, node.mark) == ("web1", "wf.create")


async def test_a_lost_answer_to_a_deletion(lab: dict[str, Any], moto: Moto) -> None:
    """A deletion whose answer was lost is found done, and sent once."""
    clouds = serving({"lab": lab})
    await clouds.create()
    moto.fault("TerminateInstances", "lose")
    call = MemoryCall("wf.delete")
    with pytest.raises(UnknownOutcome):
        await clouds("delete_cloud_node", call, node="web1")
    deleted = await clouds("delete_cloud_node", call, node="web1")

    assert deleted.existed
    assert moto.seen().count("TerminateInstances") == 1


async def test_throttled(clouds: Clouds, moto: Moto) -> None:
    """A creation that the provider refuses for its rate was not made, and is repeated."""
    moto.fault("RunInstances", "throttle")
    with pytest.raises(TemporaryError) as caught:
        await clouds.create()
    node = await clouds.create()

    assert not isinstance(caught.value, UnknownOutcome)
    assert node.state == "running"
    assert (await clouds("list_cloud_nodes")).total == 1


async def test_a_node_that_was_deleted_meanwhile(clouds: Clouds) -> None:
    """A call whose node was created and deleted since does not create another one."""
    await clouds.create()
    await clouds("delete_cloud_node", node="web1")
    with pytest.raises(Exception, match="terminated"):
        await clouds.create()


async def test_the_fence(lab: dict[str, Any], moto: Moto) -> None:
    """What does not have the account's tag is not changed, unless the configuration allows it."""
    other = serving({"lab": lab | {"tag": "other"}})
    ours = serving({"lab": lab})
    node = await other.create("theirs")
    volume = await other("create_cloud_volume", name="disk", size_gb=1, location=ZONE)
    await other("create_cloud_snapshot", volume=volume.id, name="snap")
    for tool, parameters in (
        ("delete_cloud_node", {"node": "theirs"}),
        ("stop_cloud_node", {"node": node.id}),
        ("reboot_cloud_node", {"node": node.id}),
        ("delete_cloud_volume", {"volume": volume.id}),
        ("attach_cloud_volume", {"volume": volume.id, "node": node.id}),
        ("create_cloud_snapshot", {"volume": volume.id, "name": "mine"}),
        ("delete_cloud_snapshot", {"snapshot": "snap"}),
        ("import_cloud_key_pair", {"name": "alice", "public_key": PUBLIC_KEY}),
        ("delete_cloud_key_pair", {"name": "alice"}),
    ):
        with pytest.raises(Denied, match="only_tagged"):
            await ours(tool, **parameters)
    open_fence = serving({"lab": lab | {"only_tagged": False}})
    stopped = await open_fence("stop_cloud_node", node="theirs")

    assert stopped.state == "stopped"
    assert not {"TerminateInstances", "DeleteVolume", "DeleteSnapshot", "ImportKeyPair"} & set(moto.seen())


async def test_quotas(lab: dict[str, Any], moto: Moto) -> None:
    """Number, price, size and location of nodes and the GB of volumes are limited; nothing is sent if one is passed."""
    limits = {"max_nodes": 1, "sizes": ["t3.*"], "locations": [ZONE], "max_volume_gb": 5, "max_hourly_cost": 0.02}
    clouds = serving({"lab": lab | limits})
    for match, parameters in (
        ("not allowed", {"size": "m5.large"}),
        (r"did you mean t3\.micro", {"size": "t3.micor"}),
        ("an hour", {"size": "t3.large"}),
        ("not allowed", {"location": "us-east-1b"}),
        ("there is no", {"location": "mars"}),
    ):
        with pytest.raises(Rejected, match=match):
            await clouds.create(**parameters)
    with pytest.raises(Rejected, match="max_volume_gb"):
        await clouds("create_cloud_volume", name="big", size_gb=6, location=ZONE)
    assert not {"RunInstances", "CreateVolume"} & set(moto.seen())
    node = await clouds.create()
    with pytest.raises(Rejected, match="max_nodes"):
        await clouds.create("web2", key="wf.second")
    cost = await clouds("estimate_cloud_cost", size="t3.micro")

    assert node.location == ZONE
    assert "max_nodes" in cost.refused
    assert cost.running_hourly == pytest.approx(0.0104)


async def test_names_are_used_once(clouds: Clouds) -> None:
    """A node of the same name is not created by another call."""
    await clouds.create()
    with pytest.raises(Rejected, match="web1 exists"):
        await clouds.create(key="wf.other")
    with pytest.raises(NotFound, match="did you mean web1"):
        await clouds("get_cloud_node", node="web")


async def test_undo_deletes_only_its_own(clouds: Clouds) -> None:
    """The undo of a creation deletes the node of that call, not a later one of the same name."""
    await clouds.create()
    undo = MemoryCall("wf.undo")
    undo.undoes = "wf.another"
    with pytest.raises(Rejected, match="not created by the call"):
        await clouds("delete_cloud_node", undo, node="web1")
    undo = MemoryCall("wf.undo")
    undo.undoes = "wf.create"

    assert (await clouds("delete_cloud_node", undo, node="web1")).existed


async def test_volumes_and_snapshots(clouds: Clouds, moto: Moto) -> None:
    """A volume is created with its tag in one request, attached, snapshotted, detached and deleted."""
    node = await clouds.create(location=ZONE)
    moto.fault("CreateVolume", "lose")
    with pytest.raises(UnknownOutcome):
        await clouds("create_cloud_volume", MemoryCall("wf.v"), name="data", size_gb=2, location=ZONE)
    volume = await clouds("create_cloud_volume", MemoryCall("wf.v"), name="data", size_gb=2, location=ZONE)
    attached = await clouds("attach_cloud_volume", volume="data", node="web1")
    with pytest.raises(Rejected, match="detach it first"):
        await clouds("delete_cloud_volume", volume="data")
    snapshot = await clouds("create_cloud_snapshot", MemoryCall("wf.s"), volume="data", name="before")
    detach = MemoryCall("wf.d")
    detached = await clouds("detach_cloud_volume", detach, volume="data")
    orphans = await clouds("list_cloud_orphans", only_tagged=True)
    listed = await clouds("list_cloud_volumes", query="data")
    deleted = MemoryCall("wf.x")
    await clouds("delete_cloud_volume", deleted, volume="data")
    left = await clouds("list_cloud_orphans", limit=1)
    await clouds("delete_cloud_snapshot", snapshot=snapshot.id)

    assert moto.seen().count("CreateVolume") == 1
    assert [found.id for found in listed.volumes] == [volume.id]
    assert (volume.name, volume.mark, volume.size_gb) == ("data", "wf.v", 2)
    assert (attached.node, detached.node) == (node.id, "")
    assert detach.undo is not None
    assert detach.undo[1]["node"] == node.id
    assert (snapshot.mark, snapshot.volume) == ("wf.s", volume.id)
    assert [(orphan.kind, orphan.id) for orphan in orphans.orphans] == [("volume", volume.id)]
    assert "all data" in deleted.targets[-1].loses[0]
    assert [(orphan.kind, orphan.id) for orphan in left.orphans] == [("snapshot", snapshot.id)]
    assert (await clouds("list_cloud_snapshots", query=snapshot.id)).total == 0


async def test_key_pairs(clouds: Clouds) -> None:
    """A public key is imported under a name with the tag, given to a node, and deleted."""
    call = MemoryCall("wf.k")
    await clouds("import_cloud_key_pair", call, name="agentd-alice", public_key=PUBLIC_KEY)
    with pytest.raises(Rejected, match="exists"):
        await clouds("import_cloud_key_pair", name="agentd-alice", public_key=PUBLIC_KEY)
    listed = await clouds("list_cloud_key_pairs")
    await clouds.create(key_pair="agentd-alice")
    deleted = await clouds("delete_cloud_key_pair", name="agentd-alice")

    assert [pair.name for pair in listed.key_pairs] == ["agentd-alice"]
    assert call.undo == ("delete_cloud_key_pair", {"account": "lab", "name": "agentd-alice"})
    assert deleted.existed
    assert (await clouds("list_cloud_key_pairs")).total == 0


def test_orphans() -> None:
    """Free volumes, old snapshots, those of deleted volumes, and stopped nodes are probably left over."""
    today = datetime(2026, 11, 30, tzinfo=UTC)
    found = catalogue.find_orphans(
        [model.Node("i-1", "off", "stopped"), model.Node("i-2", "on", "running")],
        [model.Volume("v-1", "free", "available", 8), model.Volume("v-2", "used", "in-use", 8, node="i-2")],
        [
            model.Snapshot("s-1", "old", "completed", 8, "v-2", today - timedelta(days=90)),
            model.Snapshot("s-2", "new", "completed", 8, "v-2", today),
            model.Snapshot("s-3", "alone", "completed", 8, "v-9", today),
        ],
        today - timedelta(days=30),
    )

    assert [orphan.id for orphan in found] == ["i-1", "s-1", "s-3", "v-1"]
