"""The root file system of the lab's nodes, and the programs that build and boot it.

Nothing is installed on this machine: Debian's packages are downloaded and unpacked into a cache, and the root is made
by mmdebstrap from the machine's own package sources.  The cache is keyed by what made it and by the week.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path

PACKAGES = ("systemd-container", "libsystemd-shared", "mmdebstrap", "prometheus")
"""What the tests need of Debian on this machine; unpacked, they need no upgrade of systemd itself."""
INSIDE = "systemd systemd-sysv dbus python3 python3-venv openssh-server iproute2 curl nftables procps ca-certificates"
"""What a node has before the playbook runs, beside Debian's essential packages."""
OPTIONS = (
    "--quiet",
    "--variant=minbase",
    "--mode=root",
    f"--include={INSIDE.replace(' ', ',')}",
    # The package lists may come from a mirror that is frozen in time.
    '--aptopt=Acquire::Check-Valid-Until "false"',
    '--aptopt=Acquire::Check-Date "false"',
    '--aptopt=APT::Install-Recommends "false"',
    *(f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("man", "doc", "locale")),
)
SSH_KEYS = """[Unit]
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
Before=ssh.service
[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A
[Install]
RequiredBy=ssh.service
"""
PERIODIC = ("apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer")


class Unavailable(Exception):
    """The lab cannot run here; the text says why."""


def cache() -> Path:
    """Return the directory that is kept between runs."""
    named = os.environ.get("AGENTD_ROLLOUT_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "agentd-rollout"


def tools() -> dict[str, str]:
    """Return an environment in which mmdebstrap and systemd-nspawn are found."""
    sources = Path("/etc/os-release").read_text()
    place = cache() / f"tools-{_key(sources, *PACKAGES)}"
    if not place.exists():
        _unpack(place)
    path = os.pathsep.join([str(place / "usr/bin"), os.environ["PATH"], "/usr/sbin:/sbin"])
    libraries = os.pathsep.join(str(found.parent) for found in place.rglob("libsystemd-shared*.so"))
    return {**os.environ, "PATH": path, "LD_LIBRARY_PATH": libraries, "LC_ALL": "C.UTF-8"}


def root(suite: str) -> Path:
    """Return the root of a node of this Debian release, making it if the cache has none of this week."""
    sources = _sources(suite)
    place = cache() / f"root-{suite}-{_key(sources, SSH_KEYS, *OPTIONS, *PERIODIC)}-{time.strftime('%G-%V')}"
    if place.exists():
        return place
    environment = tools()
    making = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        _run(["mmdebstrap", *OPTIONS, suite, str(making), "-"], environment, given=sources)
        _prepare(making)
        making.rename(place)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    for old in place.parent.glob(f"root-{suite}-*"):
        if old != place:
            shutil.rmtree(old, ignore_errors=True)
    return place


def _sources(suite: str) -> str:
    """Return this machine's package sources for another release of Debian."""
    own = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    file = Path("/etc/apt/sources.list.d/debian.sources")
    if own.get("ID") != "debian" or not file.exists():
        raise Unavailable("no package sources of Debian in /etc/apt/sources.list.d/debian.sources")
    return file.read_text().replace(own["VERSION_CODENAME"], suite)


def _unpack(place: Path) -> None:
    making = place.with_name(f".{place.name}.{os.getpid()}")
    making.mkdir(parents=True)
    try:
        if not list(Path("/var/lib/apt/lists").glob("*Packages*")):
            _run(["apt-get", "update", "-qq"], dict(os.environ))
        _run(["apt-get", "download", "-qq", *PACKAGES], dict(os.environ), at=making)
        for package in sorted(making.glob("*.deb")):
            _run(["dpkg", "-x", str(package), str(making)], dict(os.environ))
            package.unlink()
        making.rename(place)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _prepare(made: Path) -> None:
    """Remove what must differ from node to node, and what would run by itself."""
    (made / "etc/hostname").unlink(missing_ok=True)
    (made / "etc/machine-id").write_text("")
    for key in made.glob("etc/ssh/ssh_host_*"):
        key.unlink()
    units = made / "etc/systemd/system"
    for name in PERIODIC:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")
    (units / "sshkeys.service").write_text(SSH_KEYS)
    wanted = units / "ssh.service.requires"
    wanted.mkdir()
    (wanted / "sshkeys.service").symlink_to("../sshkeys.service")


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:10]


def _run(command: list[str], environment: dict[str, str], given: str = "", at: Path | None = None) -> None:
    done = subprocess.run(
        command, env=environment, cwd=at, input=given, capture_output=True, text=True, timeout=540, check=False
    )
    if done.returncode:
        raise Unavailable(f"{command[0]} failed: {done.stderr.strip()[-300:]}")
