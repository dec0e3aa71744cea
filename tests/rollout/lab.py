"""Debian nodes with a real systemd as process 1, on a private network, in namespaces that this process made.

The lab's namespaces (mounts, network, processes) have one process that holds them: when it is killed, every node ends
with it and nothing stays mounted.  The test itself enters the lab's network, so that it reaches the nodes at their
addresses; on other machines and in other tests nothing can be seen of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

CLONE_NEWNET = 0x4000_0000
CONTROL = "10.99.0.1"
"""The address of the test, and of what it runs for the nodes."""
CONTROLLERS = ("memory", "pids", "cpu", "cpuacct", "blkio")
BOOT = 60.0
"""Seconds that a node may take to boot on a busy machine."""
CLEAN = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}


def until(found: Callable[[], object], what: str, seconds: float = BOOT, pause: float = 0.2) -> None:
    """Wait until `found` returns something true; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not found():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds:.0f} s")
        time.sleep(pause)


def children(pid: int) -> list[int]:
    """Return the processes that a process started."""
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


class Node:
    """One node of the lab."""

    def __init__(self, lab: Lab, number: int) -> None:
        """Name it; nothing runs before `boot`."""
        self.lab = lab
        self.name = f"pve{number}"
        self.address = f"10.99.0.{10 + number}"
        self.root = lab.inside / self.name / "root"
        self.process: subprocess.Popen[bytes] | None = None
        self._cgroups = cgroups(f"agentd-lab-{os.getpid()}-{self.name}")

    # -- life ---------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Connect it to the lab's network, and give it a root of its own above the shared one."""
        name, place = self.name, self.lab.place / self.name
        self.lab.run(
            f"""ip netns add {name}; ip -n {name} link set lo up
            ip link add v{name} type veth peer name eth0 netns {name}; ip link set v{name} master lab up
            ip -n {name} addr add {self.address}/24 dev eth0; ip -n {name} link set eth0 up
            mkdir -p {place}/upper {place}/work {place}/root
            mount -t overlay -o lowerdir={self.lab.base},upperdir={place}/upper,workdir={place}/work none {place}/root
            mkdir -p -m 700 {place}/root/root/.ssh"""
        )
        (self.root / "etc/hostname").write_text(f"{name}\n")
        names = "".join(f"{node.address} {node.name}\n" for node in self.lab.nodes)
        (self.root / "etc/hosts").write_text(f"127.0.0.1 localhost\n{CONTROL} control\n{names}")
        (self.root / "root/.ssh/authorized_keys").write_text(self.lab.key.with_suffix(".pub").read_text())

    def boot(self) -> None:
        """Start it, and wait until it has booted and answers ssh."""
        for place in self._cgroups:
            make_cgroup(place)
        enter = "".join(f"echo $$ > {place}/cgroup.procs; " for place in self._cgroups)
        options = (
            "--quiet -b --register=no --keep-unit --settings=no --resolv-conf=off --timezone=off --link-journal=no"
        )
        # bpf: nspawn's own filter would drop what systemd needs to enforce IPAddressDeny=.
        command = (
            f"{enter} exec systemd-nspawn {options} --console=read-only --system-call-filter=bpf -M {self.name} "
            f"--hostname={self.name} -D {self.lab.place / self.name / 'root'} "
            f"--network-namespace-path=/run/netns/{self.name}"
        )
        with (self.lab.directory / f"{self.name}.log").open("ab") as log:
            self.process = self.lab.start(command, log)
        until(self._booted, f"{self.name} has booted ({log.name})")
        # The hierarchies of version 1 are mounted read-only by nspawn: MemoryMax= would be ignored without a word.
        remount = "; ".join(
            f"mount -o remount,bind,rw,nosuid,nodev,noexec /sys/fs/cgroup/{name} 2>/dev/null" for name in CONTROLLERS
        )
        self.run(f"{remount}; systemctl daemon-reexec")
        until(lambda: self.lab.ssh(self, "true").returncode == 0, f"{self.name} answers ssh")

    def _booted(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.lab.directory / f"{self.name}.log").read_text(errors="replace")[-500:]
        return bool(self.leader) and self.run("systemctl is-system-running").stdout.strip() in {"running", "degraded"}

    @property
    def leader(self) -> int:
        """Return the process id of its systemd, 0 if it does not run."""
        found = children(self.process.pid) if self.process else []  # nsenter > systemd-nspawn > systemd
        found = children(found[0]) if found else []
        return found[0] if found else 0

    def power_loss(self) -> None:
        """End every process of the node at once, as if the power failed."""
        os.kill(self.leader, signal.SIGKILL)
        assert self.process is not None
        self.process.wait(BOOT)

    def cut(self) -> None:
        """Take it off the network."""
        self.lab.run(f"ip link set v{self.name} down")

    def heal(self) -> None:
        """Put it back on the network."""
        self.lab.run(f"ip link set v{self.name} up")

    # -- in the node --------------------------------------------------------------------------------------------------

    def run(self, command: str, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a shell command in the node, not over its network."""
        enter = ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C", "--", "/bin/sh", "-c", command]
        return subprocess.run(enter, env=CLEAN, capture_output=True, text=True, timeout=seconds, check=False)

    def output(self, command: str, seconds: float = 60.0) -> str:
        """Return what a command prints; it must succeed."""
        done = self.run(command, seconds)
        assert done.returncode == 0, f"{self.name}: {command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout.strip()

    def show(self, unit: str, key: str) -> str:
        """Return a property of a unit."""
        return self.output(f"systemctl show --value -p {key} {unit}")


class Lab:
    """The nodes pve1, pve2, … and their network."""

    def __init__(self, directory: Path, base: Path, count: int, environment: dict[str, str]) -> None:
        """Keep what to make; `base` is the root that all nodes share, `environment` finds systemd-nspawn."""
        self.directory = directory
        self.base = base
        self.environment = environment
        self.place = Path("/run/agentd-lab")
        self.key = directory / "id"
        self.count = count
        self.holder: subprocess.Popen[bytes] | None = None
        self.pid = 0
        self.nodes: list[Node] = []
        self.added: list[Node] = []
        self._outside = -1

    @property
    def inside(self) -> Path:
        """Return the lab's directory, as this process reaches it."""
        return Path(f"/proc/{self.pid}/root{self.place}")

    def __enter__(self) -> Self:
        """Make the network, enter it, and boot every node."""
        hold = ["unshare", "--mount", "--propagation", "private", "--net", "--pid", "--fork", "--kill-child"]
        self.holder = subprocess.Popen([*hold, "--mount-proc", "sleep", "infinity"])
        try:
            self._make()
        except BaseException:
            self.stop()
            raise
        return self

    def _make(self) -> None:
        assert self.holder is not None
        holder = self.holder.pid
        until(lambda: children(holder), "the namespaces of the lab")
        self.pid = children(holder)[0]
        until(lambda: Path(f"/proc/{self.pid}/comm").read_text() == "sleep\n", "the process that holds them")
        subprocess.run(["/usr/bin/ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
        self.run(
            f"""mkdir -p /run/netns {self.place}; mount -t tmpfs tmpfs /run/netns; mount -t tmpfs tmpfs {self.place}
            ip link set lo up; ip link add lab type bridge; ip addr add {CONTROL}/24 dev lab; ip link set lab up"""
        )
        self._outside = os.open("/proc/self/ns/net", os.O_RDONLY)
        inside = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
        _enter_network(inside)
        os.close(inside)
        self.nodes = [Node(self, number) for number in range(1, self.count + 1)]
        for node in self.nodes:
            node.prepare()
        for node in self.nodes:
            node.boot()

    def add(self) -> Node:
        """Boot one more node, which is not one of `nodes`."""
        node = Node(self, len(self.nodes) + len(self.added) + 1)
        self.added.append(node)
        node.prepare()
        node.boot()
        return node

    def stop(self) -> None:
        """End every node, and leave nothing behind."""
        assert self.holder is not None
        self.holder.kill()
        self.holder.wait()
        if self._outside >= 0:
            _enter_network(self._outside)
            os.close(self._outside)
        for node in (*self.nodes, *self.added):
            if node.process:
                node.process.wait(BOOT)
            for place in node._cgroups:  # noqa: SLF001 - two classes of one file
                remove_cgroup(place)

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def start(self, command: str, log: BinaryIO) -> subprocess.Popen[bytes]:
        """Start a shell command in the lab's namespaces; its standard output goes to `log`."""
        enter = ["nsenter", "-t", str(self.pid), "-m", "-n", "-p", "--", "/bin/sh", "-ec", command]
        return subprocess.Popen(
            enter, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )

    def run(self, command: str) -> str:
        """Run shell commands in the lab's namespaces; they must succeed."""
        enter = ["nsenter", "-t", str(self.pid), "-m", "-n", "-p", "--", "/bin/sh", "-ec", command]
        done = subprocess.run(enter, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        return done.stdout

    def ssh(self, node: Node, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on a node over ssh."""
        options = ["-i", str(self.key), *(f"-o{option}" for option in SSH_OPTIONS)]
        return subprocess.run(
            ["/usr/bin/ssh", *options, f"root@{node.address}", command],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )


SSH_OPTIONS = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=5")


def _enter_network(handle: int) -> None:
    """Let this thread, and what it starts, use another network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(handle, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def cgroups(name: str) -> list[Path]:
    """Return the cgroup of this name in every hierarchy, below those that this process is in."""
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        first = controllers.removeprefix("name=").split(",")[0]
        mounted = Path("/sys/fs/cgroup", first or "unified")
        if not first and not mounted.is_dir():
            mounted = Path("/sys/fs/cgroup")
        if (mounted / path.lstrip("/") / "cgroup.procs").exists():
            found.append(mounted / path.lstrip("/") / name)
    return found


def make_cgroup(place: Path) -> None:
    """Create a cgroup; a cpuset takes no process before it has processors and memory."""
    place.mkdir(exist_ok=True)
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (place / name).exists() and (place.parent / name).exists() and "cpuset" in place.parts:
            (place / name).write_text((place.parent / name).read_text())


def remove_cgroup(place: Path) -> None:
    """Remove a cgroup with those below it."""
    for below in sorted(place.rglob("*"), reverse=True):
        if below.is_dir():
            _remove(below)
    _remove(place)


def _remove(place: Path) -> None:
    for _ in range(20):
        try:
            place.rmdir()
        except FileNotFoundError:
            return
        except OSError:  # its last process is not gone yet
            time.sleep(0.1)
        else:
            return
