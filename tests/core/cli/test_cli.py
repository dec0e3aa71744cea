"""The command line as a person types it: exact lines, exit codes, `--json`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from harness import ALL_ROLES, SCRIPTS, until

if TYPE_CHECKING:
    from harness import Net

ROOT = Path(__file__).parents[3]


def agentd(
    *arguments: str, config: Path | None = None, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    command = [str(SCRIPTS / "agentd"), *(["--config", str(config)] if config else []), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=cwd, env=os.environ | environment
    )


def test_version() -> None:
    """A newcomer learns what there is without any configuration."""
    assert agentd("--version").stdout == "agentd, version 0.1.0\n"
    assert "submit" in agentd("--help").stdout


def test_config_typo(tmp_path: Path) -> None:
    """A typo in the configuration is one line with the file, the key and the nearest known one; nothing starts."""
    file = tmp_path / "agentd.toml"
    file.write_text('[bus]\nserver = ["nats://127.0.0.1:4222"]\n')

    done = agentd("run", "orchestrator", config=file)

    assert done.stderr == "agentd: agentd.toml: bus.server: unknown key; did you mean servers?\n"
    assert done.returncode == 78


def test_unknown_instance(tmp_path: Path) -> None:
    """A role that no plugin has is one line with those that there are."""
    file = tmp_path / "agentd.toml"
    file.write_text("")

    done = agentd("run", "orchestra", config=file)

    assert done.stderr.startswith("agentd: instance 'orchestra' is not known; did you mean orchestrator?")
    assert done.returncode == 78


def test_no_nats(tmp_path: Path) -> None:
    """Without NATS a command names the addresses and the advice, and fails as unavailable."""
    file = tmp_path / "agentd.toml"
    file.write_text('[bus]\nservers = ["nats://127.0.0.1:1"]\n')

    done = agentd("agents", config=file)

    assert done.stderr.startswith("agentd: no NATS at nats://127.0.0.1:1")
    assert done.stderr.endswith("start it, or name it under [bus] servers\n")
    assert (done.stdout, done.returncode) == ("", 69)


def test_demo_needs_its_simulator(tmp_path: Path) -> None:
    """Outside a checkout the demo says in one line what to do, and leaves nothing running."""
    done = agentd("demo", "--once", "--state", str(tmp_path / "state"), cwd=tmp_path)

    assert done.stderr == (
        f"agentd: no simulated Proxmox in {tmp_path}: run `make demo` in a checkout of agentd, it sets it up\n"
    )
    assert done.returncode == 2


def test_demo_a_second_time(tmp_path: Path) -> None:
    """The demo deploys a VM and ends with 0, also a second time on the same state."""
    for _ in range(2):
        done = agentd("demo", "--once", "--state", str(tmp_path), cwd=ROOT)

        assert done.returncode == 0, done.stderr
        assert "configure_vm completed" in done.stdout
        assert "running" in done.stdout.splitlines()[-1]


def test_demo_runs_until_ctrl_c(tmp_path: Path) -> None:
    """Without --once the cluster keeps running; Ctrl-C ends it, with code 0 and nothing left running."""
    log = tmp_path / "out"
    with log.open("wb") as out:
        command = [str(SCRIPTS / "agentd"), "demo", "--state", str(tmp_path / "state")]
        demo = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT)
    try:
        until(lambda: "Ctrl-C ends it" in log.read_text() or demo.poll() is not None, "the demo's story", 60)
        assert demo.poll() is None, log.read_text()
        servers = _children(demo.pid)
        demo.send_signal(signal.SIGINT)
        code = demo.wait(30)
    finally:
        demo.kill()

    assert code == 0, log.read_text()
    assert len(servers) == 2
    assert not [pid for pid in servers if Path(f"/proc/{pid}").exists()]


def _children(pid: int) -> list[int]:
    return [int(part) for part in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_commands(net: Net) -> None:
    """Each command answers for a person, and with --json for a program; the exit code of --wait is the result."""
    file = net.config_file()

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return agentd(*arguments, config=file)

    made = run("provision")
    assert "made stream AI_WORKFLOWS" in made.stdout
    assert run("provision").stdout == "everything is there\n"
    with net.daemon("all", ALL_ROLES):
        doctor = run("doctor")
        wanted = run("--json", "submit", "vm_deployment", "name=cli1", "template=9000", "--id", "w1", "--wait")
        again = run("submit", "vm_deployment", "name=cli2", "--id", "w1", "--wait")
        wrong = run("submit", "vm_deployment", "name=x", "memory=much", "--wait")
        unknown = run("call", "list_guestss")
        nodes = json.loads(run("--json", "call", "list_nodes").stdout)
        listed = json.loads(run("--json", "workflows").stdout)
        shown = run("show", "w1")
        agents = json.loads(run("--json", "agents").stdout)
        over = run("cancel", "w1")
        planned = json.loads(run("--json", "submit", "health_check", "--dry-run", "--wait").stdout)

    assert doctor.returncode == 0, doctor.stdout
    answer = json.loads(wanted.stdout)
    assert (wanted.returncode, answer["status"]) == (0, "completed"), wanted.stdout
    assert again.returncode == 65
    assert "workflow_id: 'w1' is a vm_deployment with other parameters (completed); use another id" in again.stdout
    assert wrong.returncode == 65
    assert "parameters.memory: expected int or nothing, got str" in wrong.stdout
    assert unknown.stderr.startswith("agentd: no agent offers a tool 'list_guestss'; did you mean list_guests?")
    assert unknown.returncode == 2
    assert [node["node"] for node in nodes["result"]["nodes"]] == ["pve1", "pve2", "pve3"]
    assert {item["workflow_id"]: item["status"] for item in listed}["w1"] == "completed"
    assert "configure_vm" in shown.stdout
    assert [agent["agent_id"] for agent in agents] == ["all-pve1"]
    assert (over.returncode, over.stderr) == (2, "agentd: workflow 'w1' has ended: completed\n")
    assert (planned["status"], {task["status"] for task in planned["result"]["tasks"].values()}) == (
        "completed",
        {"skipped"},
    )


async def test_cancel(net: Net) -> None:
    """Cancel begins no new task, lets the running one finish, and the answer names what is left."""
    assert net.pve is not None
    net.pve.durations(qmclone=6.0)
    file = net.config_file()
    agentd("provision", config=file)
    with net.daemon("all", ALL_ROLES):
        agentd("submit", "vm_deployment", "name=gone", "template=9000", "--id", "c1", config=file)
        until(lambda: bool(net.pve and net.pve.log("POST", "clone")), "the clone's begin")
        done = agentd("--json", "cancel", "c1", "--reason", "changed my mind", "--wait", config=file)

    answer = json.loads(done.stdout)
    assert (done.returncode, answer["status"]) == (3, "cancelled")
    assert answer["error"] == "cancelled by tester: changed my mind"
    assert {name: task["status"] for name, task in answer["result"]["tasks"].items()} == {
        "validate_vm_parameters": "completed",
        "create_vm": "completed",
        "configure_vm": "cancelled",
    }
    made = answer["result"]["tasks"]["create_vm"]["result"]
    assert answer["result"]["left"] == [f"create_vm: VM {made['vmid']} gone on {made['node']}"]
    assert net.pve.found(made["vmid"]) is not None


async def test_schedules(net: Net) -> None:
    """A schedule is configured, checked, put in force, listed with its next time and its last run, and run by hand."""
    schedule = {"workflow": "health_check", "cron": "30 2 * * *", "timezone": "Europe/Berlin"}
    net.settings["schedules"] = {"nightly": schedule}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return agentd(*arguments, config=net.config_file())

    checked = run("config", "check")
    made = run("provision")
    with net.daemon("all", ALL_ROLES):
        by_hand = run("--json", "schedules", "run", "nightly", "--wait")
        strange = run("schedules", "run", "never")
        net.settings["schedules"]["often"] = schedule | {"cron": "* * * * * *", "timezone": "UTC"}
        more = run("provision")

        def begun() -> dict[str, str] | None:
            found = {load["name"]: load for load in json.loads(run("--json", "schedules").stdout)}
            return found["often"] if found["often"]["status"] == "completed" else None

        last = until(begun, "the schedule has run", 60)
        shown = run("schedules").stdout
        net.settings["schedules"] = {"nightly": schedule | {"workflow": "health_chek"}}
        wrong = run("config", "check")
        refused = run("provision")
        net.settings["schedules"] = {}
        gone = run("provision")

    assert checked.returncode == 0, checked.stderr
    assert "made schedule nightly: 0 30 2 * * * Europe/Berlin" in made.stdout
    assert more.stdout == "made schedule often: * * * * * * UTC\n"
    assert json.loads(by_hand.stdout)["status"].startswith("completed"), by_hand.stdout
    assert strange.stderr == "agentd: no schedule 'never' is in force; there are nightly\n"
    assert last["last"].startswith("cron-often-")
    assert " 02:30:00" in shown
    assert "in force" in shown
    assert (wrong.returncode, refused.returncode) == (78, 78)
    assert wrong.stderr == refused.stderr
    assert wrong.stderr.startswith(
        "agentd: schedules.nightly.workflow: unknown 'health_chek'; did you mean health_check?"
    )
    assert set(gone.stdout.splitlines()) == {"removed schedule nightly", "removed schedule often"}


def test_short_helps_fit() -> None:
    """The short help of each command fits its column: none is cut off."""
    for group in ((), ("audit",), ("config",), ("dead-letters",), ("schedules",), ("workflows",)):
        listed = agentd(*group, "--help").stdout.partition("Commands:")[2]

        assert listed
        assert "..." not in listed
