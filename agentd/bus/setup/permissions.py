"""Who may publish and subscribe what: the exact NATS permissions of every user.

A user is an agent (one instance on one node), a principal, an external agent, or the administrator.  It is also the
name of the user's inbox.  What is not listed is denied.  The subjects come from `wire.subjects`, the streams and
consumers from `bus.provision`; the decisions:

- NATS adds no sender to a message, so the subject is the proof of the sender: a principal and an agent publish under
  their own names only.
- Requesters choose the reply subject of an answer, so a daemon has to publish into any inbox; the last tokens of an
  inbox are secret.  `allow_responses` would let a daemon answer to any subject that a requester names.
- A permission for `STREAM.MSG.GET` holds for the whole stream.  So no user but the orchestrators reads the two inputs,
  and what is in the other streams is not secret among users.
- The server publishes the answer to any call of its API to the reply subject of the call, without a check.  The copies
  of a direct get look most like records, so principals have none; all readers skip such answers (`Stored.answered`).
- Only the administrator creates, changes, purges and deletes streams and consumers, and acknowledges dead letters.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from agentd.bus.delivery import dead_letters
from agentd.bus.setup import provision
from agentd.errors import ConfigError
from agentd.wire import subjects
from agentd.wire.names import check_id
from agentd.wire.tool_names import PAGE_READS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

REST: Final = ">"
"""The wildcard for one or more tokens at the end of a pattern."""
API: Final = "$JS.API"
STREAMS: Final = tuple(config["name"] for config in provision.streams(1))
READ: Final = tuple(name for name in STREAMS if name not in {subjects.REQUESTS, subjects.INPUT})
"""Streams that every agent and principal may read."""
DIRECT: Final = tuple(config["name"] for config in provision.streams(1) if config["allow_direct"])
ORCHESTRATOR_CONSUMERS: Final = (
    (subjects.REQUESTS, subjects.ORCH_REQUESTS),
    (subjects.INPUT, subjects.ORCH_INPUT),
    (subjects.WORKFLOWS, subjects.ORCH_DUE),
    (subjects.WORKFLOWS, subjects.ORCHESTRATOR),
)
MICRO: Final = ("PING", "INFO", "STATS")
"""The requests that every NATS micro service answers."""


class Duty(StrEnum):
    """What a role does on the bus beyond the tasks of its services."""

    ORCHESTRATE = "orchestrate"
    """Writes workflows: their states, timers, assignments and answers."""
    ALERT = "alert"
    """Watches the network and publishes alerts."""
    REQUEST = "request"
    """Requests workflows in the name of the principals that its settings name."""
    REPRESENT = "represent"
    """Sends requests and calls tools for clients that it has authenticated, under their names."""


class Kind(StrEnum):
    """The kinds of users."""

    AGENT = "agent"
    PRINCIPAL = "principal"
    EXTERNAL = "external"
    ADMIN = "admin"


@dataclass(frozen=True)
class User:
    """A NATS user: its name, and the subjects that it may publish and subscribe."""

    name: str
    kind: Kind
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]

    def may_publish(self, subject: str) -> bool:
        """Return whether the user may publish this subject (without wildcards)."""
        return any(covers(pattern, subject) for pattern in self.publish)

    def may_subscribe(self, subject: str) -> bool:
        """Return whether the user may subscribe this subject or pattern."""
        return any(covers(pattern, subject) for pattern in self.subscribe)


@dataclass(frozen=True)
class Work:
    """What an agent does.

    queues      each of its services with the queues that it takes tasks from
    duties      what its roles do besides
    principals  in whose name it sends requests and signals: the principals of [web.tokens]
    requesters  in whose name it only requests workflows: those of a role with Duty.REQUEST
    clients     in whose name it also calls tools: those of a role with Duty.REPRESENT
    """

    queues: dict[str, tuple[str, ...]]
    duties: frozenset[Duty] = frozenset()
    principals: frozenset[str] = frozenset()
    requesters: frozenset[str] = frozenset()
    clients: frozenset[str] = frozenset()


def agent(name: str, work: Work) -> User:
    """Return the user of the agent with the id `name`."""
    publish = [
        *_every_agent(name),
        *_asked_as(work.principals),
        *map(subjects.request, work.principals | work.requesters),
    ]
    publish += [subjects.control_by(principal, "*") for principal in work.principals]
    subscribe = [
        inbox(name),
        subjects.AGENT_DISCOVERY,
        subjects.SERVICE_DISCOVERY,
        subjects.control(name),
        subjects.accept("*", name),
        subjects.control_by("*", name),
        f"$KV.{subjects.FREEZE}.*",
        subjects.ALL_EVENTS,
        subjects.AGENT_REGISTER,
        subjects.ALL_ALERTS,
    ]
    for service, queues in work.queues.items():
        publish += _worker(name, service, queues)
        subscribe += _endpoints(service)
    if Duty.ORCHESTRATE in work.duties:
        publish += _orchestrator(name)
        subscribe += [
            subjects.ALL_NETWORK,
            subjects.AGENT_REGISTER,
            subjects.SERVICE_REGISTER,
            subjects.ALL_HEARTBEATS,
            subjects.ALL_TIMERS,
        ]
    if Duty.ALERT in work.duties:
        publish += [subjects.alert("*"), f"$KV.{subjects.ALERTS}.*", f"$KV.{subjects.MONITOR}.>"]
        subscribe += [subjects.ALL_HEARTBEATS, subjects.ALL_METRICS, subjects.ALL_DEAD, subjects.ALL_EFFECTS]
    if Duty.REPRESENT in work.duties:
        publish += _asked_as(work.clients)
        for client in work.clients:
            publish += [subjects.request(client), subjects.tool_call(client, "*", "*")]
        subscribe.append(subjects.response("*"))
    return _user(name, Kind.AGENT, publish, subscribe)


def principal(name: str) -> User:
    """Return the user of a principal.

    `plain` is the user of clients that are not known by name: it may send requests on the plain subject.
    """
    if name == subjects.PLAIN:
        return _user(name, Kind.PRINCIPAL, [subjects.WORKFLOW_REQUEST], [inbox(name), subjects.WORKFLOW_RESPONSE])
    publish = [
        *_asked_as([name]),
        subjects.request(name),
        subjects.tool_call(name, "*", "*"),
        subjects.accept(name, "*"),
        subjects.control_by(name, "*"),
        *_reading(),
    ]
    return _user(name, Kind.PRINCIPAL, publish, [inbox(name), subjects.ALL_EVENTS, subjects.response("*")])


def external(name: str, queues: Collection[str], *, pushed: bool) -> User:
    """Return the user of an external agent.

    It may also complete on the plain subject, where its tasks are known by their queue.  With `pushed` it needs only
    core NATS.
    """
    publish = [
        subjects.TASK_COMPLETE,
        subjects.complete(name, "*", "*"),
        subjects.heartbeat(name),
        subjects.metrics(name),
        subjects.AGENT_REGISTER,
        subjects.SERVICE_REGISTER,
    ]
    subscribe = [inbox(name), subjects.AGENT_DISCOVERY, subjects.SERVICE_DISCOVERY]
    if pushed:
        subscribe.append(subjects.assign_plain(name))
    else:
        publish.append(f"{API}.INFO")
        for queue in queues:
            publish += [*_consuming(subjects.WORKFLOWS, queue), f"{API}.CONSUMER.INFO.{subjects.WORKFLOWS}.{queue}"]
    return _user(name, Kind.EXTERNAL, publish, subscribe)


def admin() -> User:
    """Return the administrator: it provisions, drains agents and replays dead letters."""
    publish = [
        f"{API}.>",
        "$JS.SNAPSHOT.>",
        subjects.control("*"),
        subjects.dead_mark("*"),
        subjects.ALL_CRON,
        subjects.WORKFLOW_REQUEST,
        subjects.request("*"),
        subjects.signal("*", "*"),
        subjects.TASK_COMPLETE,
        subjects.complete("*", "*", "*"),
        subjects.due("*", "*", "*"),
    ]
    return _user(subjects.ADMIN, Kind.ADMIN, publish, [inbox(subjects.ADMIN)])


def users(found: Iterable[User]) -> list[User]:
    """Return the users sorted by name; raises ConfigError if two would share an inbox."""
    named: dict[str, User] = {}
    for user in found:
        if user.name in named:
            raise ConfigError(f"{user.name!r} is the name of two NATS users ({named[user.name].kind}, {user.kind})")
        named[user.name] = user
    return [named[name] for name in sorted(named)]


def nats_conf(keys: Iterable[tuple[User, str]]) -> str:
    """Return the users of an account with their public keys, for nats-server."""
    lines = ["users: ["]
    for user, key in keys:
        lines += [
            f"  # {user.kind} {user.name}",
            f"  {{ nkey: {key}, permissions: {{",
            f"    publish: {{ allow: [{_quoted(user.publish)}] }}",
            f"    subscribe: {{ allow: [{_quoted(user.subscribe)}] }} }} }}",
        ]
    return "\n".join([*lines, "]", ""])


def inbox(name: str) -> str:
    """Return the pattern of all inboxes of a user."""
    return f"_INBOX.{name}.>"


def covers(pattern: str, subject: str) -> bool:
    """Return whether every subject of `subject` (with wildcards) matches `pattern`."""
    wanted, given = pattern.split("."), subject.split(".")
    for index, token in enumerate(wanted):
        if token == REST:
            return len(given) > index
        if index >= len(given) or given[index] == REST or token not in {"*", given[index]}:
            return False
    return len(wanted) == len(given)


# -- the parts ------------------------------------------------------------------------------------------------------


def _user(name: str, kind: Kind, publish: Iterable[str], subscribe: Iterable[str]) -> User:
    check_id(name, f"{kind} name")
    return User(name, kind, tuple(sorted(set(publish))), tuple(sorted(set(subscribe))))


def _reading() -> list[str]:
    return [
        f"{API}.INFO",
        *(f"{API}.STREAM.INFO.{stream}" for stream in STREAMS),
        *(f"{API}.STREAM.MSG.GET.{stream}" for stream in READ),
    ]


def _asked_as(principals: Iterable[str]) -> Iterator[str]:
    """Yield what each principal publishes to control workflows and the network."""
    for name in principals:
        yield subjects.signal(name, "*")
        yield subjects.network(name)


def _every_agent(name: str) -> list[str]:
    chains, live = subjects.CHAINS, subjects.LIVE
    return [
        *_reading(),
        *(f"{API}.DIRECT.GET.{stream}" for stream in DIRECT),
        subjects.AGENT_REGISTER,
        subjects.SERVICE_REGISTER,
        subjects.heartbeat(name),
        subjects.metrics(name),
        subjects.audit(name),
        subjects.critical_error(name),
        *(subjects.tool_step(name, "*", tool) for tool in PAGE_READS),
        f"$KV.{live}.{name}",
        f"$KV.{chains}.{subjects.audit_key(name)}",
        f"$KV.{chains}.{subjects.audit_head(name)}",
        "_INBOX.>",
    ]


def _worker(name: str, service: str, queues: Iterable[str]) -> list[str]:
    """Return what an agent publishes for the tasks and calls of a service."""
    given_up = (dead_letters.POISONED, dead_letters.BROKEN)
    found = [
        subjects.complete(name, "*", "*"),
        subjects.effect(service, "*.*"),
        subjects.effect(service, "*.*.*"),
        subjects.tool_step(name, "*", "*"),
        f"$KV.{subjects.BUDGET}.*",
        f"$KV.{subjects.RESULTS}.{subjects.result_key(name, '>')}",
        *(subjects.dead(why, service, "*") for why in given_up),
    ]
    for queue in queues:
        found += [*_consuming(subjects.WORKFLOWS, queue), *_giving_up(queue)]
    return found


def _endpoints(service: str) -> list[str]:
    """Return what a worker of a service subscribes."""
    micro = [f"$SRV.{verb}{rest}" for verb in MICRO for rest in ("", f".{service}", f".{service}.*")]
    calls = [subjects.tool_call("*", service, "*"), subjects.tool_step("*", service, "*")]
    return [*calls, subjects.stop(service), *micro]


def _orchestrator(name: str) -> list[str]:
    found = [
        subjects.event("*"),
        subjects.timer("*", "*", "*"),
        subjects.assigns_of("*"),
        subjects.response("*"),
        subjects.WORKFLOW_RESPONSE,
        subjects.request("*"),
        subjects.signal("*", "*"),
        subjects.complete(name, "*", "*"),
        subjects.effect("*", "*.*"),
        subjects.effect("*", "*.*.*"),
        subjects.stop("*"),
        subjects.critical_error(subjects.ORCHESTRATOR),
        subjects.AGENT_DISCOVERY,
        subjects.SERVICE_DISCOVERY,
        subjects.dead(dead_letters.BROKEN, subjects.ORCH_INPUT, "*"),
        f"$KV.{subjects.LIVE}.*",
        f"$KV.{subjects.CONF}.{subjects.schedule_key('*')}",
        f"$KV.{subjects.FREEZE}.*",
        f"{API}.CONSUMER.NAMES.{subjects.WORKFLOWS}",
        f"{API}.STREAM.MSG.GET.{subjects.INPUT}",
    ]
    for stream, consumer in ORCHESTRATOR_CONSUMERS:
        found += [*_consuming(stream, consumer), *_giving_up(consumer)]
    return found


def _consuming(stream: str, consumer: str) -> list[str]:
    """Return what a client publishes to pull from a consumer and to acknowledge.

    The second form of an acknowledgement has the domain and the account before the stream.
    """
    return [
        f"{API}.CONSUMER.MSG.NEXT.{stream}.{consumer}",
        f"$JS.ACK.{stream}.{consumer}.>",
        f"$JS.ACK.*.*.{stream}.{consumer}.>",
    ]


def _giving_up(consumer: str) -> list[str]:
    """Return what a client publishes to count starts and to store dead letters."""
    return [
        f"$KV.{subjects.RESULTS}.{subjects.begun_key(consumer, '*')}",
        subjects.dead(dead_letters.GIVEN_UP, consumer, "*"),
    ]


def _quoted(patterns: Iterable[str]) -> str:
    return ", ".join(f'"{pattern}"' for pattern in patterns)
