"""What must exist in JetStream before anything runs: streams, buckets, consumers; made with the admin key.

Agents never make these: a consumer that is made again replays, a stream that is made again is empty.
Running it twice changes nothing; settings that differ are brought up to date.  Each setting's reason:

- the inputs are work queues: with limits and `discard: new` an acknowledged history filled the stream and
  refused completions; their bytes are reserved, so that they accept when the account is full
- every principal writes into the inputs, and the subjects of a stream share their message ids: who guesses an id makes
  NATS leave out the message of another one.  So ours have none, and the server
  keeps the ids of others for as short a time as it can
- AI_REQUESTS stores only so many requests of one principal that wait (each principal has a subject of its own), and
  refuses the next one to its sender: the requests of others never wait behind more
- requests and inputs are apart: 3,000 requests put a completion at place 3,001
- only orchestrators write AI_WORKFLOWS: on a stream with schedules whoever may publish one subject can inject
  into any other of it
- AI_EFFECTS keeps one record a key and denies purge and deletion: a record must outlive its assignment
- AI_METRICS lies in memory and anybody may write to it: it is bounded, the oldest goes
- AI_DEAD drops its oldest when it is full: refusing new letters would leave what is poisoned in the inputs, for ever
- `ack_wait` 30 s never redelivered under a live worker through two faults; 10 s did
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from agentd.errors import BusError, ConfigError, NotProvisioned
from agentd.wire import subjects

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from agentd.bus.jetstream import Bus
    from agentd.config import settings

SECOND: Final = 1_000_000_000
DAY: Final = 86_400 * SECOND
MIB: Final = 1 << 20
SHORTEST: Final = SECOND // 10
"""The shortest `duplicate_window` that the server takes; without one it keeps message ids for two minutes."""

QUEUES: Final = (*subjects.SERVICES, *map(subjects.urgent, subjects.SERVICES), subjects.ORCHESTRATOR)
"""Services that agentd brings; each has a queue of its own name."""
DEFAULT_SLOTS: Final = 256
"""Unacknowledged messages of a queue over all of its workers; a concurrency class has its own number."""


WAITING: Final = 100
"""Requests of one principal that wait for an orchestrator: a second of its work."""


def streams(replicas: int) -> list[dict[str, Any]]:
    """Return the configuration of every stream."""
    buckets = [
        _bucket(subjects.LIVE, replicas, max_age=0.05, expire=True),
        _bucket(subjects.CONF, replicas, max_age=0, expire=False),
        _bucket(subjects.FREEZE, replicas, max_age=0, expire=True),
        _bucket(subjects.CHAINS, replicas, max_age=0, expire=False),
        _bucket(subjects.RESULTS, replicas, max_age=30, expire=False),
        _bucket(subjects.ALERTS, replicas, max_age=0, expire=True),
        _bucket(subjects.BUDGET, replicas, max_age=0.1, expire=True),
    ]
    return [*_flowing(replicas), *_kept(replicas), *buckets]


def _flowing(replicas: int) -> list[dict[str, Any]]:
    """Return the streams through which work goes; principals write into them or read them, so without direct gets."""
    file = _file(replicas, direct=False)
    queue = {
        **file,
        "retention": "workqueue",
        "discard": "new",
        "max_bytes": 256 * MIB,
        "max_msg_size": MIB,
        "duplicate_window": SHORTEST,
    }
    return [
        {
            "name": subjects.REQUESTS,
            "subjects": [subjects.WORKFLOW_REQUEST, subjects.request("*")],
            **queue,
            "max_msgs_per_subject": WAITING,
            "discard_new_per_subject": True,
        },
        {
            "name": subjects.INPUT,
            "subjects": [subjects.TASK_COMPLETE, f"{subjects.TASK_COMPLETE}.>", "ai.workflows.signal.*.*"],
            **queue,
        },
        {
            "name": subjects.WORKFLOWS,
            "subjects": [
                subjects.event("*"),
                subjects.timer("*", "*", "*"),
                subjects.due("*", "*", "*"),
                "ai.tasks.assign.*.*.*.*",
                subjects.response("*"),
            ],
            **file,
            "retention": "limits",
            "max_msgs_per_subject": -1,  # a limit would let forged acknowledgements push out the state of a workflow
            "allow_msg_schedules": True,
            "allow_msg_ttl": True,
            "allow_rollup_hdrs": True,
        },
    ]


def _kept(replicas: int) -> list[dict[str, Any]]:
    """Return the streams of what is kept: effects, the audit, figures, dead letters."""
    file = _file(replicas)
    return [
        {
            "name": subjects.EFFECTS,
            "subjects": ["ai.effects.*.*.*", "ai.effects.*.*.*.*"],
            **file,
            "max_msgs_per_subject": -1,  # the last record counts; if it cannot be read, one before it
            "deny_delete": True,
            "deny_purge": True,
            "max_age": 30 * DAY,
        },
        {"name": subjects.AUDIT, "subjects": [subjects.audit("*")], **file, "deny_delete": True, "deny_purge": True},
        {
            "name": subjects.METRICS,
            "subjects": [subjects.ALL_HEARTBEATS, subjects.ALL_METRICS],
            "storage": "memory",
            "num_replicas": 1,
            "max_age": 3600 * SECOND,
            "max_bytes": 64 * MIB,
            "max_msgs_per_subject": 60,
            "allow_direct": True,
        },
        {
            "name": subjects.DEAD,
            "subjects": [subjects.ALL_DEAD, *subjects.ADVISORIES],
            **file,
            "max_age": 30 * DAY,
            "max_bytes": 64 * MIB,
            "discard": "old",
        },
    ]


def _file(replicas: int, *, direct: bool = True) -> dict[str, Any]:
    return {"storage": "file", "num_replicas": replicas, "allow_direct": direct}


def _bucket(name: str, replicas: int, *, max_age: float, expire: bool) -> dict[str, Any]:
    """Return the configuration of a bucket; `max_age` is in days, longer than anything in it has to last.

    A key keeps all of its messages until agentd writes it again, which replaces them: with a limit, acknowledgements
    that others have the server write there would push the value out.
    """
    config: dict[str, Any] = {
        "name": f"KV_{name}",
        "subjects": [f"$KV.{name}.>"],
        "storage": "file",
        "num_replicas": replicas,
        "max_msgs_per_subject": -1,
        "discard": "new",
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": f"KV_{name}" not in subjects.SINGLY,
        "max_age": round(max_age * DAY),
    }
    if expire:
        # No markers of expired keys: with them the server lets a key last at least as long as its marker, unless it
        # keeps one message a key.
        config |= {"allow_msg_ttl": True, "subject_delete_marker_ttl": 0}
    return config


def consumers(queues: dict[str, int], pushed: Collection[str] = ()) -> list[tuple[str, dict[str, Any]]]:
    """Return (stream, configuration) of every durable consumer; `queues` gives each queue its limit in flight.

    The tasks of the queues in `pushed` are published by the server: for plain agents that speak core NATS only.
    Raises ConfigError for a queue whose name cannot be a token.
    """
    made = [
        (subjects.REQUESTS, _consumer(subjects.ORCH_REQUESTS, None, 64)),
        (subjects.INPUT, _consumer(subjects.ORCH_INPUT, None, 1024)),
        (subjects.WORKFLOWS, _consumer(subjects.ORCH_DUE, subjects.ALL_DUE, 256)),
    ]
    for name, in_flight in queues.items():
        try:
            subjects.check_queue(name)
        except Exception as error:
            message = f"bus.queues: {error}"
            raise ConfigError(message) from error
        # A durable's name may hold neither dots nor wildcards; a queue's has none.
        config = _pushing(name) if name in pushed else _consumer(name, subjects.assigns_of(name), in_flight)
        made.append((subjects.WORKFLOWS, config))
    return made


def _pushing(agent: str) -> dict[str, Any]:
    """Return the consumer of a plain agent: while it listens, the server publishes each assignment to it, once."""
    return {
        "durable_name": agent,
        "ack_policy": "none",
        "deliver_policy": "all",
        "deliver_subject": subjects.assign_plain(agent),
        "filter_subject": subjects.assigns_of(agent),
    }


def _consumer(name: str, filter_subject: str | None, in_flight: int) -> dict[str, Any]:
    config: dict[str, Any] = {
        "durable_name": name,
        "ack_policy": "explicit",
        "deliver_policy": "all",
        "ack_wait": int(subjects.ACK_WAIT * SECOND),
        "max_deliver": -1,
        "max_ack_pending": in_flight,
        "max_waiting": 2048,
    }
    return config | ({"filter_subject": filter_subject} if filter_subject else {})


def wanted(section: settings.Bus) -> tuple[list[tuple[str, int]], set[str]]:
    """Return the queues that `[bus.queues]` asks for with their limits, and those that are pushed."""
    queues = [(each.name, each.in_flight) for each in section.queues]
    return queues, {each.name for each in section.queues if each.plain == "push"}


async def provision(bus: Bus, queues: Iterable[tuple[str, int]] = (), pushed: Collection[str] = ()) -> list[str]:
    """Make what is missing and bring the rest up to date; return a line for each thing that was changed."""
    slots = dict.fromkeys(QUEUES, DEFAULT_SLOTS) | dict(queues)
    changes: list[str] = []
    for config in streams(bus.settings.replicas):
        changes += await _stream(bus, config)
    for stream, config in consumers(slots, pushed):
        changes += await _durable(bus, stream, config)
    return changes


async def _stream(bus: Bus, config: dict[str, Any]) -> list[str]:
    name = config["name"]
    try:
        there = (await bus.api(f"STREAM.INFO.{name}"))["config"]
    except NotProvisioned:
        await bus.api(f"STREAM.CREATE.{name}", config, wait=10)
        return [f"made stream {name}"]
    different = _differences(there, config)
    if not different:
        return []
    try:
        await bus.api(f"STREAM.UPDATE.{name}", there | config, wait=10)
    except BusError as error:
        message = f"stream {name} cannot be brought up to date ({', '.join(different)}): {error}"
        raise ConfigError(message) from error
    return [f"changed stream {name}: {', '.join(different)}"]


async def _durable(bus: Bus, stream: str, config: dict[str, Any]) -> list[str]:
    name = config["durable_name"]
    try:
        there = (await bus.api(f"CONSUMER.INFO.{stream}.{name}"))["config"]
    except NotProvisioned:
        there = None
    if there is not None and not _differences(there, config):
        return []
    body = {"stream_name": stream, "config": config if there is None else there | config}
    try:
        await bus.api(f"CONSUMER.DURABLE.CREATE.{stream}.{name}", body, wait=10)
    except BusError as error:
        message = f"consumer {name} of {stream} cannot be made as configured (bus.queues): {error}"
        raise ConfigError(message) from error
    return [f"{'made' if there is None else 'changed'} consumer {name} of {stream}"]


def _differences(there: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Return the names of the settings that are not as wanted; the server leaves out what is zero or false."""
    return sorted(key for key, value in wanted.items() if there.get(key) != value and (value or there.get(key)))
