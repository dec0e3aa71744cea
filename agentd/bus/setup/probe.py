"""Tries what a NATS user may do, in both directions, without an effect.

A message of a try names a stream that does not exist as the expected one, and its body is no valid request.  So even
where a permission is too wide, no stream stores it, and the API of JetStream answers it with an error.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import nats
import nats.errors

from agentd.bus.nats import credentials
from agentd.bus.setup import permissions, provision
from agentd.bus.setup.permissions import API, REST
from agentd.errors import BusUnavailable
from agentd.wire import subjects

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nats.aio.client import Client

    from agentd.bus.setup.permissions import User
    from agentd.config.settings import Bus as BusSettings
    from agentd.config.settings import Login

HARMLESS: Final = {"Nats-Expected-Stream": "agentd-probe"}
BODY: Final = b"{"
EXAMPLE: Final = "probe"
"""Replaces a wildcard in a subject that is tried."""
SETTLE: Final = 0.25
"""Seconds without a further error after which the server has answered all tries."""
OF_STREAMS: Final = (
    "STREAM.CREATE",
    "STREAM.UPDATE",
    "STREAM.DELETE",
    "STREAM.PURGE",
    "STREAM.MSG.DELETE",
    "STREAM.SNAPSHOT",
    "STREAM.RESTORE",
    "STREAM.LEADER.STEPDOWN",
    "STREAM.PEER.REMOVE",
    "STREAM.MSG.GET",
    "DIRECT.GET",
    "CONSUMER.CREATE",
    "CONSUMER.LIST",
    "CONSUMER.NAMES",
)
"""Calls of the API of JetStream, completed by a stream."""
OF_CONSUMERS: Final = (
    "CONSUMER.CREATE",
    "CONSUMER.DURABLE.CREATE",
    "CONSUMER.DELETE",
    "CONSUMER.PAUSE",
    "CONSUMER.RESET",
    "CONSUMER.UNPIN",
    "CONSUMER.LEADER.STEPDOWN",
    "CONSUMER.INFO",
    "CONSUMER.MSG.NEXT",
)
"""Calls of the API, completed by a stream and a consumer."""
ELSEWHERE: Final = (
    f"{API}.META.LEADER.STEPDOWN",
    f"{API}.SERVER.REMOVE",
    f"{API}.ACCOUNT.PURGE.{EXAMPLE}",
    f"{API}.STREAM.LIST",
    f"{API}.STREAM.NAMES",
    "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.AI_INPUT.orch",
    "$SYS.REQ.SERVER.PING",
    "agentd.probe",
)


@dataclass(frozen=True)
class Operation:
    """An operation to try: publish or subscribe a subject."""

    verb: Literal["publish", "subscribe"]
    subject: str


def allowed(user: User) -> list[Operation]:
    """Return the operations that the user needs and that can be tried without an effect."""
    stored = [pattern for config in provision.streams(1) for pattern in config["subjects"]]
    publish = [
        subject
        for subject in map(_example, user.publish)
        if subject.startswith("$JS.") or any(permissions.covers(pattern, subject) for pattern in stored)
    ]
    return [
        *(Operation("publish", subject) for subject in publish),
        *(Operation("subscribe", to) for to in user.subscribe),
    ]


def forbidden(user: User, every_user: Iterable[User]) -> list[Operation]:
    """Return the operations that the user must not be allowed, and those of no user."""
    others = list(every_user)
    publish = {_example(pattern) for other in others for pattern in other.publish}
    publish |= {*_admin_calls(others), *_acknowledgements(others), *ELSEWHERE}
    publish |= {f"_INBOX.{other.name}.{EXAMPLE}.1" for other in others}
    subscribe = {pattern for other in others for pattern in other.subscribe}
    subscribe |= {REST, "$JS.>", "$KV.>", "$SYS.>", "ai.>", "_INBOX.>", "_INBOX.*.>", "_INBOX.*.*.*"}
    return [
        *(Operation("publish", subject) for subject in sorted(publish) if not user.may_publish(subject)),
        *(Operation("subscribe", pattern) for pattern in sorted(subscribe) if not user.may_subscribe(pattern)),
    ]


async def denied(settings: BusSettings, login: Login, identity: str, operations: Iterable[Operation]) -> set[Operation]:
    """Try `operations` with a login; return those that the server denied."""
    texts: set[str] = set()

    async def on_error(error: Exception) -> None:
        texts.add(str(error).lower())

    tried = list(operations)
    options = await asyncio.to_thread(credentials.options, settings, login, identity)
    try:
        client = await nats.connect(
            list(settings.servers), error_cb=on_error, allow_reconnect=False, connect_timeout=5, **options
        )
        try:
            for operation in tried:
                if operation.verb == "publish":
                    await client.publish(operation.subject, BODY, headers=dict(HARMLESS))
                else:
                    await client.subscribe(operation.subject)
            await _quiet(client, texts)
        finally:
            await client.close()
    except (nats.errors.Error, OSError) as error:
        raise BusUnavailable(f"NATS at {settings.shown_servers}: {error}") from error
    words = {"publish": "publish to", "subscribe": "subscription to"}
    return {
        operation
        for operation in tried
        if any(f'{words[operation.verb]} "{operation.subject.lower()}"' in text for text in texts)
    }


async def _quiet(client: Client, texts: set[str]) -> None:
    """Wait until the server has answered.

    nats-py may end a flush before errors arrive.
    """
    before = -1
    while before != len(texts):
        before = len(texts)
        await client.flush(20)
        await asyncio.sleep(SETTLE)


def _example(pattern: str) -> str:
    return ".".join(EXAMPLE if token in {"*", REST} else token for token in pattern.split("."))


def _admin_calls(users: Iterable[User]) -> set[str]:
    consumers = {
        tuple(pattern.split(".")[-2:])
        for user in users
        for pattern in user.publish
        if pattern.startswith(f"{API}.CONSUMER.MSG.NEXT.")
    }
    of_streams = {f"{API}.{call}.{stream}" for call in OF_STREAMS for stream in permissions.STREAMS}
    of_consumers = {f"{API}.{call}.{stream}.{name}" for call in OF_CONSUMERS for stream, name in consumers}
    return of_streams | of_consumers


def _acknowledgements(users: Iterable[User]) -> set[str]:
    """Return an acknowledgement of each consumer, in both forms."""
    return {
        pattern.replace("*.*", "_.hash").replace(REST, "1.2.3.1700000000000000000.0")
        for user in users
        for pattern in user.publish
        if pattern.startswith("$JS.ACK.")
    } | {f"$JS.ACK.{subjects.METRICS}.{EXAMPLE}.1.2.3.1700000000000000000.0"}
