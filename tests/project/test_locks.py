"""The locks alone decide what is installed: a later release of any package changes nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = {
    "VENV": ("test.stamp", ("requirements/build.txt", "requirements/agentd.txt", "requirements/test.txt")),
    "PVE": ("pve.stamp", ("tests/pve/requirements.txt",)),
    "LINT": ("lint.stamp", ("requirements/build.txt", "requirements/lint.txt")),
    "ANSIBLE": ("ansible.stamp", ("requirements/ansible.txt",)),
    "LOCK": ("lock.stamp", ("requirements/lock.txt",)),
}
"""Of each environment of the Makefile: its variable, the stamp that ends its installation, its locks."""
PIP = (sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check", "--no-input")
_PIN = re.compile(r"^([A-Za-z0-9._-]+)(\[[a-z,]+\])?==([^ ;\\]+)", re.MULTILINE)


def _locked(locks: tuple[str, ...]) -> dict[str, str]:
    """Return the version of each package that the locks name."""
    texts = [(ROOT / lock).read_text(encoding="utf-8") for lock in locks]
    return {_plain(name): version for text in texts for name, _, version in _PIN.findall(text)}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _download(lock: str, folder: Path) -> None:
    """Put everything that a lock names into `folder`, from the package index; skip where there is none."""
    source = ("--only-binary", ":all:", "--no-binary", "nkeys,forbiddenfruit", "--no-build-isolation")
    command = [*PIP, "download", "--no-deps", "--require-hashes", *source, "-d", str(folder), "-r", str(ROOT / lock)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "NewConnectionError" in done.stderr or "Name or service not known" in done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr


def _later_release(name: str, folder: Path) -> None:
    """Put a wheel of version 9999 of the package `name` into `folder`."""
    file = name.replace("-", "_")
    info = f"{file}-9999.dist-info"
    with zipfile.ZipFile(folder / f"{file}-9999-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 9999\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("variable", ENVIRONMENTS)
def test_a_later_release_is_not_installed(variable: str, tmp_path: Path) -> None:
    """With a newer version of every package at hand, each environment still gets exactly what its locks name."""
    stamp, locks = ENVIRONMENTS[variable]
    folder, venv = tmp_path / "packages", tmp_path / "venv"
    folder.mkdir()
    for lock in locks:
        _download(lock, folder)
    locked = _locked(locks)
    for name in locked:
        _later_release(name, folder)
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": os.devnull}
    python = f"PYTHON={sys.executable}", f"PVE_PYTHON={sys.executable}"
    command = ["make", "--no-print-directory", f"{variable}={venv}", *python, f"{venv}/{stamp}"]
    made = subprocess.run(command, cwd=ROOT, env=os.environ | offline, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    listed = subprocess.run(
        [venv / "bin" / "python", "-m", "pip", "list", "--format", "json"], capture_output=True, text=True, check=True
    )
    installed = {_plain(found["name"]): found["version"] for found in json.loads(listed.stdout)}

    installed.pop("pip")
    ours = installed if "setuptools" in locked else {key: installed[key] for key in installed if key != "setuptools"}
    assert ours
    assert ours == {name: locked.get(name) for name in ours}


def test_locks_name_every_extra() -> None:
    """A package that is needed with an extra is locked with it: no installer takes it for another one."""
    texts = "".join((ROOT / lock).read_text(encoding="utf-8") for _, locks in ENVIRONMENTS.values() for lock in locks)

    assert "coverage[toml]==" in texts
    assert "fakepve[crypto]==" in texts


def test_every_install_from_a_lock_is_by_hash_alone() -> None:
    """No command of the project installs from a lock in another way than whole, by hash, from wheels."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    installs = [line for line in makefile.splitlines() if re.search(r"\$\(LOCKED\)|pip install", line)]
    from_locks = [line for line in installs if ".txt" in line or "-r $<" in line]

    assert "LOCKED := -m pip install $(QUIET) --no-deps --require-hashes --only-binary :all:" in makefile
    assert from_locks
    assert all("$(LOCKED)" in line for line in from_locks)
