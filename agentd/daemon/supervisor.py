"""Builds, runs, restarts, drains and stops the roles of one instance.

The start order is journal, page, bus, Proxmox, worker, roles, announcement; the stop order is the reverse.
The page starts before the bus, so that a daemon without NATS can show this.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from agentd.bus.delivery.journal import Journal
from agentd.bus.jetstream import Bus
from agentd.client.daemon_view import DaemonView, OwnState
from agentd.config.show import shared_digest
from agentd.daemon import catalogue, state
from agentd.daemon.presence import Announcer
from agentd.daemon.systemd import Systemd
from agentd.errors import BusUnavailable, ConfigError, InvalidMessage, TemporaryError
from agentd.plugins.manager import Plugins, known_tools, needed_plugins
from agentd.plugins.role import Context, Role
from agentd.proxmox.client import Proxmox
from agentd.safety.anchors import Anchors
from agentd.safety.audit_log import AuditLog
from agentd.safety.freeze import FreezeWatch
from agentd.safety.lease import SECONDS as LEASE
from agentd.safety.lease import Lease
from agentd.safety.policy import Policy
from agentd.safety.signing import Memory, Signer, own_seed
from agentd.telemetry import logs
from agentd.telemetry.metrics import Metrics
from agentd.tools.worker import Worker
from agentd.version import __version__
from agentd.web.serving.server import WebServer
from agentd.wire.codec import now
from agentd.wire.subjects import agent_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentd.config.load import Config
    from agentd.telemetry.logs import Logger

MAX_PAUSE: Final = 60.0
"""Longest pause in seconds before a failed role is started again."""
STEADY: Final = 60.0
"""Seconds that a role has to work before its next failure counts as the first one again."""


@dataclass
class RunningRole:
    """A role, and what it was given."""

    role: Role
    context: Context


class Supervisor:
    """One daemon: an instance with its roles."""

    def __init__(self, config: Config, name: str, *, reload: Callable[[], Config]) -> None:
        """Check the configuration, load plugins and settings; raises ConfigError.

        reload  reads the configuration again; called for SIGHUP
        """
        self.config = config
        self.name = name
        self.instance = config.instance(name)
        self.agent_id = agent_id(name, config.node.name)
        self.log: Logger = logs.get_logger(agent=self.agent_id)
        self.started = now()
        self.stopping = asyncio.Event()
        self.ready = asyncio.Event()
        """Set when all roles are ready for the first time."""
        self.metrics = Metrics(__version__)
        self.plugins = Plugins(config, needed_plugins(config, self.instance.roles))
        self.roles = {role: self.plugins.role(role) for role in self.instance.roles}
        self.settings = {role: self.plugins.settings(role) for role in self.roles}
        self.workflows = self.plugins.workflows()
        self.proxmox = Proxmox(config.proxmox, observe=self.metrics.proxmox_call) if config.proxmox else None
        self.bus = Bus(config.bus, self.agent_id, self.log)
        self.tools = self.plugins.tools(config.node.name, self.proxmox, self.bus)
        self.checks = self.plugins.checks(config.node.name, self.proxmox, self.bus)
        self.lease = Lease(self.bus, self.agent_id, self.log)
        self.freeze_watch = FreezeWatch(self.bus)
        self.audit_log = AuditLog(self.bus, self.agent_id, log=self.log)
        self.config_digest, self.restarting, self.url = shared_digest(config), False, ""
        self._reload = reload
        self._systemd = Systemd()
        self.running: list[RunningRole] = []
        self.worker: Worker | None = None
        self._exit_code = 0

    async def run(self) -> int:
        """Run until a signal stops the daemon; return the exit code."""
        self._catch_signals()
        async with contextlib.AsyncExitStack() as stack:
            journal = await asyncio.to_thread(Journal, self.config.node.state_dir / f"{self.name}.journal")
            stack.callback(journal.close)
            await self._open_audit(stack)
            await self._start_page(stack)
            await self._connect(stack)
            if not self.stopping.is_set():
                await self.lease.take(state.starting_presence(self), self.stopping)
            if self.stopping.is_set():
                return self._exit_code
            for reply in journal.left_open:
                self.bus.send(reply, b"-NAK")
            worker = self.worker = self._build(journal)
            async with asyncio.TaskGroup() as group:
                for running in self.running:
                    group.create_task(self._keep_running(running))
                announcer = Announcer(
                    self.bus,
                    partial(state.presence, self, worker),
                    self._control,
                    self.log,
                    self.lease,
                    policy=worker.policy,
                    audit_log=self.audit_log,
                )
                group.create_task(self._announce(announcer))
                group.create_task(self._notify_systemd())
                group.create_task(self._watch_bus())
                group.create_task(self._watch_lease())
                group.create_task(self.freeze_watch.run(self.stopping))
                group.create_task(self._anchor(worker))
        self.log.info("stopped", code=self._exit_code)
        return self._exit_code

    # -- starting -----------------------------------------------------------------------------------------------------

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, lambda: self.bus.spawn(self.reload()))

    async def _open_audit(self, stack: contextlib.AsyncExitStack) -> None:
        """Read the key of this agent's audit, and the head and alarm of its chain."""
        login, where = self.config.bus, self.config.node.state_dir

        def read() -> tuple[Signer, Memory]:
            seed = login.nkey_seed() or own_seed(where / f"{self.name}.audit-key")
            return Signer(seed), Memory(where / f"{self.name}.audit-head")

        signer, memory = await asyncio.to_thread(read)
        stack.callback(memory.close)
        self.audit_log.know(signer, memory)

    async def _start_page(self, stack: contextlib.AsyncExitStack) -> None:
        settings = self.config.web
        if not settings.enabled:
            return
        port = self.instance.port
        if port is None:
            port = next(iter(self.roles.values())).port
        own = OwnState(
            self.agent_id,
            partial(state.identity, self),
            partial(state.plugin_states, self),
            partial(state.readiness, self),
            self.metrics.render,
            partial(catalogue.workflow_types, self.config),
            partial(catalogue.tools, self.config),
        )
        view = DaemonView(self.bus, own)
        routes = [route for role in self.roles.values() for route in role.routes]
        page = WebServer(
            view,
            host=settings.host,
            port=port,
            allowed_hosts=settings.allowed_hosts,
            routes=routes,
            tokens=settings.tokens,
            connections=settings.connections,
            connections_per_address=settings.connections_per_address,
            max_concurrent_calls=self.config.policy.max_concurrent_calls,
        )
        port = await page.start()
        stack.push_async_callback(page.stop)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.url = f"http://{host}:{port}"
        self.log.info("status page", url=self.url)

    async def _connect(self, stack: contextlib.AsyncExitStack) -> None:
        """Connect to NATS; retry until it works or the daemon stops."""
        stack.push_async_callback(self.bus.close)
        if self.proxmox is not None:
            stack.push_async_callback(self.proxmox.close)
        while not self.stopping.is_set():
            self._systemd.waiting("waiting for NATS", 30)
            try:
                await self.bus.connect(wait=10)
            except BusUnavailable as error:
                self.log.warning("waiting for NATS", reason=str(error))
            else:
                return

    def _build(self, journal: Journal) -> Worker:
        """Create the worker and the roles' contexts: all parts are connected here."""
        policy = Policy.of(self.config.policy)
        for text in policy.warnings():
            self.log.warning("the policy grants more than is allowed", reason=text)
        audit_log = self.audit_log
        worker = Worker(
            self.bus,
            self.agent_id,
            self.tools,
            policy=policy,
            audit_log=audit_log,
            metrics=self.metrics,
            log=self.log,
            journal=journal,
            slots=self.instance.slots,
            freeze_watch=self.freeze_watch,
            lease=self.lease,
        )
        self.running += [RunningRole(role, self._context(name, worker, policy)) for name, role in self.roles.items()]
        return worker

    def _context(self, role: str, worker: Worker, policy: Policy) -> Context:
        return Context(
            instance=self.name,
            node=self.config.node.name,
            agent_id=self.agent_id,
            config=self.config,
            settings=self.settings[role],
            bus=self.bus,
            tools=self.tools,
            workflows=self.workflows,
            worker=worker,
            policy=policy,
            metrics=self.metrics,
            log=self.log.bind(role=role),
            proxmox=self.proxmox,
            known_tools=partial(known_tools, self.config),
            checks=self.checks,
            stopping=self.stopping,
        )

    async def _keep_running(self, running: RunningRole) -> None:
        """Run a role; restart it if it fails or returns before the daemon stops."""
        role, context = running.role, running.context
        failures = 0
        while not self.stopping.is_set():
            started = time.monotonic()
            try:
                await role.run(context)
                reason = "ended on its own"
            except Exception as error:  # whatever a role raises, the other roles continue
                reason = f"{type(error).__name__}: {_error_text(error)}"
                self.log.exception("a role failed", role=role.name)
            if self.stopping.is_set():
                return
            failures = 1 if time.monotonic() - started > STEADY else failures + 1
            pause = min(2.0 ** (failures - 1), MAX_PAUSE)
            context.health.down(f"failed, again in {pause:.0f} s: {reason}")
            self.metrics.role_restarts.labels(role.name).inc()
            await self._pause(pause)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stopping.wait()

    # -- while it runs ------------------------------------------------------------------------------------------------

    async def _announce(self, announcer: Announcer) -> None:
        """Announce the instance when it is ready, at latest after 1/4 of the lease."""
        ready = asyncio.ensure_future(self.ready.wait())
        stopping = asyncio.ensure_future(self.stopping.wait())
        await asyncio.wait([ready, stopping], timeout=LEASE / 4, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        stopping.cancel()
        try:
            await announcer.run(self.stopping)
        except BusUnavailable:
            if not self.bus.closed.is_set():  # closed permanently: _watch_bus ends this process and logs it
                raise

    async def _notify_systemd(self) -> None:
        """Report READY when all roles are, and the watchdog while the loop runs."""
        reported = ""
        every = min(1.0, (self._systemd.watchdog or 2.0) / 2)
        while not self.stopping.is_set():
            status = state.status_line(self)
            if self.is_ready and not self.ready.is_set():
                self.ready.set()
                self._systemd.ready(status)
                self.log.info("ready", roles=list(self.roles))
            elif status != reported:
                self._systemd.status(status)
            reported = status
            self._systemd.alive()
            self._measure()
            pause, before = every if self.ready.is_set() else 0.05, time.monotonic()
            await self._pause(pause)
            if not self.stopping.is_set():
                self.metrics.event_loop_lag.observe(max(0.0, time.monotonic() - before - pause))
        self._systemd.stopping()

    def _measure(self) -> None:
        self.metrics.bus_counted(self.bus.counters | {"unreadable": self.bus.unreadable.count})
        self.metrics.bus_connected.set(self.bus.connected)
        self.metrics.audit_broken.set(bool(self.audit_log.alarm))
        self.metrics.frozen.set(self.freeze_watch.current is not None)
        for running in self.running:
            self.metrics.role_up.labels(running.role.name).set(running.context.health.ready)

    async def _watch_bus(self) -> None:
        """Stop the daemon when the connection is closed for good; systemd restarts it."""
        await _any_of(self.bus.closed, self.stopping)
        if self.bus.closed.is_set() and not self.stopping.is_set():
            self.log.error("NATS closed the connection finally: exiting, to be restarted")
            self._exit_code = TemporaryError.exit_code
            self.stopping.set()

    async def _anchor(self, worker: Worker) -> None:
        """Anchor the heads of the audit chains; retry a failed anchor after a minute."""
        anchors = Anchors(self.bus, self.agent_id, self.audit_log, worker.policy, self.log)
        try:
            await anchors.run(self.stopping)
        except BusUnavailable:
            if not self.bus.closed.is_set():  # closed permanently: _watch_bus ends this process and logs it
                raise

    async def _watch_lease(self) -> None:
        """Stop the daemon if another process has this agent id."""
        await _any_of(self.lease.lost, self.stopping)
        if self.lease.lost.is_set() and not self.stopping.is_set():
            self.log.error("lost the lease on this agent id: exiting", reason=self.lease.problem)
            self._exit_code = ConfigError.exit_code
            self.stopping.set()

    def stop(self) -> None:
        """Start to drain: take no new work, finish or hand back running work."""
        if not self.stopping.is_set():
            self.log.info("stopping")
        self.stopping.set()

    async def reload(self) -> None:
        """Apply the settings that can change at run time (SIGHUP)."""
        self._systemd.reloading()
        try:
            config, settings = await asyncio.to_thread(self._reread_config)
        except ConfigError as error:
            self.log.exception("not reloaded", reason=str(error))  # the old configuration stays in force
        else:
            self.config_digest = shared_digest(config)
            logs.set_level(config.log.level)
            for name, role in self.roles.items():
                role.reload(settings[name])
            self.log.info("reloaded")
        finally:  # systemd waits for it
            self._systemd.ready(state.status_line(self))

    def _reread_config(self) -> tuple[Config, dict[str, Any]]:
        """Read the configuration and the roles' settings from the files."""
        config = self._reload()
        plugins = Plugins(config, needed_plugins(config, self.instance.roles))
        return config, {name: plugins.settings(name) for name in self.roles}

    async def _control(self, action: str) -> str:
        """Handle a message on `ai.control.<agent>`; raises InvalidMessage."""
        if action in {"drain", "restart"}:
            self.restarting = action == "restart"
            self.stop()
            then = "starts again" if self.restarting else "ends"
            return f"draining: the process {then} when what runs is finished"
        if action == "reload":
            await self.reload()
            return "reloaded"
        raise InvalidMessage(f"action: unknown {action!r}; there are drain, restart, reload")

    @property
    def is_ready(self) -> bool:
        """Return whether all roles work and there is no audit alarm."""
        return bool(self.running) and all(reason.source == "audit" for reason in state.readiness(self))


async def _any_of(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for waiter in waiting:
        waiter.cancel()


def _error_text(error: BaseException) -> str:
    """Return the text of an error; of a group, that of its first error."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__
