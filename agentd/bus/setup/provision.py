"""Create the streams, buckets and consumers that must exist in JetStream.

They must exist before an agent runs, and are created with the admin key.  Agents never create them: a recreated
consumer delivers old messages again, and a recreated stream is empty.  A second run changes nothing; settings that
differ are updated.  The reason for each setting:

- the inputs are work queues: with limits retention and `discard: new`, acknowledged messages filled the stream and
  completions were rejected.  Their bytes are reserved, so that they accept messages when the account is full
- every principal writes into the inputs, and all subjects of a stream share their message ids: a principal that guesses
  an id makes NATS drop the message of another one.  So our messages have no ids, and the server keeps the ids of others
  for the shortest time that it supports
- AI_REQUESTS stores only a limited number of waiting requests per principal (each principal has its own subject) and
  rejects the next one: the requests of others never wait behind more
- requests and inputs are separate streams: 3,000 requests put a completion at place 3,001
- only orchestrators write AI_WORKFLOWS: on a stream with schedules, a client that may publish to one subject can inject
  messages into any other subject of the stream
- AI_EFFECTS keeps all records of a key and denies purge and deletion: a record must outlive its assignment
- any client may write to AI_METRICS: it is bounded and drops the oldest messages.  It is stored in files: if a single
  server restarts, it forgets a stream in memory, and then no monitor could start
- AI_DEAD drops its oldest messages when it is full: if it rejected new letters, poison would never leave the inputs
- with `ack_wait` 30 s no message was redelivered while its worker was alive, through two faults; with 10 s some were
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from agentd.errors import BusError, ConfigError, NotProvisioned
from agentd.wire import subjects
from agentd.wire.names import check_queue

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from agentd.bus.jetstream import Bus
    from agentd.config import settings

SECOND: Final = 1_000_000_000
DAY: Final = 86_400 * SECOND
MIB: Final = 1 << 20
SHORTEST: Final = SECOND // 10
"""The shortest `duplicate_window` that the server accepts; without one it keeps message ids for two minutes."""

WORK_QUEUE: Final = {
    "retention": "workqueue",
    "discard": "new",
    "max_bytes": 256 * MIB,
    "max_msg_size": MIB,
    "duplicate_window": SHORTEST,
}
"""Configuration of the streams of requests and inputs."""
DEFAULT_SLOTS: Final = 256
"""Largest number of unacknowledged messages of a queue over all of its workers; a concurrency class has its own."""


WAITING: Final = 100
"""Largest number of waiting requests of one principal: a second of an orchestrator's work."""


def streams(replicas: int) -> list[dict[str, Any]]:
    """Return the configuration of every stream."""
    buckets = [
        _bucket(subjects.LIVE, replicas, max_age=0.05, expire=True),
        _bucket(subjects.CONF, replicas, max_age=0, expire=False),
        _bucket(subjects.FREEZE, replicas, max_age=0, expire=True),
        _bucket(subjects.CHAINS, replicas, max_age=0, expire=False),
        _bucket(subjects.RESULTS, replicas, max_age=30, expire=False),
        _bucket(subjects.ALERTS, replicas, max_age=0, expire=True),
        _bucket(subjects.MONITOR, replicas, max_age=0, expire=True),
        _bucket(subjects.BUDGET, replicas, max_age=0.1, expire=True),
    ]
    return [*_work_streams(replicas), *_history_streams(replicas), *buckets]


def _work_streams(replicas: int) -> list[dict[str, Any]]:
    """Return the streams of requests, inputs and workflows.

    They have no direct gets, because principals write or read them (`subjects.SINGLY`).
    """
    file = _file(replicas, direct=False)
    queue = {**file, **WORK_QUEUE}
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
            "max_msgs_per_subject": -1,  # with a limit, forged acknowledgements could displace a workflow's state
            "allow_msg_schedules": True,
            "allow_msg_ttl": True,
            "allow_rollup_hdrs": True,
        },
    ]


