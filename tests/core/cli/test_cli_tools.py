"""`agentd tools`, `agentd call` and `agentd submit` as a person sees them."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest

from agentd.cli import tools
from agentd.cli.context import parse_parameters
from agentd.cli.output import terminal, values
from agentd.config import load
from agentd.plugins import manager
from harness import SCRIPTS

if TYPE_CHECKING:
    from pathlib import Path

    from agentd.tools.definition import Tool
    from harness import Net


@pytest.fixture(scope="module")
def known() -> dict[str, Tool]:
    """Return every installed tool."""
    return manager.known_tools(load.load(None, {}, manager.installed()))


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    """Return a configuration whose NATS does not exist."""
    file = tmp_path / "agentd.toml"
    file.write_text('[bus]\nservers = ["nats://127.0.0.1:1"]\n')
    return file


def agentd(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    command = [str(SCRIPTS / "agentd"), "--config", str(config), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=os.environ | {"COLUMNS": "200"}
    )


def test_describe_without_nats(nowhere: Path) -> None:
    """A tool is described without NATS: parameters with type, default and meaning, result, tier, example."""
    done = agentd(nowhere, "tools", "update_vm")
    as_json = json.loads(agentd(nowhere, "tools", "update_vm", "--json").stdout)
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]

    assert done.returncode == 0
    assert done.stderr.startswith("which agents offer them is not known: no NATS at ")
    assert "PARAMETER TYPE DEFAULT MEANING" in lines
    assert "vmid integer 100..999999999 required number of the guest in the whole cluster" in lines
    assert "sshkeys text - public keys, one a line" in lines
    assert lines[-6:] == [
        "",
        "tier operate",
        "exec with ciuser or sshkeys",
        "repeat probed: it reads the state first, and does nothing if that is as wanted",
        "offered by not known",
        "example agentd call update_vm vmid=101",
    ]
    assert (as_json["tier"], as_json["raises"]) == ("operate", {"ciuser or sshkeys": "exec"})


def test_list_without_nats(nowhere: Path) -> None:
    """The list is grouped by area, with tier and the first sentence of each description."""
    lines = agentd(nowhere, "tools").stdout.splitlines()

    assert lines[0] == "api"
    listed = next(line for line in lines if line.startswith("  list_guests "))
    assert listed.split(maxsplit=2) == [
        "list_guests",
        "read",
        "List VMs and containers: counts of all that match, and one page.",
    ]
    assert lines.index("backup_management") < lines.index("vm_management")


def test_unknown_tool(nowhere: Path) -> None:
    """A wrong name gets the nearest ones, never all names."""
    done = agentd(nowhere, "tools", "creat_vm")
    far = agentd(nowhere, "tools", "qqqqq")
    alias = agentd(nowhere, "tools", "backup_vm")

    assert done.stderr.splitlines()[-1] == "agentd: there is no tool 'creat_vm'; did you mean create_vm?"
    assert far.stderr.splitlines()[-1] == "agentd: there is no tool 'qqqqq'; `agentd tools` lists them"
    assert (done.returncode, far.returncode) == (2, 2)
    assert alias.stdout.startswith("create_backup  ")


def test_every_example(known: dict[str, Tool]) -> None:
    """The example of every tool gives exactly its required parameters, and a shell reads it as it is meant."""
    for tool in known.values():
        words = shlex.split(tools.example(tool))
        given = parse_parameters(tuple(words[3:]))

        assert words[:3] == ["agentd", "call", tool.name]
        assert set(given) == set(tool.input_schema().get("required", ()))


def test_every_description(known: dict[str, Tool]) -> None:
    """Every tool has a first sentence for the list, and every parameter a type."""
    for tool in known.values():
        found = tools.described(tool, None)

        assert tools.first_sentence(tool.description)
        assert all(field.type and field.type != "any" for field in found.parameters if field.name != "value"), tool.name


SHOWN = {
    "block": ({"vmid": 101, "name": "db", "on": True, "lock": None, "tags": ["a", "b"]},
              ["vmid  101", "name  db", "on    yes", "lock  -", "tags  a, b"]),
    "table": ({"total": 2, "guests": [{"vmid": 9, "name": "a", "lock": ""}, {"vmid": 101, "name": "b", "lock": ""}]},
              ["total  2", "guests", "  VMID  NAME", "     9  a", "   101  b"]),
    "nested": ({"node": {"name": "pve1", "disks": {"sda": "ok"}}, "up": 1.5},
               ["up  1.5", "node", "  name  pve1", "  disks", "    sda  ok"]),
    "lines": ({"log": "one\ntwo", "n": 1}, ["log  one", "     two", "n    1"]),
    "text": ("done", ["done"]),
    "empty": ({}, []),
    "sizes": ({"memory": 68719476736, "uptime": 90061, "total": 3, "n": 68719476736, "v": [{"size": 2**40, "used": 5}]},
              ["memory  64.0 GiB", "uptime  1 d 1 h", "total   3", "n       68719476736", "v", "     SIZE  USED",
               "  1.0 TiB     5"]),
    "mixed": ({"rows": [1, {"a": 2}]}, ["rows", "  1", "  a  2"]),
}  # fmt: skip


@pytest.mark.parametrize("name", SHOWN)
def test_values(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result is a block of names and values, a list of objects a table; nested values are indented."""
    out = io.StringIO()
    monkeypatch.setattr(terminal.console, "_file", out)
    monkeypatch.setattr(terminal.console, "_width", 100)
    value, lines = SHOWN[name]
    values.show(value)

    assert [line.rstrip() for line in out.getvalue().splitlines()] == lines


