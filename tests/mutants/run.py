"""Switches each safety answer off, one at a time, and demands that its test turns red.

    python tests/mutants/run.py [NAME…] [--jobs N]

NAME may be a pattern (`bus-*`).  The mutants are in the tables beside this file (table.py has their form).  The tree is
copied, the edits are made in the copy, and that one test is run against it, in child processes too.  Red means an
assertion or a time-out of the test, not code that does not import.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in {None, ""}:
    sys.path[0] = str(Path(__file__).parents[1])

from mutants import table

if TYPE_CHECKING:
    from mutants.table import Mutant

ROOT = Path(__file__).resolve().parents[2]
TREE = ("agentd", "plugins", "tests", "pyproject.toml")
LINKED = (".venv-pve", "node_modules")
LIMIT = 150
"""Seconds for one mutant."""
BROKEN_CODE = ("ImportError", "ModuleNotFoundError", "SyntaxError", "IndentationError", "NameError")


def judge(mutant: Mutant) -> tuple[bool, str]:
    """Run the mutant's test against a copy with its edits; return whether it was noticed, and how."""
    with tempfile.TemporaryDirectory(prefix=f"mutant-{mutant.name}-") as directory:
        copy = Path(directory) / "tree"
        _copy(copy)
        if mutant.patch:
            applied = _run(["git", "apply", "-p1", str(mutant.patch)], copy)
            if applied.returncode:
                return False, f"does not apply: {applied.stdout.strip().splitlines()[-1]}"
        try:
            for edit in mutant.edits:
                edit.apply(copy)
        except ValueError as error:
            return False, f"does not apply: {error}"
        where = _run([sys.executable, "-c", "import agentd; print(agentd.__file__)"], copy).stdout.strip()
        if not where.startswith(str(copy)):
            return False, f"the test would import {where}"
        return _test(mutant, copy)


def _copy(copy: Path) -> None:
    copy.mkdir()
    for name in TREE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".ruff_cache"))
        else:
            shutil.copy2(source, copy / name)
    for name in LINKED:
        if (ROOT / name).exists():
            (copy / name).symlink_to(ROOT / name)


def _run(command: list[str], copy: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that imports the copy, before anything that is installed."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(copy), str(copy / "plugins")]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "GIT_CEILING_DIRECTORIES": str(copy.parent),
        "AGENTD_FACTS": os.environ.get("AGENTD_FACTS", str(ROOT.parent / "shared")),
        "TMPDIR": str(copy.parent),
    }
    process = subprocess.Popen(
        command,
        cwd=copy,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=LIMIT)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # servers that a test left behind when its time was up
        process.wait()
    return subprocess.CompletedProcess(command, process.returncode, output)


def _test(mutant: Mutant, copy: Path) -> tuple[bool, str]:
    report = copy / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", mutant.red]
    try:
        done = _run(command, copy)
    except subprocess.TimeoutExpired:
        return True, f"not over after {LIMIT} s"
    if done.returncode == 0:
        return False, "SURVIVED: the test passes"
    if "++ Timeout ++" in done.stdout or "\nnot over after " in done.stdout:  # of conftest's bound
        return True, "time-out"
    if not report.exists():
        return False, f"no report: {(done.stdout.strip().splitlines() or ['nothing'])[-1]}"
    return _read(report)


def _read(report: Path) -> tuple[bool, str]:
    root = ET.parse(report).getroot()  # noqa: S314 - pytest has just written it
    failure = root.find(".//failure")
    if failure is None:
        return False, "the test was not run, or failed before it began"
    answer = next(iter(failure.get("message", "").splitlines()), "").strip()
    if answer.startswith(BROKEN_CODE):
        return False, f"the mutant does not run: {answer}"
    return True, answer


def main() -> int:
    """Judge the mutants that were named, or all; return 1 if one was not noticed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    mutants = list(table.read(Path(__file__).parent).values())
    for name in arguments.names:
        if not any(fnmatch(mutant.name, name) for mutant in mutants):
            parser.error(f"no mutant {name}")
    if arguments.names:
        mutants = [mutant for mutant in mutants if any(fnmatch(mutant.name, name) for name in arguments.names)]
    survivors = 0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for mutant, (noticed, how) in zip(mutants, pool.map(judge, mutants), strict=True):
            survivors += not noticed
            print(f"{'red  ' if noticed else 'ALIVE'}  {mutant.name:28} {mutant.breaks}", flush=True)  # noqa: T201
            print(f"       {'':28} {how[:140]}", flush=True)  # noqa: T201
    print(f"{len(mutants)} mutants, {survivors} not noticed")  # noqa: T201
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