def _history_streams(replicas: int) -> list[dict[str, Any]]:
    """Return the streams of what is kept: effects, the audit, figures, dead letters."""
    file = _file(replicas)
    return [
        {
            "name": subjects.EFFECTS,
            "subjects": ["ai.effects.*.*.*", "ai.effects.*.*.*.*"],
            **file,
            "max_msgs_per_subject": -1,  # the last record is valid; if it cannot be read, an earlier one
            "deny_delete": True,
            "deny_purge": True,
            "max_age": 30 * DAY,
        },
        {"name": subjects.AUDIT, "subjects": [subjects.audit("*")], **file, "deny_delete": True, "deny_purge": True},
        {
            "name": subjects.METRICS,
            "subjects": [subjects.ALL_HEARTBEATS, subjects.ALL_METRICS],
            **file,
            "max_age": 3600 * SECOND,
            "max_bytes": 16 * MIB,
            "max_msgs_per_subject": 60,
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
    """Return the configuration of a bucket.

    `max_age` is in days, longer than any value has to be kept.

    A key keeps all of its messages until agentd writes it again, which replaces them: with a limit, acknowledgements
    that other clients make the server write there would displace the value.
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
        # No markers for expired keys: with them the server keeps a key at least as long as its marker, unless it keeps
        # only one message per key.
        config |= {"allow_msg_ttl": True, "subject_delete_marker_ttl": 0}
    return config


def consumers(queues: dict[str, int], pushed: Collection[str] = ()) -> list[tuple[str, dict[str, Any]]]:
    """Return (stream, configuration) of every durable consumer.

    `queues` gives each queue its limit in flight.

    The server publishes the tasks of the queues in `pushed`: for external agents that use only core NATS.
    Raises ConfigError for a queue whose name is not a valid token.
    """
    found = [
        (subjects.REQUESTS, _consumer(subjects.ORCH_REQUESTS, None, 64)),
        (subjects.INPUT, _consumer(subjects.ORCH_INPUT, None, 1024)),
        (subjects.WORKFLOWS, _consumer(subjects.ORCH_DUE, subjects.ALL_DUE, 256)),
    ]
    for name, in_flight in queues.items():
        try:
            check_queue(name)
        except Exception as error:
            raise ConfigError(f"bus.queues: {error}") from error
        # A durable's name may contain neither dots nor wildcards; the name of a queue has none.
        config = _push_consumer(name) if name in pushed else _consumer(name, subjects.assigns_of(name), in_flight)
        found.append((subjects.WORKFLOWS, config))
    return found


def _push_consumer(agent: str) -> dict[str, Any]:
    """Return the consumer of an external agent.

    While the agent is subscribed, the server publishes each assignment to it, once.
    """
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


def slots(services: Iterable[str] = (), queues: Collection[settings.Queue] = ()) -> dict[str, int]:
    """Return every queue with its limit in flight.

    Each service has a queue, and one for urgent tasks.  A queue of `[[bus.queues]]` that is not of an external agent
    and has neither node nor class belongs to a service too: of a plugin that is not installed on this machine.
    """
    found = [*services, *(queue.name for queue in queues if queue.external == "no" and subjects.is_service(queue.name))]
    names = [subjects.ORCHESTRATOR, *found, *map(subjects.urgent, found)]
    return dict.fromkeys(names, DEFAULT_SLOTS) | {queue.name: queue.in_flight for queue in queues}


async def provision(bus: Bus, services: Iterable[str] = (), queues: Collection[settings.Queue] = ()) -> list[str]:
    """Create missing streams, buckets and consumers, and update the others.

    Returns a line for each change.

    services  the services of all roles in the network
    queues    further queues, and services with a limit of their own
    """
    return [*await provision_streams(bus), *await provision_consumers(bus, services, queues)]


async def provision_streams(bus: Bus, *, change: bool = True) -> list[str]:
    """Create and update streams and buckets; without `change` only return differences."""
    return [line for config in streams(bus.settings.replicas) for line in await _stream(bus, config, change=change)]


async def provision_consumers(
    bus: Bus, services: Iterable[str] = (), queues: Collection[settings.Queue] = (), *, change: bool = True
) -> list[str]:
    """Create and update consumers; without `change` only return differences."""
    pushed = {queue.name for queue in queues if queue.external == "push"}
    wanted = consumers(slots(services, queues), pushed)
    return [line for stream, config in wanted for line in await _durable(bus, stream, config, change=change)]


async def _stream(bus: Bus, config: dict[str, Any], *, change: bool) -> list[str]:
    name = config["name"]
    try:
        existing = (await bus.api(f"STREAM.INFO.{name}"))["config"]
    except NotProvisioned:
        if not change:
            return [f"stream {name} is missing"]
        await bus.api(f"STREAM.CREATE.{name}", config, wait=10)
        return [f"made stream {name}"]
    different = _differences(existing, config)
    if not different:
        return []
    if not change:
        return [f"stream {name} differs: {', '.join(different)}"]
    try:
        await bus.api(f"STREAM.UPDATE.{name}", existing | config, wait=10)
    except BusError as error:
        raise ConfigError(f"stream {name} cannot be brought up to date ({', '.join(different)}): {error}") from error
    return [f"changed stream {name}: {', '.join(different)}"]


async def _durable(bus: Bus, stream: str, config: dict[str, Any], *, change: bool) -> list[str]:
    name = config["durable_name"]
    try:
        existing = (await bus.api(f"CONSUMER.INFO.{stream}.{name}"))["config"]
    except NotProvisioned:
        existing = None
    different = [] if existing is None else _differences(existing, config)
    if existing is not None and not different:
        return []
    if not change:
        return [f"consumer {name} of {stream} {'differs: ' + ', '.join(different) if different else 'is missing'}"]
    body = {"stream_name": stream, "config": config if existing is None else existing | config}
    try:
        await bus.api(f"CONSUMER.DURABLE.CREATE.{stream}.{name}", body, wait=10)
    except BusError as error:
        raise ConfigError(f"consumer {name} of {stream} cannot be made as configured (bus.queues): {error}") from error
    return [f"{'made' if existing is None else 'changed'} consumer {name} of {stream}"]


def _differences(existing: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Return the names of the settings that differ.

    The server leaves out a setting that is zero or false.
    """
    return sorted(key for key, value in wanted.items() if existing.get(key) != value and (value or existing.get(key)))
