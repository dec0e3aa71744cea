"""What tests stand on: a real nats-server, daemons in this process or in their own, a client.

with NatsServer(tmp_path) as nats: ...
net = Net(tmp_path, nats.url, pve)          # configuration of every instance of a test
async with net.client() as bus: ...         # a provisioned connection
async with net.here("all", roles=[...]): …  # a Supervisor in this loop
with net.daemon("worker", roles=[...]) as daemon: daemon.ready(); daemon.kill()   # `agentd run worker`
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sysconfig
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from agentd.bus.jetstream import Bus
from agentd.bus.setup import permissions, provision
from agentd.config import load
from agentd.daemon.supervisor import Supervisor
from agentd.errors import ConfigError
from agentd.plugins import bus_users, manager
from agentd.safety.signing import Signer
from agentd.telemetry import logs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from agentd.bus.setup.permissions import User
    from pve.client import FakePve

T = TypeVar("T")

ALL_ROLES = ("orchestrator", "specialist", "monitor", "mcp-bridge")
"""The roles of agentd; test_packages.py compares them with what is installed."""
SCRIPTS = Path(sysconfig.get_path("scripts"))
NODES = ("pve1", "pve2", "pve3")
PRINCIPALS = ("tester", "alice", "bob", "boss", "olga", "oscar", "rita", "eve", "cron")
START = 20.0
"""Seconds that any process of a test may take to start on a busy machine."""


WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
PORTS = range(10_000 + WORKER % 8 * 2_500, 12_500 + WORKER % 8 * 2_500)
"""The ports of this worker, below those that the kernel gives to processes that ask for any (ip_local_port_range)."""
_ports = itertools.cycle(random.sample(PORTS, len(PORTS)))


def free_port() -> int:
    """Return a port that is free now, and is not taken before it is used."""
    for port in itertools.islice(_ports, len(PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def until(found: Callable[[], T | None], what: str, seconds: float = START) -> T:
    """Return what `found` returns once it is true; fails after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        result = found()
        if result:
            return result
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


async def eventually(found: Callable[[], Awaitable[T | None]], what: str, seconds: float = START) -> T:
    """Return what `found` returns once it is true; fails after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        result = await found()
        if result:
            return result
        await asyncio.sleep(0.02)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


SERVERS: dict[str, NatsServer] = {}
"""Every server by its URL."""
OPEN = """no_auth_user: test
authorization {{ users: [ {{ user: test, password: test }}
{users} ] }}
"""
"""Clients without a login are the test's own and may do everything; `users` have the permissions that agentd gives."""


