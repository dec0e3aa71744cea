"""What Proxmox takes as a name or a text of a format, the tools take too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentd.errors import InvalidMessage

if TYPE_CHECKING:
    from tool_bench import Bench


@pytest.mark.parametrize("user", ["john@corp.example@pve", "a@pve", "x.y@z@corp-ad", "root@pam"])
def test_user(tools: Bench, user: str) -> None:
    """The realm of a user is what comes after the last `@`."""
    assert tools.tools["get_user"].parse({"id": user}).id == user


@pytest.mark.parametrize("user", ["@pve", "john", "john@", "a b@pve", "a/b@pve", "a:b@pve", "john@corp@"])
def test_no_user(tools: Bench, user: str) -> None:
    """What is no user is refused, and the field is named."""
    with pytest.raises(InvalidMessage, match="id"):
        tools.tools["get_user"].parse({"id": user})


@pytest.mark.parametrize("text", ["2,up=30", "order=0", "1", "up=5,down=10", "order=1,up=30,down=60", ""])
def test_startup(tools: Bench, text: str) -> None:
    """The order at boot may be a bare number."""
    assert tools.tools["update_vm"].parse({"vmid": 101, "startup": text}).startup == text


@pytest.mark.parametrize("text", ["0", "order=", "first", "1;2", "up=-1"])
def test_no_startup(tools: Bench, text: str) -> None:
    """A bare 0, which Proxmox refuses, and what is no order, is refused by its field."""
    with pytest.raises(InvalidMessage, match="startup"):
        tools.tools["update_vm"].parse({"vmid": 101, "startup": text})


@pytest.mark.parametrize("tag", ["Prod", "a+b", "_x", "9.1-z"])
def test_tag(tools: Bench, tag: str) -> None:
    """A tag may have capitals: Proxmox makes it lower case, unless the cluster is told not to."""
    assert tools.tools["set_tags"].parse({"vmid": 101, "remove": [tag]}).remove == [tag]
