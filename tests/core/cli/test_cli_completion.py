"""Completion in the shell, as bash asks for it, and the answers to wrong names of commands, ids and agents."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from harness import SCRIPTS

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Net

SLOW = {"nats", "pydantic", "uvloop", "rich"}
"""Packages that need long to import, and that the completion of commands does not need."""


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, with agentd on its PATH."""
    path = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=os.environ | {"PATH": path} | environment
    )


def completed(line: str, **environment: str) -> list[str]:
    """Return what bash offers for this line."""
    words = line.split(" ")
    script = (
        'eval "$(agentd completion bash)"\n'
        f"COMP_WORDS=({' '.join(map(shlex.quote, words))}) COMP_CWORD={len(words) - 1}\n"
        '_agentd_completion agentd\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = run("bash", "--norc", "-c", script, **environment)

    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_commands_and_local_names(tmp_path: Path) -> None:
    """Commands, options, codes, workflow types, instances and schedules are completed without NATS."""
    file = tmp_path / "agentd.toml"
    file.write_text(
        '[bus]\nservers = ["nats://127.0.0.1:1"]\n[instances.left]\nroles = ["monitor"]\n'
        '[schedules.nightly]\nworkflow = "health_check"\ncron = "30 2 * * *"\n'
    )
    here = {"AGENTD_CONFIG": str(file)}

    assert completed("agentd wo", **here) == ["workflows"]
    assert completed("agentd workflows ch", **here) == ["check"]
    assert completed("agentd submit --dry", **here) == ["--dry-run"]
    assert completed("agentd explain no_", **here) == ["no_quorum", "no_responder"]
    assert completed("agentd submit health", **here) == ["health_check"]
    assert completed("agentd run le", **here) == ["left"]
    assert completed("agentd schedules run n", **here) == ["nightly"]
    assert completed(f"agentd --config {file} run le", AGENTD_CONFIG="/nowhere") == ["left"]


def test_silent_without_nats(tmp_path: Path) -> None:
    """Without NATS, or with a wrong configuration, nothing is offered and nothing is printed."""
    file = tmp_path / "agentd.toml"
    file.write_text('[bus]\nservers = ["nats://127.0.0.1:1"]\n')

    assert completed("agentd call list_", AGENTD_CONFIG=str(file)) == []
    assert completed("agentd show w", AGENTD_CONFIG=str(tmp_path / "missing.toml")) == []


def test_commands_import_little() -> None:
    """The completion of a command imports none of the packages that need long: each press of the key starts agentd."""
    command = [sys.executable, "-X", "importtime", str(SCRIPTS / "agentd")]
    done = run(*command, COMP_WORDS="agentd su", COMP_CWORD="1", _AGENTD_COMPLETE="bash_complete")
    imported = set(re.findall(r"\| +(\S+)$", done.stderr, re.MULTILINE))

    assert done.stdout == "plain,submit\n"
    assert "agentd.cli.main" in imported
    assert imported & SLOW == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script(shell: str) -> None:
    """The script for each shell calls agentd, and the shell (if it is installed) accepts it."""
    done = run("agentd", "completion", shell)

    assert f"_AGENTD_COMPLETE={shell}_complete" in done.stdout
    assert done.returncode == 0
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=done.stdout, text=True, check=False).returncode == 0


def test_unknown_shell() -> None:
    """An unknown shell is named in one line with the known ones, before the usage."""
    done = run("agentd", "completion", "csh")

    assert done.stderr.splitlines()[0] == (
        "agentd: Invalid value for '{bash|zsh|fish}': 'csh' is not one of 'bash', 'zsh', 'fish'."
    )
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["submitt"], ["agentd: there is no command 'submitt'; did you mean submit?"]),
        (["qqq"], ["agentd: there is no command 'qqq'; `agentd --help` lists them"]),
        (["workflows", "chk"], ["agentd: there is no command 'chk'; did you mean check?"]),
        (["config", "qqq"], ["agentd: there is no command 'qqq'; there are check, show"]),
        (["schedules", "rn"], ["agentd: there is no command 'rn'; did you mean run?"]),
        (["audit", "verif"], ["agentd: there is no command 'verif'; did you mean verify?"]),
        (["dead-letters", "lst"], ["agentd: there is no command 'lst'; did you mean list?"]),
        (
            ["submit"],
            [
                "agentd: Missing argument 'TYPE'.",
                "Usage: agentd submit [OPTIONS] TYPE [KEY=VALUE]...",
                "`agentd submit --help` explains it",
            ],
        ),
    ],
)
def test_wrong_usage(words: list[str], lines: list[str]) -> None:
    """A wrong command or argument is explained in the first line, with at most three similar names; exit code 2."""
    done = run("agentd", *words)

    assert done.stderr.splitlines() == lines
    assert (done.stdout, done.returncode) == ("", 2)


def test_config_show_as_json(tmp_path: Path) -> None:
    """`config show --json` is JSON with the origin of each value, before and after the command, and hides secrets."""
    file = tmp_path / "agentd.toml"
    file.write_text('[bus]\nservers = ["nats://user:secret@127.0.0.1:1"]\n')
    after = run("agentd", "config", "show", "--json", AGENTD_CONFIG=str(file))
    found = json.loads(after.stdout)

    assert run("agentd", "--json", "config", "show", AGENTD_CONFIG=str(file)).stdout == after.stdout
    assert found["settings"]["bus"]["servers"] == ["nats://***@127.0.0.1:1"]
    assert found["origins"]["bus.servers"].endswith("agentd.toml")
    assert "secret" not in after.stdout


async def test_names_of_the_network(net: Net) -> None:
    """Tools, workflow ids and agents come from the network; a wrong id, agent or schedule gets the nearest names."""
    here = {"AGENTD_CONFIG": str(net.config_file())}
    run("agentd", "provision", **here)
    run("agentd", "submit", "health_check", "--id", "morning-1", **here)
    with net.daemon("all", ("orchestrator", "specialist", "monitor", "mcp-bridge")):
        run("agentd", "watch", "morning-1", **here)

        assert completed("agentd call list_nod", **here) == ["list_node_disks", "list_nodes"]
        assert completed("agentd tools get_guest_c", **here) == ["get_guest_config"]
        assert completed("agentd show morn", **here) == ["morning-1"]
        assert completed("agentd drain ", **here) == ["all-pve1"]
        errors = [
            run("agentd", *words, **here).stderr.splitlines()[-1]
            for words in (
                ["show", "mornin-1"],
                ["watch", "mornin-1"],
                ["cancel", "mornin-1"],
                ["show", "q"],
                ["drain", "al-pve1"],
            )
        ]

    assert errors == [
        *["agentd: there is no workflow 'mornin-1'; did you mean morning-1?"] * 3,
        "agentd: there is no workflow 'q'; `agentd workflows` lists them",
        "agentd: there is no running agent 'al-pve1'; did you mean all-pve1?",
    ]
