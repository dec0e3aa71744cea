"""Build the wheelhouse: one tar with everything that a node installs: wheels, units, scripts.

    python ansible/wheelhouse.py --output dist [--python 3.13]

Run it in an environment that has pip and the build backends of `requirements/build.txt`, such as the `.venv` of `make`.
The packages are those of the lock, checked by hash; the tar holds a lock of its own with the hash of each wheel.  The
name has the digest of the content: the same content has the same name, and a changed tar does not fit its name.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "agentd.txt"
SOURCE_ONLY = "nkeys"
"""Published as source only; it is pure Python, so its wheel fits every node."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
PIP = (sys.executable, "-m", "pip", "--quiet", "--quiet", "--disable-pip-version-check", "--no-input")
BUILD = ("--no-deps", "--no-build-isolation")
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"
DIGITS = 16
"""Length of the digest in the name."""


def main() -> None:
    """Build it and print its path."""
    parser = argparse.ArgumentParser(description="Build the wheelhouse for the nodes.")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="directory of the tar (default: dist)")
    parser.add_argument("--python", default=OWN, help=f"version of Python on the nodes (default: {OWN})")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        wheels = Path(scratch)
        collect(wheels, options.python)
        print(pack(wheels, options.python, options.output))


def collect(wheels: Path, python: str) -> None:
    """Put the wheel of agentd, and of every package of the lock, into `wheels`."""
    with tempfile.TemporaryDirectory() as scratch:
        lock, source = Path(scratch, "lock.txt"), Path(scratch, "source.txt")
        blocks = re.split(r"\n(?=\S)", LOCK.read_text(encoding="utf-8"))
        source.write_text("\n".join(block for block in blocks if block.startswith(f"{SOURCE_ONLY}==")))
        lock.write_text("\n".join(block for block in blocks if not block.startswith(f"{SOURCE_ONLY}==")))
        target = [] if python == OWN else ["--python-version", python, *(f"--platform={name}" for name in PLATFORMS)]
        folder = str(wheels)
        binary = ("--only-binary", ":all:", "--require-hashes", "--no-deps")
        run(*PIP, "download", *binary, *target, "-d", folder, "-r", str(lock))
        run(*PIP, "wheel", *BUILD, "--require-hashes", "--no-binary", SOURCE_ONLY, "-w", folder, "-r", str(source))
        run(*PIP, "wheel", *BUILD, "--no-index", "-w", folder, str(ROOT))


def pack(wheels: Path, python: str, output: Path) -> Path:
    """Write the tar; return its path."""
    found = sorted(wheels.glob("*.whl"))
    digests = {wheel: hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in found}
    lines = [f"{'=='.join(wheel.name.split('-')[:2])} --hash=sha256:{digest}\n" for wheel, digest in digests.items()]
    version = next(wheel.name.split("-")[1] for wheel in found if wheel.name.startswith("agentd-"))
    manifest = {"version": version, "python": python}
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, "manifest.json", json.dumps(manifest).encode())
        _add(tar, "requirements.txt", "".join(lines).encode())
        for folder, prefix in ((ROOT / "ansible" / "release", ""), (ROOT / "systemd", "systemd/")):
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                _add(tar, f"{prefix}{file.relative_to(folder)}", file.read_bytes())
        for wheel in found:
            _add(tar, f"wheels/{wheel.name}", wheel.read_bytes())
    data = content.getvalue()
    output.mkdir(parents=True, exist_ok=True)
    place = output / f"agentd-{version}-py{python}-{hashlib.sha256(data).hexdigest()[:DIGITS]}.tar"
    beside = place.with_suffix(".part")
    beside.write_bytes(data)
    beside.rename(place)
    return place


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file without owner and time: the same content gives the same tar."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o644
    tar.addfile(entry, io.BytesIO(data))


def run(*command: str) -> None:
    """Run a command; what it prints as an error ends this program."""
    # Wheels that are built here have no times of now in them.
    environment = os.environ | {"SOURCE_DATE_EPOCH": "1577836800"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[1:5])} failed:\n{done.stderr.strip()[-2000:]}")


if __name__ == "__main__":
    main()
