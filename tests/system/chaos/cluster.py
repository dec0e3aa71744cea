"""Three nats-servers that make one cluster, each in a network namespace of its own, so that they can be parted.

The run puts itself into a fresh network, mount and PID namespace first (`isolate`): whatever happens to it, no
namespace, address, rule or process is left behind, and no packet leaves it.  Where the machine does not allow that the
three stand on loopback: they can be killed then, but not parted, and `parts` is false.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Any, Final, Self

from harness import SCRIPTS, free_port, until

if TYPE_CHECKING:
    from pathlib import Path

INSIDE: Final = "CHAOS_INSIDE"
BRIDGE: Final = "chaosbr"
SIZE: Final = 3
_UNSHARE = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_PREPARE = "mount -t tmpfs tmpfs /run && mkdir -p /run/netns && ip link set lo up"


def _command() -> list[str]:
    return [*_UNSHARE, *(() if os.geteuid() == 0 else ("--map-root-user",))]


def may_isolate() -> bool:
    """Return whether this machine lets us have namespaces of our own."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    script = f"{_PREPARE} && ip netns add try && ip link add {BRIDGE} type bridge"
    done = subprocess.run([*_command(), "sh", "-c", script], capture_output=True, check=False)
    return done.returncode == 0


def isolate() -> None:
    """Run the same command in its own namespaces, where that is allowed; all its processes end with it."""
    if not os.environ.get(INSIDE) and may_isolate():
        inner = ["sh", "-c", f'{_PREPARE} && exec "$@"', "sh", sys.executable, *sys.argv]
        os.execvpe(_UNSHARE[0], [*_command(), *inner], os.environ | {INSIDE: "1"})  # noqa: S606 - no shell is wanted


def _run(*command: str, check: bool = True) -> None:
    subprocess.run(command, check=check, capture_output=True)


class Node:
    """One nats-server of the cluster; restarts keep its data."""

    def __init__(self, directory: Path, number: int, *, parted: bool) -> None:
        """Return its place: in a namespace `chaos<pid>-<number>`, or on loopback."""
        self.name = f"n{number}"
        self.directory = directory / self.name
        self.directory.mkdir(parents=True)
        self.namespace = f"chaos{os.getpid()}-{number}" if parted else ""
        self.address = f"10.66.0.{10 + number}" if parted else "127.0.0.1"
        ports = (4222, 8222, 6222) if parted else (free_port(), free_port(), free_port())
        self.port, self.monitor, self.route = ports
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"nats://{self.address}:{self.port}"

    @property
    def lives(self) -> bool:
        """Return whether its process runs."""
        return self.process is not None and self.process.poll() is None

    def configure(self, nodes: list[Node]) -> None:
        """Write its configuration."""
        routes = ", ".join(f'"nats://{node.address}:{node.route}"' for node in nodes)
        cluster = f'cluster {{ name: chaos, listen: "{self.address}:{self.route}", routes: [{routes}] }}\n'
        (self.directory / "nats.conf").write_text(
            f'server_name: {self.name}\nlisten: "{self.address}:{self.port}"\n'
            f'http: "{self.address}:{self.monitor}"\njetstream {{ store_dir: "{self.directory / "js"}" }}\n'
            + (cluster if len(nodes) > 1 else "")
        )

    def settle_in(self) -> None:
        """Make its namespace, joined to the bridge."""
        number = self.name.removeprefix("n")
        _run("ip", "netns", "add", self.namespace)
        _run("ip", "link", "add", f"cv{number}", "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        _run("ip", "link", "set", f"cv{number}", "master", BRIDGE, "up")
        for command in (f"addr add {self.address}/24 dev eth0", "link set eth0 up", "link set lo up"):
            _run("ip", "-n", self.namespace, *command.split())

    def start(self) -> None:
        """Start its process."""
        prefix = ["ip", "netns", "exec", self.namespace] if self.namespace else []
        with (self.directory / "log").open("ab") as log:
            command = [*prefix, str(SCRIPTS / "nats-server"), "-c", str(self.directory / "nats.conf")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self) -> None:
        """End it as a power switch would end the process."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def ask(self, path: str) -> Any:
        """Read from its monitoring port; None if it does not answer."""
        try:
            with urllib.request.urlopen(f"http://{self.address}:{self.monitor}{path}", timeout=2) as answer:
                return json.load(answer)
        except OSError:
            return None


class Cluster:
    """Three nats-servers that replicate, or one alone."""

    def __init__(self, directory: Path, size: int = SIZE) -> None:
        """Lay them out; nothing runs yet."""
        self.parts = bool(os.environ.get(INSIDE)) and size > 1
        self.nodes = [Node(directory, number, parted=self.parts) for number in range(1, size + 1)]
        self.apart: set[int] = set()

    @property
    def urls(self) -> list[str]:
        """Where clients find them."""
        return [node.url for node in self.nodes]

    def __enter__(self) -> Self:
        """Start them, and wait until each says that it is healthy."""
        if self.parts:
            _run("ip", "link", "add", BRIDGE, "type", "bridge")
            _run("ip", "addr", "add", "10.66.0.1/24", "dev", BRIDGE)
            _run("ip", "link", "set", BRIDGE, "up")
        for node in self.nodes:
            if self.parts:
                node.settle_in()
            node.configure(self.nodes)
            node.start()
        for node in self.nodes:
            until(lambda node=node: (node.ask("/healthz") or {}).get("status") == "ok", f"{node.name} healthy", 60)  # type: ignore[misc]
        return self

    def __exit__(self, *_: object) -> None:
        """Stop them, and take away what was made."""
        for node in self.nodes:
            if node.lives:
                node.kill()
            if self.parts:
                _run("ip", "netns", "delete", node.namespace, check=False)
        if self.parts:
            _run("ip", "link", "delete", BRIDGE, check=False)

    def part(self, number: int) -> None:
        """Let one of them reach no other, nor be reached; its clients go on reaching it."""
        node = self.nodes[number]
        others = [item.address for item in self.nodes if item is not node]
        if shutil.which("nft"):
            rules = "".join(
                f"chain {hook} {{ type filter hook {hook} priority 0; ip {which} {{ {', '.join(others)} }} drop; }}\n"
                for hook, which in (("input", "saddr"), ("output", "daddr"))
            )
            _run("ip", "netns", "exec", node.namespace, "nft", f"table inet chaos {{\n{rules}}}")
        else:
            for other in others:
                _run("ip", "-n", node.namespace, "route", "add", "blackhole", f"{other}/32")
        self.apart.add(number)

    def heal(self) -> None:
        """Let all of them reach each other again."""
        for number in self.apart:
            node = self.nodes[number]
            if shutil.which("nft"):
                _run("ip", "netns", "exec", node.namespace, "nft", "delete table inet chaos")
            else:
                for item in self.nodes:
                    if item is not node:
                        _run("ip", "-n", node.namespace, "route", "delete", "blackhole", f"{item.address}/32")
        self.apart.clear()

    def leader(self, of: str) -> int:
        """Return which of them leads JetStream (`meta`) or the stream `of`; the first if it is unknown."""
        for node in self.nodes:
            reply = node.ask("/jsz?accounts=true&streams=true") if node.lives else None
            if not reply:
                continue
            name = (reply.get("meta_cluster") or {}).get("leader", "")
            for account in reply.get("account_details") or []:
                for stream in account.get("stream_detail") or []:
                    if stream["name"] == of:
                        name = (stream.get("cluster") or {}).get("leader", "")
            found = [number for number, item in enumerate(self.nodes) if item.name == name]
            if found:
                return found[0]
        return 0
