"""What [policy] protected names is a thing that a tool can change, or the daemon does not start."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import agentd_proxmox
from agentd.errors import AgentdError
from agentd.messages import Target, Tier
from agentd.policy import Policy
from agentd.sections import PROTECTABLE, unprotectable
from harness import Net

ANNOUNCED = re.compile(r'Target\(\s*f?"([a-z_-]+)/')
"""How tools announce what they change."""


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ("vm/100", "unknown kind 'vm'; write KIND/NAME with one of guest, tag, pool"),
        ("ct/100", "unknown kind 'ct'"),
        ("Guest/102", "unknown kind 'Guest'"),
        ("GUEST/102", "unknown kind 'GUEST'"),
        ("ha_rule/a", "unknown kind 'ha_rule'"),
        ("102", "unknown kind '102'"),
        ("guest", "unknown kind 'guest'"),
        ("", "unknown kind ''"),
        ("/102", "unknown kind ''"),
        ("guest/102 ", "it contains blanks"),
        (" guest/102", "it contains blanks"),
        ("guest/ 102", "it contains blanks"),
        ("tag/keep\u200b", "it contains blanks or characters that cannot be seen"),
        ("tag/\tkeep", "it contains blanks"),
        ("guest/", "the name is missing: guest/NAME"),
        ("guest/[10", "a [ without its ]"),
        ("guest/10]", "a [ without its ]"),
        ("guest/[]", "a [ without its ]"),
    ],
)
def test_what_would_protect_nothing_is_an_error(tmp_path: Path, entry: str, line: str) -> None:
    """The error names the entry and says what can be written."""
    net = Net(tmp_path, "nats://127.0.0.1:1")
    net.settings["policy"] = {"protected": ["tag/keep", entry]}
    with pytest.raises(AgentdError) as caught:
        net.config()

    assert "policy.protected" in str(caught.value)
    assert line in unprotectable(entry)
    assert line.partition(";")[0] in str(caught.value)


@pytest.mark.parametrize(
    "entry", ["guest/102", "guest/db-*", "tag/keep", "pool/core", "storage/*", "user/eve@pve", "guest/10[0-9]", "*"]
)
def test_what_can_be_protected(tmp_path: Path, entry: str) -> None:
    """Each kind that a tool announces, with the patterns of the shell."""
    net = Net(tmp_path, "nats://127.0.0.1:1")
    net.settings["policy"] = {"protected": [entry]}

    assert net.config().policy.protected == (entry,)


def test_every_kind_that_tools_announce_is_known() -> None:
    """The list is one: a tool that announces another kind could not be protected from."""
    sources = Path(agentd_proxmox.__file__).parent.glob("*.py")
    announced = {kind for source in sources for kind in ANNOUNCED.findall(source.read_text())}

    assert {"guest", "ha-rule", "ha-group"} <= announced
    assert announced <= set(PROTECTABLE)
    for kind in announced:
        policy = Policy(Tier.DESTROY, protected=(f"{kind}/x",))
        assert policy.protecting(Target(f"{kind}/x", "x")) == f"{kind}/x"
