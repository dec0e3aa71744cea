"""The freeze of the network: no agent changes anything until a principal ends it.

The state is one key of the bucket `freeze`.  Only orchestrators write it, by compare-and-set, and they decide which
principal may.  Each agent follows it live, and reads it again right before each act, so that no window remains: a
state that cannot be read counts as frozen.  A freeze with an end ends by the clock of the NATS server.

Any principal with tier `operate` may freeze; the principal that froze, or one with tier `destroy`, may thaw.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeAlias

from agentd.errors import AgentdError, Denied, Frozen, InvalidMessage, NoResponder, Rejected, StaleWrite, TemporaryError
from agentd.wire import secrets as wire_secrets
from agentd.wire import subjects
from agentd.wire.announcements import Freeze, NetworkReply, NetworkRequest
from agentd.wire.messages import Tier

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from agentd.bus.jetstream import Bus
    from agentd.bus.nats.subscriptions import Received
    from agentd.bus.stored import Newest

KEY: Final = "network"
POLL: Final = 5.0
"""Seconds after which the state is read again.

A change may have been missed during a reconnect.
"""
LONGEST: Final = 30 * 86_400.0
"""Longest time in seconds after which a freeze may end by itself."""
MOST_TEXT: Final = 500
"""Longest reason, in characters."""
ACTIONS: Final = ("freeze", "thaw")
ANSWERED: Final = 5.0
"""Seconds within which an orchestrator must respond."""


def describe(freeze: Freeze) -> str:
    """Return a line that says who froze the network, when, until when and why.

    It also names the command that ends the freeze.
    """
    until = "" if freeze.until is None else f", until {freeze.until:%Y-%m-%d %H:%M:%S} UTC"
    return (
        f"frozen by {freeze.by} since {freeze.since:%Y-%m-%d %H:%M:%S} UTC{until}: {freeze.reason}; "
        "`agentd thaw` ends it"
    )


def in_force(newest: Newest[Freeze], at: datetime) -> Freeze | None:
    """Return the freeze in force at the server's time `at`, None if there is none.

    A state that cannot be decoded is in force.  What the server wrote as an acknowledgement (any client may name a
    reply subject) neither freezes nor thaws: the state before it counts.
    """
    if newest.doubt:
        return Freeze("unknown", at, f"its state cannot be read ({newest.doubt})")
    freeze = newest.value
    return freeze if freeze is None or freeze.until is None or freeze.until > at else None


async def read(bus: Bus) -> Freeze | None:
    """Return the freeze that is in force now, or None; raises BusError."""
    return in_force(await bus.kv_read(subjects.FREEZE, KEY, Freeze), bus.server_time())


class FreezeWatch:
    """What one process knows of the freeze.

    `current` is the last known state, for pages and before work begins.
    """

    def __init__(self, bus: Bus) -> None:
        """Start without a known state."""
        self._bus = bus
        self._last: Freeze | None = None

    @property
    def current(self) -> Freeze | None:
        """The freeze as it was last read, None if it has ended."""
        last = self._last
        return None if last is not None and last.until and last.until <= self._bus.server_time() else last

    async def begin(self, tool: str) -> None:
        """Raise Frozen if the network was frozen at the last read and still is."""
        if self.current is not None:
            await self.act(tool)

    async def act(self, tool: str) -> None:
        """Raise Frozen if the network is frozen now.

        Raises BusError if the state cannot be read: then nothing may be done.
        """
        self._last = await read(self._bus)
        if self._last is not None:
            raise Frozen(f"{tool}: nothing was done: {describe(self._last)}")

    async def run(self, stopping: asyncio.Event) -> None:
        """Follow the state until `stopping`."""
        changed = asyncio.Event()

        async def on_change(_: Received) -> None:
            changed.set()

        subscription = await self._bus.subscribe(f"$KV.{subjects.FREEZE}.{KEY}", on_change)
        try:
            while not stopping.is_set():
                changed.clear()
                with contextlib.suppress(AgentdError):  # an act reads it again, and is refused if that fails
                    self._last = await read(self._bus)
                waiting = [asyncio.ensure_future(event.wait()) for event in (changed, stopping)]
                await asyncio.wait(waiting, timeout=POLL, return_when=asyncio.FIRST_COMPLETED)
                for waiter in waiting:
                    waiter.cancel()
        finally:
            await subscription.stop()


# -- for orchestrators ------------------------------------------------------------------------------------------------


def check_request(request: NetworkRequest, principal: str, tier: Tier, current: Freeze | None) -> None:
    """Raise an error that says what to do unless `principal` may freeze or thaw.

    Raises Denied, Rejected or InvalidMessage.
    """
    if request.action not in ACTIONS:
        raise InvalidMessage(f"action: unknown {request.action!r}; there are {', '.join(ACTIONS)}")
    if request.action == "freeze":
        _check_freeze(request, principal, tier, current)
    elif current is not None and principal != current.by and not tier.covers(Tier.DESTROY):
        raise Denied(
            f"{principal} has tier {tier}; thawing what {current.by} froze needs tier destroy: {current.reason}"
        )


def _check_freeze(request: NetworkRequest, principal: str, tier: Tier, current: Freeze | None) -> None:
    if not tier.covers(Tier.OPERATE):
        raise Denied(f"{principal} has tier {tier}; freezing the network needs tier operate")
    if not request.reason.strip() or len(request.reason) > MOST_TEXT:
        raise InvalidMessage(f"reason: give one of 1 to {MOST_TEXT} characters; agentd freeze --reason TEXT")
    if request.seconds is not None and not 1 <= request.seconds <= LONGEST:
        raise InvalidMessage(f"seconds: {request.seconds:g} is not from 1 to {LONGEST:.0f}")
    if current is not None:
        raise Rejected(f"the network is frozen already: {describe(current)}")


Note: TypeAlias = "Callable[[str, Freeze | None], Awaitable[None]]"


async def carry_out(  # noqa: PLR0913, PLR0917 - a request, its principal, and the services that it needs
    bus: Bus, agent: str, principal: str, tier: Tier, request: NetworkRequest, note: Note
) -> NetworkReply:
    """Freeze or thaw the network for a principal; return the result.

    note  writes the audit record: before a thaw, which is not done without it, and after a freeze, which is done anyway
    """
    while True:
        newest = await bus.kv_read(subjects.FREEZE, KEY, Freeze)
        current = in_force(newest, bus.server_time())
        if current is not None and request.action == "freeze" and request.id and current.id == request.id:
            return NetworkReply(agent, done=True, message=describe(current), freeze=current)  # by another orchestrator
        check_request(request, principal, tier, current)
        if current is None and request.action == "thaw":
            return NetworkReply(agent, done=True, message="the network is not frozen: nothing was changed")
        try:
            if request.action == "freeze":
                freeze = await _freeze(bus, principal, request, newest.seq)
                await note("frozen", freeze)
                return NetworkReply(agent, done=True, message=describe(freeze), freeze=freeze)
            await note("to be thawed", current)
            await bus.kv_delete(subjects.FREEZE, KEY, expect=newest.seq)
        except StaleWrite:
            continue
        return NetworkReply(agent, done=True, message="thawed: agents act again")


async def _freeze(bus: Bus, principal: str, request: NetworkRequest, expect: int) -> Freeze:
    at, seconds = bus.server_time(), request.seconds
    until = None if seconds is None else at + timedelta(seconds=seconds)
    freeze = Freeze(principal, at, wire_secrets.redacted(" ".join(request.reason.split())), until, request.id)
    await bus.kv_put(subjects.FREEZE, KEY, freeze, ttl=seconds, expect=expect)
    return freeze


# -- for principals ---------------------------------------------------------------------------------------------------


async def ask(bus: Bus, principal: str, request: NetworkRequest) -> NetworkReply:
    """Request a freeze or a thaw; raises TemporaryError if no orchestrator responds."""
    request = NetworkRequest(
        request.action, wire_secrets.redacted(request.reason), request.seconds, request.id or secrets.token_hex(8)
    )
    try:
        return await bus.request(subjects.network(principal), request, NetworkReply, wait=ANSWERED)
    except NoResponder as error:
        raise TemporaryError(
            f"no orchestrator is there to {request.action} the network: nothing was changed; start one "
            "(systemctl start agentd@orchestrator), then try again"
        ) from error
