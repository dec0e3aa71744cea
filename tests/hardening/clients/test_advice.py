"""Advice names the smallest role that has what is missing, and arrives at the reader as it is written."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest

from agentd.cli.output import tables
from agentd.cli.output.terminal import console
from agentd.cli.setup import doctor, doctor_bus
from agentd.proxmox import responses
from agentd.tools.definition import Right
from agentd.wire.messages import Tier

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "agentd@pve!full"  # noqa: S105 - a name


@pytest.mark.parametrize(
    ("privilege", "role"),
    [
        ("VM.GuestAgent.Unrestricted", "PVEVMAdmin"),
        ("VM.GuestAgent.FileRead", "PVEVMUser"),
        ("Mapping.Modify", "PVEMappingAdmin"),
        ("SDN.Allocate", "PVESDNAdmin"),
        ("Sys.Modify", "AgentdOperate"),
        ("Permissions.Modify", "AgentdDestroy"),
        ("Sys.Audit", "PVEAuditor"),
        ("Some.Thing.New", "AgentdExec"),
    ],
)
def test_a_refusal_names_the_smallest_role(privilege: str, role: str) -> None:
    """A 403 names a role that has the privilege; never Administrator."""
    text = f"Permission check failed (/vms/100, {privilege})"
    error = str(responses.classify("GET", 403, text, path="/nodes/pve1/qemu/100", token=TOKEN))

    assert f"--roles {role} " in error
    assert "Administrator" not in error
    assert ("agentd doctor --roles" in error) == role.startswith("Agentd")


def test_no_privilege_is_answered_with_administrator(facts: Path) -> None:
    """Every privilege that Proxmox knows has a smaller role, and a built-in one has it."""
    entries = json.loads((facts / "pve" / "recorded" / "access-roles.json").read_text())["body"]["data"]
    roles = {entry["roleid"]: set(entry["privs"].split(",")) for entry in entries}
    for privilege in sorted(roles["Administrator"]):
        role = responses.role_for(privilege)

        assert role != "Administrator"
        if not role.startswith("Agentd"):
            assert privilege in roles[role]
        else:
            others = [name for name, held in roles.items() if privilege in held and name != "Administrator"]
            assert others == [], privilege


@pytest.mark.parametrize("tier", list(Tier))
def test_doctor_names_the_role_of_the_tier(tier: Tier) -> None:
    """What no small built-in role has is in the role of the tier from which on it is needed."""
    (found,) = doctor.compare(TOKEN, {"/": ["VM.Audit"]}, [Right("Sys.Modify", "/", tier, ("a_tool",))])

    assert f"--roles Agentd{tier.capitalize()}" in found.advice
    assert "agentd doctor --roles" in found.advice


def test_brackets_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of sections in findings are text, not markup."""
    out = io.StringIO()
    monkeypatch.setattr(console, "_file", out)
    monkeypatch.setattr(console, "_width", 200)
    tables.findings([doctor_bus.Finding("a [node]", good=False, text="no [proxmox]", advice="see [bus] there")])

    assert "a [node]" in out.getvalue()
    assert "no [proxmox]" in out.getvalue()
    assert "see [bus] there" in out.getvalue()
