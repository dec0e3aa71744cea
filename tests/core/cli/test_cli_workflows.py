"""`agentd workflows …` and `submit --dry-run`: what a person sees, line by line, and what a program gets."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import agentd_orchestrator
from harness import ALL_ROLES, SCRIPTS

if TYPE_CHECKING:
    from harness import Net

HERE = Path(agentd_orchestrator.__file__).parent
GOOD = "description: Look.\ntasks:\n  - name: look\n    tool: list_guests\n"
BAD = """\
description: Look.
parameters:
  tag: {type: string}
tasks:
  - name: look
    tool: list_vm
    with: {tag: "{{ parameters.tagg }}"}
    optional: no
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a folder with a configuration whose workflows lie in `workflows`."""
    (tmp_path / "workflows").mkdir()
    (tmp_path / "agentd.toml").write_text(f'[orchestrator]\nworkflows_dir = "{tmp_path / "workflows"}"\n')
    return tmp_path


def agentd(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, in the folder of the configuration."""
    command = [str(SCRIPTS / "agentd"), "--config", "agentd.toml", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=home, env=os.environ | {"COLUMNS": "200"}
    )


def test_check(home: Path) -> None:
    """Every fault is a line that an editor can jump to, and the exit code says that there is one."""
    (home / "good.yaml").write_text(GOOD)
    (home / "bad.yaml").write_text(BAD)

    done = agentd(home, "workflows", "check", "good.yaml", "bad.yaml")
    good = agentd(home, "workflows", "check", "good.yaml")
    as_json = agentd(home, "--json", "workflows", "check", "good.yaml", "bad.yaml")
    lost = agentd(home, "workflows", "check", "lost.yaml")

    assert done.stdout.splitlines() == [
        (
            "bad.yaml:6:11: tasks.look.tool: no installed plugin defines a tool 'list_vm'; did you mean list_guests? "
            "(if an external agent offers it, give service and tier)"
        ),
        "bad.yaml:7:32: tasks.look.with.tag: there is no parameter 'tagg'; did you mean tag?",
        (
            "bad.yaml:8:15: tasks[0].optional: "
            "no is false for some and a text for others; write false, or put it in quotes"
        ),
        "good.yaml: good",
    ]
    assert (done.returncode, done.stderr) == (65, "")
    assert (good.stdout, good.returncode) == ("good.yaml: good\n", 0)
    assert json.loads(as_json.stdout)[1] == {
        "file": "bad.yaml",
        "line": 7,
        "column": 32,
        "field": "tasks.look.with.tag",
        "text": "there is no parameter 'tagg'; did you mean tag?",
    }
    assert as_json.returncode == 65
    assert (lost.stderr, lost.returncode) == ("agentd: lost.yaml: cannot be read: No such file or directory\n", 2)


def test_schema(home: Path) -> None:
    """The JSON Schema that is printed is the one that is published."""
    assert agentd(home, "workflows", "schema").stdout == (HERE / "workflow.schema.json").read_text()


def test_definitions(home: Path) -> None:
    """What can be asked for is listed with where it comes from; a file at fault says why it cannot be used."""
    (home / "workflows" / "mine.yaml").write_text(GOOD)
    whole = agentd(home, "workflows", "definitions")
    (home / "workflows" / "bad.yaml").write_text(BAD)
    done = agentd(home, "workflows", "definitions")
    as_json = json.loads(agentd(home, "--json", "workflows", "definitions").stdout)

    assert whole.returncode == 0
    assert [line.split()[0] for line in whole.stdout.splitlines()] == [
        "DEFINITION", "backup_verification", "guest_update", "health_check", "mine", "node_maintenance", "node_reboot",
        "resource_optimization", "right_sizing", "snapshot_cleanup", "template_build", "tool_call", "undo",
        "vm_deployment",
    ]  # fmt: skip
    assert whole.stdout.splitlines()[3].split(maxsplit=1)[1].split("  ")[0] == "plugin orchestrator"
    assert "Check nodes, storages and guests, and list what needs attention." in whole.stdout
    bad = home / "workflows" / "bad.yaml"
    line = next(line for line in done.stdout.splitlines() if line.startswith("bad"))
    assert line.rstrip().split(maxsplit=2)[1:] == [
        str(bad),
        f"cannot be used, it has 3 faults: agentd workflows check {bad}",
    ]
    assert done.returncode == 65
    assert [(item["name"], len(item.get("faults", []))) for item in as_json] == [
        ("backup_verification", 0), ("bad", 3), ("guest_update", 0), ("health_check", 0), ("mine", 0),
        ("node_maintenance", 0), ("node_reboot", 0),
        ("resource_optimization", 0), ("right_sizing", 0), ("snapshot_cleanup", 0),
        ("template_build", 0), ("tool_call", 0), ("undo", 0), ("vm_deployment", 0),
    ]  # fmt: skip


async def test_dry_run(net: Net) -> None:
    """A dry run shows the graph and what each task will be called with; nothing is done."""
    assert net.pve is not None
    net.settings["orchestrator"] = {"workflows_dir": str(HERE / "examples")}
    net.config_file()
    ask = ("submit", "deploy_many", 'names=["a","b"]', "node=pve1", "template=9000", "start=false", "--dry-run")
    agentd(net.directory, "provision")
    with net.daemon("all", ALL_ROLES):
        done = agentd(net.directory, *ask, "--id", "d1")
        as_json = agentd(net.directory, "--json", *ask, "--id", "d2")
        wrong = agentd(net.directory, "submit", "deploy_many", "node=pve1", "template=9000", "--dry-run", "--id", "d3")

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "draw  get_free_vmids  → mcp-proxmox",
        '  with      {"count": 2}',
        "create  create_vm  → mcp-proxmox",
        "  after     draw",
        '  for_each  ["a", "b"], 2 at once',
        (
            '  with      {"vmid": "{{ tasks.draw.result.vmids[index] }}", "name": "{{ item }}", "node": "pve1", '
            '"template": 9000}'
        ),
        "tag  update_vm  → mcp-proxmox",
        "  after     create, draw",
        "  when      false",
        "  for_each  {{ tasks.draw.result.vmids }}, 10 at once",
        '  with      {"vmid": "{{ item }}", "tags": []}',
        "start  start_guest  → mcp-proxmox",
        "  after     create, tag, draw",
        "  when      false",
        "  for_each  {{ tasks.draw.result.vmids }}, 2 at once",
        '  with      {"vmid": "{{ item }}"}',
        "",
        "✓ completed  d1",
    ]
    assert done.returncode == 0
    assert as_json.returncode == 0, as_json.stderr
    shown = json.loads(as_json.stdout)["result"]["plan"]
    assert [item["name"] for item in shown] == ["draw", "create", "tag", "start"]
    assert shown[1]["with"]["name"] == "{{ item }}"
    assert wrong.stdout.splitlines()[-1] == "parameters: object missing required field names"
    assert wrong.returncode == 65
    assert net.pve.creates() == []
