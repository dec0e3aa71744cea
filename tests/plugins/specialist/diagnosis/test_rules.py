"""Diagnoses of recorded failures: the cause that a person would name comes first, with the lines that point to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd import Cause, Evidence, Situation
from agentd_specialist import agentd_diagnosis_rules
from agentd_specialist.diagnosis.ranking import diagnose

if TYPE_CHECKING:
    from collections.abc import Iterator

RULES = agentd_diagnosis_rules()
LOGS = [
    ("TASK ERROR: cluster not ready - no quorum?", "no quorum"),
    ("TASK ERROR: VM is locked (backup)", "locked by another operation"),
    ("kvm: cannot set up guest memory 'pc.ram': Cannot allocate memory", "too little free memory"),
    ("vzdump: write error: No space left on device", "a storage is full"),
    ("TASK ERROR: storage 'nas' is not online", "not available on the node"),
    ("ERROR: can't migrate local disk 'local-lvm:vm-101-disk-0': local disks", "on its node alone"),
    ("TASK ERROR: KVM virtualisation configured, but not available.", "hardware virtualization"),
    ("TASK ERROR: bridge 'vmbr7' does not exist", "network bridge"),
    ("TASK ERROR: no such logical volume pve/vm-101-disk-0", "disk of the guest is missing"),
    ("TASK ERROR: snapshot feature is not available", "cannot keep snapshots"),
    ("TASK ERROR: VM quit/powerdown failed - got timeout", "did not react"),
    ("403 Permission check failed (/vms/101, VM.PowerMgmt)", "lacks a privilege"),
    ("TASK ERROR: command 'ssh' failed: No route to host", "not reachable"),
    ("TASK ERROR: received interrupt", "interrupted"),
]


@pytest.mark.parametrize(("line", "expected"), LOGS)
def test_lines_of_task_logs(line: str, expected: str) -> None:
    """Each text that Proxmox VE writes leads to its cause, and the line is the evidence."""
    evidence = [Evidence("task", "starting"), Evidence("task", line), Evidence("task", "done")]
    found = diagnose(Situation("guest 101", {}, evidence), RULES)

    assert expected in found.verdict
    assert found.causes[0].evidence == [evidence[1]]
    assert found.causes[0].advice


def test_states() -> None:
    """What is known to be so outranks what a log says; without any cause the verdict says so."""
    facts: dict[str, Any] = {"node": "pve1", "node_status": "offline", "quorate": True, "lock": "snapshot"}
    log = [Evidence("task", "TASK ERROR: VM is locked (snapshot)")]
    found = diagnose(Situation("guest 101", facts, log), RULES)
    stale = diagnose(Situation("guest 101", facts | {"node_status": "online"}, log), RULES)
    held = diagnose(Situation("guest 101", {"lock": "backup", "running_tasks": ["vzdump of root@pam (UPID)"]}), RULES)
    full = diagnose(Situation("node pve1", {"storages": [("nas", "available", 97.0), ("old", "inactive", 0)]}), RULES)

    assert found.verdict == "the node pve1 is offline"
    assert stale.verdict == "the guest is locked (snapshot), and no task runs that could hold the lock"
    assert held.verdict == "the guest is locked (backup) by an operation that runs"
    assert [(cause.text, cause.workflow) for cause in full.causes] == [
        ("a storage that the guest needs is not available on the node", ""),
        ("a storage is full", "snapshot_cleanup"),
    ]
    assert diagnose(Situation("guest 101"), RULES).verdict.startswith("no known cause")


def test_rules_of_plugins() -> None:
    """A rule of a plugin is ranked with ours; one that fails is named and stops no other."""

    def broken(_: Situation) -> Iterator[Cause]:
        raise KeyError("x")

    def certain(_: Situation) -> Iterator[Cause]:
        yield Cause("the cable is out", 1.0, [], "plug it in")

    found = diagnose(Situation("node pve1", {}, [Evidence("task", "No route to host")]), [broken, *RULES, certain])

    assert [cause.text for cause in found.causes] == [
        "the cable is out",
        "a machine that the operation needs was not reachable",
        "the rule broken failed: KeyError: 'x'",
    ]
