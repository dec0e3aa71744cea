"""What Proxmox takes as a name or a text of a format, the tools take too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentd.errors import InvalidMessage

if TYPE_CHECKING:
    from agentd.tools.definition import Tool
    from proxmox_access import AsyncPve
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
    """A tag may have capitals: Proxmox makes it lower case, unless the cluster is configured otherwise."""
    assert tools.tools["update_tags"].parse({"vmid": 101, "remove": [tag]}).remove == [tag]


async def test_a_user_with_marks_in_the_name(tools: Bench, sim: AsyncPve) -> None:
    """A user may have `@` and `!` in the name: it is none of the tokens, and all tools find it."""
    name = "x!y@corp@pve"
    await tools.call("create_user", id=name)
    await tools.call("grant_role", who=name, role="PVEAuditor", path="/vms/101")
    grants = await tools.call("list_grants", who=name)

    assert (await tools.call("get_user", id=name)).id == name
    assert (await tools.call("list_tokens", id=name)).tokens == []
    assert [grant.who for grant in grants.grants] == [name]
    assert [entry["params"].get("users") for entry in await sim.log("PUT", "/access/acl$")] == [name]


@pytest.mark.parametrize("name", ["a%41@pve", "a?b@pve", "a#b@pve", "jörg@pve"])
async def test_a_name_is_one_part_of_a_path(tools: Bench, name: str) -> None:
    """What means something else in the path of a request is encoded: no other user is meant."""
    await tools.call("create_user", id="aA@pve")
    await tools.call("create_user", id=name, email="other@example.com")

    assert (await tools.call("get_user", id=name)).email == "other@example.com"
    await tools.call("delete_user", id=name)
    assert (await tools.call("get_user", id="aA@pve")).id == "aA@pve"


@pytest.mark.parametrize("text", ["101\n", "web\n"])
def test_no_line_feed(known: dict[str, Tool], text: str) -> None:
    """A line feed at the end is not a part of any name; the message shows the pattern as a person writes it."""
    with pytest.raises(InvalidMessage, match=r"update_tags\.add\[0\]: expected str matching regex '\^.*\$'"):
        known["update_tags"].parse({"vmid": 101, "add": [text]})
