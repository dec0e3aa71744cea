"""An option that every command has is taken before and after its name, and what needs no token asks for none."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agentd.cli.setup import doctor
from agentd.config import load as configuration
from agentd.plugins import manager
from agentd.safety.policy import Policy
from agentd.wire.messages import Tier
from harness import SCRIPTS

if TYPE_CHECKING:
    from pve.client import FakePve

ROOT = Path(__file__).parents[3]
EXAMPLES = [
    block
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    for block in re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)
    if "[build-system]" not in block
]


@pytest.mark.parametrize(
    "words",
    [
        ["--json", "config", "check"],
        ["config", "check", "--json"],
        ["workflows", "schema", "--json"],
        ["audit", "--help"],
    ],
)
def test_json_before_and_after_the_command(tmp_path: Path, words: list[str]) -> None:
    """`agentd --json config check` and `agentd config check --json` print the same JSON; every command has it."""
    file = tmp_path / "agentd.toml"
    file.write_text("[node]\n")
    file.chmod(0o600)
    command = [str(SCRIPTS / "agentd"), "--config", str(file), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout if "--help" in words else json.loads(done.stdout)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_examples_of_the_documentation_work(tmp_path: Path, number: int) -> None:
    """Each example of a configuration is accepted as it is."""
    assert len(EXAMPLES) >= 6
    file = tmp_path / "agentd.toml"
    file.write_text(EXAMPLES[number])
    file.chmod(0o600)
    found = configuration.load(file, {}, manager.installed())

    assert Policy.of(found.policy).default_tier is Tier.READ


@pytest.mark.parametrize("token", ["11111111-0000-4000-8000-000000000000", None])
def test_roles_need_no_working_token(lab: FakePve, tmp_path: Path, token: str | None) -> None:
    """The commands that make the roles are printed before there is a token that works."""
    if token is not None:
        (tmp_path / "token").write_text(token)
        (tmp_path / "token").chmod(0o600)
    file = tmp_path / "agentd.toml"
    file.write_text(
        f'[node]\nstate_dir = "{tmp_path}"\n[proxmox]\nurl = "{lab.url}"\ntoken_id = "agentd@pve!new"\n'
        f'token_file = "{tmp_path}/token"\nca_file = "{lab.ca}"\n'
    )
    file.chmod(0o600)
    config = configuration.load(file, {})
    lines = asyncio.run(doctor.roles(config))
    granting = asyncio.run(doctor.roles(config, grants=True))

    assert lines[0].startswith("pveum role add AgentdRead -privs 'Datastore.Audit")
    assert not any("Permissions.Modify" in line for line in lines)
    assert "Permissions.Modify" in granting[2]
