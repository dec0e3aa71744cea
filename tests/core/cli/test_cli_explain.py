"""`agentd explain`: every error has an explanation."""

from __future__ import annotations

import json
import subprocess

import pytest

from agentd.cli.explain import EXITS, explanations
from agentd.errors import ALL, AgentdError
from harness import SCRIPTS


def agentd(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    command = [str(SCRIPTS / "agentd"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error(kind: type[AgentdError]) -> None:
    """Every class of error has its own code, meaning, causes and advice, and an exit code that is explained."""
    own = kind.__dict__

    assert all(own.get(name) for name in ("__doc__", "code", "causes", "advice"))
    assert explanations()[kind.code].advice == own["advice"]
    assert kind.exit_code in EXITS
    assert [other.code for other in ALL].count(kind.code) == 1


def test_explain() -> None:
    """A code is explained without NATS and configuration, for people and with --json; a wrong one names the nearest."""
    shown = agentd("explain", "no_quorum")
    number = json.loads(agentd("explain", "77", "--json").stdout)
    before = json.loads(agentd("--json", "explain", "77").stdout)
    wrong = agentd("explain", "no_quorun")
    listed = agentd("explain").stdout

    assert [line.split(maxsplit=1)[0] for line in shown.stdout.splitlines()] == [
        "code", "meaning", "causes", "do", "exit", "kind", "retried"
    ]  # fmt: skip
    assert "pvecm status" in shown.stdout
    assert number == before
    assert number["causes"] == "Errors with this exit code: denied, needs_plan."
    assert wrong.stderr == "agentd: there is no code 'no_quorun'; did you mean no_quorum?\n"
    assert wrong.returncode == 2
    assert {line.split()[0] for line in listed.splitlines()[1:]} == set(explanations())
