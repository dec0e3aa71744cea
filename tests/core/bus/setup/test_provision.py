"""Provisioning: what must exist, made once, brought up to date, never emptied."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentd.bus.setup.provision import DEFAULT_SLOTS, consumers, provision, slots, streams
from agentd.config.settings import Queue
from agentd.errors import BusError, ConfigError
from agentd.wire import subjects
from core.jetstream import connected, consumer_info

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from harness import NatsServer

ALL = {stream["name"] for stream in streams(1)}


async def test_a_second_run_changes_nothing(nats_server: NatsServer) -> None:
    """The first run makes every stream and consumer and says so; the second finds nothing to do."""
    async with connected(nats_server.url) as bus:
        queues = [Queue(name="mcp-proxmox@pve1+migrate", in_flight=2)]
        made = await provision(bus, ["mcp-proxmox"], queues)
        again = await provision(bus, ["mcp-proxmox"], queues)
        names = (await bus.api("STREAM.NAMES"))["streams"]
        info = await consumer_info(bus, subjects.WORKFLOWS, "mcp-proxmox@pve1+migrate")

    assert set(names) == ALL
    assert {line.removeprefix("made stream ") for line in made if line.startswith("made stream ")} == ALL
    assert "made consumer orch of AI_INPUT" in made
    assert again == []
    assert info["config"]["max_ack_pending"] == 2
    assert info["config"]["filter_subject"] == "ai.tasks.assign.mcp-proxmox@pve1+migrate.*.*.*"


async def test_a_changed_setting_is_restored(bus: Bus) -> None:
    """Settings that a client changed are restored, each is named, and no message and no delivery state is lost."""
    await bus.store(subjects.complete("a", "w", "t"), b"{}")
    config = (await bus.api(f"STREAM.INFO.{subjects.INPUT}"))["config"]
    await bus.api(f"STREAM.UPDATE.{subjects.INPUT}", config | {"max_bytes": 1 << 30})
    durable = (await consumer_info(bus, subjects.INPUT, subjects.ORCH_INPUT))["config"]
    body = {"stream_name": subjects.INPUT, "config": durable | {"max_ack_pending": 1}}
    await bus.api(f"CONSUMER.DURABLE.CREATE.{subjects.INPUT}.{subjects.ORCH_INPUT}", body)

    changed = await provision(bus)

    assert changed == ["changed stream AI_INPUT: max_bytes", "changed consumer orch of AI_INPUT"]
    assert await provision(bus) == []
    info = await bus.api(f"STREAM.INFO.{subjects.INPUT}")
    assert info["state"]["messages"] == 1
    assert (await consumer_info(bus, subjects.INPUT, subjects.ORCH_INPUT))["num_pending"] == 1


async def test_what_cannot_be_changed(nats_server: NatsServer) -> None:
    """A stream of our name that cannot become ours is an error that names it and the settings; it is not deleted."""
    async with connected(nats_server.url) as bus:
        config = {"name": subjects.WORKFLOWS, "subjects": [subjects.event("*")], "storage": "memory"}
        await bus.api(f"STREAM.CREATE.{subjects.WORKFLOWS}", config)
        await bus.store(subjects.event("w"), b"1")
        with pytest.raises(ConfigError, match=r"AI_WORKFLOWS cannot be brought up to date \(.*storage"):
            await provision(bus)

        assert await bus.last(subjects.WORKFLOWS, subjects.event("w"))


async def test_effects_and_audit_cannot_be_erased(bus: Bus) -> None:
    """Effect records and audit lines can be neither deleted nor purged, nor rolled up over."""
    for stream, subject in [
        (subjects.EFFECTS, subjects.effect("s", "w.t")),
        (subjects.AUDIT, subjects.audit("a")),
    ]:
        seq = await bus.store(subject, b"1")
        with pytest.raises(BusError):
            await bus.api(f"STREAM.PURGE.{stream}")
        with pytest.raises(BusError):
            await bus.api(f"STREAM.MSG.DELETE.{stream}", {"seq": seq})
        with pytest.raises(BusError):
            await bus.store(subject, b"2", headers={"Nats-Rollup": "all"})

        assert await bus.last(stream, subject)


async def test_inputs_are_queues(bus: Bus) -> None:
    """A completion that was acknowledged makes room; the inputs' bytes are reserved."""
    for stream in (subjects.REQUESTS, subjects.INPUT):
        config = (await bus.api(f"STREAM.INFO.{stream}"))["config"]
        assert (config["retention"], config["discard"]) == ("workqueue", "new")
        assert config["max_bytes"] > 0