def test_wide_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that is wider than the terminal is printed as blocks: no cell is cut or wrapped."""
    out = io.StringIO()
    monkeypatch.setattr(terminal.console, "_file", out)
    monkeypatch.setattr(terminal.console, "_width", 20)
    values.show([{"name": "a" * 15, "node": "pve1"}, {"name": "b", "node": "pve2"}])

    assert out.getvalue().splitlines() == [f"name  {'a' * 15}", "node  pve1", "", "name  b", "node  pve2"]


async def test_with_agents(net: Net) -> None:
    """With agents: the tools of each; a call as a table; a wrong request is rejected at once."""
    file = net.config_file()
    agentd(file, "provision")
    early = agentd(file, "submit", "health_check", "--id", "early")
    with net.daemon("all", ("orchestrator", "specialist", "monitor", "mcp-bridge")):
        listed = json.loads(agentd(file, "tools", "--json").stdout)
        described = agentd(file, "tools", "list_guests").stdout
        called = agentd(file, "call", "list_nodes")
        wrong = agentd(file, "call", "list_guests", "nod=pve1")
        accepted = agentd(file, "submit", "health_check", "--id", "h1")
        again = json.loads(agentd(file, "--json", "submit", "health_check", "--id", "h1").stdout)
        unknown = agentd(file, "submit", "health_chek", "--id", "h2")
        bad = agentd(file, "submit", "health_check", "nod=pve1", "--id", "h3", "--json")
        finished = agentd(file, "watch", "early")

    assert early.stdout == (
        "early: stored, not yet accepted: no orchestrator has answered; watch it with agentd watch early\n"
    )
    assert early.returncode == 0
    assert finished.returncode == 0, finished.stdout
    assert {entry["name"]: entry["agents"] for entry in listed}["list_guests"] == ["all-pve1"]
    assert "offered by  all-pve1" in described
    assert [line.split()[0] for line in called.stdout.splitlines() if line.startswith("  ")] == [
        *("online", "NODE", "pve1", "pve2", "pve3"),
    ]
    assert wrong.stderr == "agentd: list_guests: unknown parameter 'nod'; did you mean node?\n"
    assert accepted.stdout == "h1: accepted; watch it with agentd watch h1\n"
    assert again == {"workflow_id": "h1", "status": "accepted", "watch": "agentd watch h1"}
    assert "workflow_type: unknown 'health_chek'; did you mean health_check?" in unknown.stdout
    assert "parameters: unknown 'nod'; did you mean node?" in json.loads(bad.stdout)["error"]
    assert (unknown.returncode, bad.returncode) == (65, 65)
