"""Names similar to a wrong one."""

from __future__ import annotations

import pytest

from agentd.similar import nearest, suggestion

TOOLS = ["list_vms", "list_nodes", "list_volumes", "start_vm", "stop_vm", "create_vm"]


@pytest.mark.parametrize(
    ("wrong", "known", "text"),
    [
        ("list_vmss", TOOLS, "; did you mean list_vms?"),
        ("LIST_VMS", TOOLS, "; did you mean list_vms?"),
        ("list_vm", ["list_volumes", "list_guests", "list_realms"], "; did you mean list_guests?"),
        (
            "create_guest",
            ["create_vm", "create_container", "create_user"],
            "; did you mean create_vm or create_container?",
        ),
        ("sto_vm", TOOLS, "; did you mean stop_vm?"),
        ("st_vm", TOOLS, "; did you mean stop_vm, start_vm or list_vms?"),
        ("disk3", ["disk0", "disk1", "disk2", "disk4"], "; did you mean disk4, disk2 or disk1?"),
        ("q", ["memory", "cores"], "; there are memory, cores"),
        ("q", [], "; there are none"),
        (
            "q",
            [f"name{number}" for number in range(23)],
            f"; there are {', '.join(f'name{n}' for n in range(20))} and 3 more",
        ),
    ],
)
def test_suggestion(wrong: str, known: list[str], text: str) -> None:
    """An unknown name gets at most three similar names; if there are none, a list that is never long."""
    assert suggestion(wrong, known) == text


def test_listed() -> None:
    """Instead of a long list the error names the command that lists them."""
    known = [f"name{number}" for number in range(23)]

    assert suggestion("q", known, listed="`agentd tools` lists them") == "; `agentd tools` lists them"
    assert suggestion("q", known[:2], listed="`agentd tools` lists them") == "; there are name0, name1"


def test_long_name() -> None:
    """A very long wrong name costs no more than a short one."""
    assert nearest("x" * 5_000_000, TOOLS) == []