async def test_no_subject_is_captured_twice(bus: Bus) -> None:
    """Each subject of a workflow is kept by the stream that it belongs to."""
    for subject, stream in [
        (subjects.WORKFLOW_REQUEST, subjects.REQUESTS),
        (subjects.request("me"), subjects.REQUESTS),
        (subjects.TASK_COMPLETE, subjects.INPUT),
        (subjects.complete("a", "w", "t"), subjects.INPUT),
        (subjects.signal("me", "w"), subjects.INPUT),
        (subjects.event("w"), subjects.WORKFLOWS),
        (subjects.timer("w", "t", "1"), subjects.WORKFLOWS),
        (subjects.due("w", "t", "1"), subjects.WORKFLOWS),
        (subjects.assign("mcp-proxmox", "w", "t", 1), subjects.WORKFLOWS),
        (subjects.response("w"), subjects.WORKFLOWS),
        (subjects.effect("s", subjects.effect_key("w", "t", "step")), subjects.EFFECTS),
        (subjects.audit("a"), subjects.AUDIT),
        (subjects.heartbeat("a"), subjects.METRICS),
        (subjects.metrics("a"), subjects.METRICS),
    ]:
        found = await bus.api("STREAM.NAMES", {"subject": subject})
        assert found["streams"] == [stream], subject


def test_each_service_has_a_queue_for_urgent_tasks() -> None:
    """A service has one whether a plugin or the configuration names it; a class and an external agent have none."""
    queues = [Queue(name=name, in_flight=3) for name in ("named", "mine+disk", "mine")]
    queues.append(Queue(name="script", in_flight=3, external="pull"))

    assert slots(["mine"], queues) == {
        "orchestrator": DEFAULT_SLOTS,
        "mine": 3,
        "named": 3,
        "mine+urgent": DEFAULT_SLOTS,
        "named+urgent": DEFAULT_SLOTS,
        "mine+disk": 3,
        "script": 3,
    }


def test_no_two_consumers_get_the_same_message() -> None:
    """The filters of the consumers of one stream do not overlap: both would get the message."""
    queues = {"mcp-proxmox": 1, "mcp-proxmox@pve1": 1, "mcp-proxmox@pve1+clone": 1, "specialist": 1}
    filters = [consumer.get("filter_subject") for stream, consumer in consumers(queues) if stream == subjects.WORKFLOWS]

    assert len(filters) == len(set(filters)) == 5
    assert all(item and item.split(".")[3] not in {"*", ">"} for item in filters if "assign" in str(item))


@pytest.mark.parametrize("name", ["a.b", "*", ">", "", "a b"])
def test_a_queue_that_is_no_token(name: str) -> None:
    """A queue whose name is not one token is an error of the configuration."""
    with pytest.raises(ConfigError, match=r"bus\.queues"):
        consumers({name: 1})


async def test_a_class_limits_what_is_under_way(bus: Bus) -> None:
    """A queue with a limit hands out no more than that until something is acknowledged."""
    await provision(bus, queues=[Queue(name="mcp-proxmox+clone", in_flight=1)])
    for number in range(3):
        await bus.store(subjects.assign("mcp-proxmox+clone", "w", f"t{number}", 1), b"{}", expect=0)

    info = await consumer_info(bus, subjects.WORKFLOWS, "mcp-proxmox+clone")

    assert (info["num_pending"], info["config"]["max_ack_pending"]) == (3, 1)
