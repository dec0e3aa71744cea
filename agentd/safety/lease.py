"""Ensures one process per agent id, by a lease that names the process.

The lease is an entry of the bucket `live`, written by compare-and-set.  A second process with the same id does not
start while the first one renews its lease.  After a restart, a process takes over the lease of its predecessor at once
if it can see that the predecessor has ended (same boot, same PID namespace), otherwise once that lease has ended or
was not renewed.  A process whose lease has expired, because it was suspended or NATS was away, renews it before it
acts; one that finds the lease held by another process never acts again.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from agentd.errors import BusError, BusUnavailable, ConfigError, NotProvisioned, StaleWrite, Superseded
from agentd.wire import announcements, subjects

if TYPE_CHECKING:
    from datetime import datetime

    from agentd.bus.jetstream import Bus
    from agentd.bus.stored import Newest
    from agentd.telemetry.logs import Logger

SECONDS: Final = 20.0
"""Duration of a lease in seconds."""
POLL: Final = 0.5
"""Seconds between two reads of a lease whose process may or may not be alive."""


class Process:
    """The identity of this process.

    It is `<boot>/<PID namespace>/<pid>/<start in ticks>/<random>`.
    """

    def __init__(self) -> None:
        """Read the parts from /proc."""
        self.name = "/".join([*_machine(), str(os.getpid()), _started(os.getpid()), secrets.token_hex(4)])


def has_ended(process: str, ours: str) -> bool | None:
    """Return whether another process has ended; None if this process cannot see that."""
    its, own = process.split("/"), ours.split("/")
    if len(its) != len(own) or its[:2] != own[:2] or not its[2].isdecimal():
        return None
    return _started(int(its[2])) != its[3]


class Lease:
    """The lease of this process on its agent id."""

    def __init__(self, bus: Bus, agent_id: str, log: Logger, process: str = "") -> None:
        """Use this agent id; nothing is written yet."""
        self.lost = asyncio.Event()
        """Set once another process has the lease; it is never cleared."""
        self.process = process or Process().name
        self.problem = ""
        self._bus = bus
        self._agent = agent_id
        self._log = log
        self._seq = 0
        self._renewed = -SECONDS
        self._last: announcements.Presence | None = None
        self._writing = asyncio.Lock()

    async def take(self, presence: announcements.Presence, stopping: asyncio.Event) -> None:
        """Take the lease; raises ConfigError if a live process has it.

        Returns without the lease when it is to stop, or when the bucket does not exist: then a renewal takes it.
        """
        self._last = presence
        seen: datetime | None = None
        while not stopping.is_set():
            try:
                newest = await self._newest()
                if newest.value is None or await self._free(newest.value):
                    return await self._put(presence, newest.seq)
                reason = self._taken_error(newest.value, newest.time)
                if seen and newest.time != seen:
                    raise ConfigError(reason)
                if not seen:
                    self._log.warning("waiting for the lease of another process to end", reason=reason)
                seen, self.problem = newest.time, reason
            except NotProvisioned:
                return None
            except StaleWrite:
                continue
            except BusError as error:
                self.problem = str(error)
            await asyncio.sleep(POLL)
        return None

    async def _newest(self) -> Newest[announcements.Presence]:
        return await self._bus.kv_read(subjects.LIVE, self._agent, announcements.Presence, self._of_this_id)

    def _of_this_id(self, presence: announcements.Presence) -> bool:
        return presence.agent.agent_id == self._agent

    async def _free(self, presence: announcements.Presence) -> bool:
        """Return whether the lease can be taken over.

        Raises ConfigError if its process runs on this machine.
        """
        if not presence.agent.version:  # an external agent's entry under an id that is not its own
            return True
        ended = await asyncio.to_thread(has_ended, presence.process, self.process)
        if ended is False and presence.process != self.process:
            raise ConfigError(self._taken_error(presence, None))
        return ended is not None

    def _taken_error(self, presence: announcements.Presence, last_seen: datetime | None) -> str:
        return (
            f"another process runs as {self._agent} ({_holder(presence, last_seen)}): two would do everything twice; "
            "stop it, or give this one another instance or [node] name"
        )

    async def renew(self, presence: announcements.Presence | None = None) -> None:
        """Write the lease again.

        Raises Superseded once another process has it, BusError if it cannot be written.
        """
        async with self._writing:
            self._last = presence = presence or self._last
            if self.lost.is_set():
                raise Superseded(f"another process runs as {self._agent}: this one changes nothing any more and ends")
            if presence is None:
                raise Superseded(f"{self._agent} has no lease yet")
            await self._renew(presence)

    async def _renew(self, presence: announcements.Presence) -> None:
        while True:
            try:
                return await self._put(presence, self._seq)
            except StaleWrite:
                newest = await self._newest()
            if newest.value is not None and not self._is_ours(newest.value):
                self.problem = self._taken_error(newest.value, newest.time)
                self.lost.set()
                raise Superseded(self.problem)
            self._seq = newest.seq

    def _is_ours(self, presence: announcements.Presence) -> bool:
        return not presence.agent.version or presence.process == self.process

    async def _put(self, presence: announcements.Presence, expect: int) -> None:
        started = time.monotonic()  # not the time of the response: the lease runs from when NATS stored it
        self._seq = await self._bus.kv_put(
            subjects.LIVE,
            self._agent,
            msgspec.structs.replace(presence, process=self.process),
            ttl=SECONDS,
            expect=expect,
        )
        self._renewed, self.problem = started, ""

    async def check(self) -> None:
        """Return if no other process can have our id now; raises BusUnavailable.

        A lease that has expired is renewed first.
        """
        if self.lost.is_set() or time.monotonic() - self._renewed > SECONDS * 0.75:
            try:
                await self.renew()
            except BusUnavailable:
                raise
            except BusError as error:
                raise BusUnavailable(f"the lease of {self._agent} cannot be renewed: {error}") from error

    async def release(self) -> None:
        """Delete the lease, unless another process has it."""
        async with self._writing:
            if not self.lost.is_set():
                await self._bus.kv_delete(subjects.LIVE, self._agent, expect=self._seq)


def _holder(presence: announcements.Presence, last_seen: datetime | None) -> str:
    pid = f"process {presence.process.split('/')[2]} " if presence.process.count("/") > 1 else ""
    last = "" if last_seen is None else f", last seen {last_seen:%H:%M:%S} UTC"
    return f"{pid}on {presence.agent.node or 'an unknown node'}{last}"


def _machine() -> tuple[str, str]:
    namespace = str(Path("/proc/self/ns/pid").readlink())
    return _read("/proc/sys/kernel/random/boot_id").strip()[:8], namespace.removeprefix("pid:[").rstrip("]")


def _started(pid: int) -> str:
    """Return when a process started, in ticks since the boot; "" if there is none."""
    try:
        return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _read(path: str) -> str:
    file = os.open(path, os.O_RDONLY)
    try:
        return os.pread(file, 4096, 0).decode()
    finally:
        os.close(file)