class NatsServer:
    """A real nats-server on a free port of loopback, with its data in a directory; restarts keep both."""

    def __init__(self, directory: Path, *, extra: str = "", jetstream: str = "", scheme: str = "nats") -> None:
        """Use `data` as its directory; `extra` is added to its configuration, `jetstream` to that of JetStream."""
        self.directory = directory / "nats"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.monitor = free_port()
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.extra = extra
        self.jetstream = jetstream
        self.process: subprocess.Popen[bytes] | None = None
        self.users = ""
        self.closed = any(word in extra for word in ("authorization", "accounts", "operator"))
        SERVERS[self.url] = self

    def start(self) -> Self:
        """Start it and wait until JetStream answers its health check."""
        config_file = self._configure()
        with (self.directory / "log").open("ab") as log:
            command = [str(SCRIPTS / "nats-server"), "-c", str(config_file)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        url, process = f"http://127.0.0.1:{self.monitor}/healthz", self.process
        until(lambda: _healthy(url) or process.poll() is not None, f"nats-server ({self.directory / 'log'})")
        assert process.poll() is None, (self.directory / "log").read_text(encoding="utf-8")[-500:]
        return self

    def _configure(self) -> Path:
        config_file = self.directory / "nats.conf"
        config_file.write_text(
            f'listen: "127.0.0.1:{self.port}"\nhttp: "127.0.0.1:{self.monitor}"\n'
            f'jetstream {{ store_dir: "{self.directory / "js"}"\n{self.jetstream} }}\n{self.extra}\n'
            + ("" if self.closed else OPEN.format(users=self.users))
        )
        return config_file

    def reload(self, extra: str) -> None:
        """Change the configuration of the running server (SIGHUP)."""
        assert self.process is not None
        self.extra = extra
        self.closed = self.closed or "authorization" in extra
        self._configure()
        self.process.send_signal(signal.SIGHUP)

    def admit(self, users: str) -> None:
        """Let exactly these users log in, and clients without a login; a server with users of its own keeps them."""
        if users == self.users or self.closed:
            return
        self.users = users
        if self.process is not None and self.process.poll() is None:
            log = self.directory / "log"
            before = log.read_bytes().count(b"Reloaded server configuration")
            self.reload(self.extra)
            until(
                lambda: log.read_bytes().count(b"Reloaded server configuration") > before, "nats-server has new users"
            )

    def kill(self) -> None:
        """End it as a power switch would end the process."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay, nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        threads = Path(f"/proc/{self.process.pid}/task")
        until(lambda: all(_is_stopped(path) for path in threads.iterdir()), "every thread of nats-server is stopped")

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stop it."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(10)

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()


def _is_stopped(thread: Path) -> bool:
    return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310 - loopback
            return bool(answer.status == 200)
    except OSError:
        return False


class Daemon:
    """One `agentd run NAME` in a process of its own, with blockbuster and coverage active in it."""

    def __init__(self, directory: Path, config_file: Path, name: str, environment: dict[str, str]) -> None:
        """Keep how to start it."""
        self.name = name
        self.log = directory / f"{name}.log"
        self.config_file = config_file
        self.environment = environment
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **more: str) -> Self:
        """Start it; `more` are further environment variables."""
        here = os.pathsep.join([str(Path(__file__).parent / "child"), os.environ.get("PYTHONPATH", "")]).rstrip(
            os.pathsep
        )
        environment = os.environ | {"AGENTD_TEST_BLOCKBUSTER": "1", "PYTHONPATH": here} | self.environment | more
        with self.log.open("ab") as log:
            command = [str(SCRIPTS / "agentd"), "--config", str(self.config_file), "run", self.name]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        return self

    def ready(self, seconds: float = START) -> Self:
        """Wait until it says that it is ready."""
        until(lambda: self.exit_code is not None or b'"ready"' in self.log.read_bytes(), f"{self.name} ready", seconds)
        assert self.exit_code is None, self.log.read_text()
        return self

    @property
    def exit_code(self) -> int | None:
        """Return the exit code, None while it runs."""
        assert self.process is not None
        return self.process.poll()

    def signal(self, number: int) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self, seconds: float = START) -> int:
        """Wait for its end; return the exit code."""
        assert self.process is not None
        return self.process.wait(seconds)

    def stop(self) -> None:
        """SIGTERM, and wait; a daemon that does not go within the drain time is a failure."""
        if self.process is not None and self.exit_code is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            self.wait(45)

    def __enter__(self) -> Self:
        """Start, and wait until it is ready."""
        try:
            return self.start().ready()
        except BaseException:
            self.kill()
            raise

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()


class Net:
    """The configuration that all instances of a test share, and ways to run them."""

    def __init__(self, directory: Path, nats_url: str, pve: FakePve | None = None, *, exact: bool = False) -> None:
        """Keep where NATS and Proxmox are.

        exact  daemons and commands have the permissions of `agentd permissions`; the test's own clients have all
        """
        self.directory = directory
        self.nats_url = nats_url
        self.pve = pve
        self.exact = exact
        self._admitted = ""
        self.settings: dict[str, Any] = {
            "node": {"name": "pve1", "state_dir": str(directory / "state")},
            "bus": {"servers": [nats_url]},
            "policy": {"default_tier": "operate"},
            "web": {"port": 0},
            "log": {"format": "json", "level": "debug"},
            "client": {"principal": "tester"},
            "instances": {"all": {"roles": list(ALL_ROLES)}},
        }
        if exact:
            self.settings["bus"]["nkey_dir"] = str(directory / "keys")
        if pve is not None:
            self.use_token("full")

    def use_token(self, name: str) -> None:
        """Let the daemons connect to Proxmox with this token of the simulator."""
        assert self.pve is not None
        token_id, _, secret = self.pve.tokens[name].partition("=")
        file = self.directory / f"token-{name}"
        file.write_text(secret)
        self.settings["proxmox"] = {
            "url": self.pve.url,
            "token_id": token_id,
            "token_file": str(file),
            "ca_file": str(self.pve.ca),
        }

    def config_file(self) -> Path:
        """Write the configuration as it is now; return its path."""
        file = self.directory / "agentd.toml"
        text = _toml(self.settings)
        file.write_text(text)
        if self.exact and text != self._admitted:
            self._admitted = text
            with ThreadPoolExecutor(1) as pool, contextlib.suppress(ConfigError):  # of a test of what is refused
                pool.submit(self._admit, file).result()  # not on the event loop, which agentd's code may not block
        return file

    def _admit(self, file: Path) -> None:
        """Let NATS know the users of this configuration, as agents of any node of the simulator."""
        config, keys = load.load(file, {}, manager.installed()), self.directory / "keys"
        users: dict[str, User] = {}
        keys.mkdir(mode=0o700, exist_ok=True)
        for node in {config.node.name, *NODES}:
            there = config.model_copy(update={"node": config.node.model_copy(update={"name": node})})
            users |= {user.name: user for user in bus_users.every_user(there, tuple(config.instances))}
        users |= {name: permissions.principal(name) for name in PRINCIPALS if name not in users}
        for name in users:
            (keys / f"{name}.nk").write_text(_key(name).seed)
            (keys / f"{name}.nk").chmod(0o600)
        text = permissions.nats_conf((user, _key(name).public) for name, user in sorted(users.items()))
        SERVERS[self.nats_url].admit(text.removeprefix("users: [").rstrip().removesuffix("]"))

    def config(self) -> load.Config:
        """Return the configuration as a daemon would read it."""
        return load.load(self.config_file(), {}, manager.installed())

    def daemon(self, name: str, roles: tuple[str, ...] = (), **environment: str) -> Daemon:
        """Return the daemon `agentd run NAME`, not started yet."""
        self.settings["instances"].setdefault(name, {"roles": list(roles) or [name]})
        return Daemon(self.directory, self.config_file(), name, environment)

    @contextlib.asynccontextmanager
    async def client(self, name: str = "client") -> AsyncIterator[Bus]:
        """Yield a connection on which everything is provisioned."""
        settings = await asyncio.to_thread(self.config)
        bus = Bus(settings.bus.model_copy(update={"nkey_dir": None}), name, logs.get_logger())
        await bus.connect(wait=START)
        try:
            await provision.provision(bus, await asyncio.to_thread(lambda: manager.every_plugin(settings).services()))
            yield bus
        finally:
            await bus.close()

    @contextlib.asynccontextmanager
    async def here(self, name: str = "all") -> AsyncIterator[Supervisor]:
        """Yield a running Supervisor in this loop, ready; at the end it must stop with code 0."""
        supervisor = await asyncio.to_thread(lambda: Supervisor(self.config(), name, reload=self.config))
        running = asyncio.create_task(supervisor.run())

        async def ready() -> bool:
            if running.done():
                await running
            return supervisor.is_ready

        try:
            await eventually(ready, f"{name} ready")
            yield supervisor
        finally:
            supervisor.stop()
            code = await running
        assert code == 0


@functools.cache
def _key(user: str) -> Signer:
    """Return the NKey of a user, the same in all tests."""
    del user
    return Signer.new()


def _toml(value: dict[str, Any], at: str = "") -> str:
    """Return nested tables as TOML."""
    plain = "".join(f"{key} = {json.dumps(item)}\n" for key, item in value.items() if not isinstance(item, dict))
    tables = "".join(
        f"\n[{at}{key}]\n{_toml(item, f'{at}{key}.')}" for key, item in value.items() if isinstance(item, dict)
    )
    return plain + tables
