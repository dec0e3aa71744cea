"""The file tools over MCP, compared with the reference server (`@modelcontextprotocol/server-filesystem`)."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from mcp.client.client import Client

from plugins.mcp.test_network_tools import client_of, data, with_tokens
from plugins.mcp.test_stdio import command

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Net

PNG = bytes((0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A))
REFERENCE = {
    *("read_file", "read_text_file", "read_media_file", "read_multiple_files", "write_file", "edit_file"),
    *("create_directory", "list_directory", "list_directory_with_sizes", "directory_tree", "move_file"),
    *("search_files", "get_file_info", "list_allowed_directories"),
}
"""The tools of the reference server."""


@pytest.fixture
def served(quiet_net: Net, tmp_path: Path) -> Path:
    """Return a directory that the instance `files` serves over NATS and MCP, and may change."""
    root = tmp_path / "served"
    (root / "subdir").mkdir(parents=True)
    (root / "test.txt").write_text("test content")
    (root / "subdir" / "nested.txt").write_text("nested content")
    quiet_net.settings["filesystem"] = {"roots": [str(root)], "writable_roots": [str(root)]}
    quiet_net.settings["mcp-bridge"] = {"tool_list": "all"}
    quiet_net.settings["instances"]["files"] = {"roles": ["mcp-bridge", "filesystem"]}
    return root


async def test_the_tools_of_the_reference_server(quiet_net: Net, served: Path) -> None:
    """Each of its tools has its name, its required arguments, and a result with the text `content`."""
    shown = with_tokens(quiet_net, alice="operate")
    one, moved = str(served / "test.txt"), str(served / "moved.txt")
    calls: list[tuple[str, dict[str, Any], str]] = [
        ("read_file", {"path": one}, "test content"),
        ("read_text_file", {"path": one, "head": 1}, "test content"),
        ("read_multiple_files", {"paths": [one, f"{served}/none"]}, f"{one}:\ntest content"),
        ("list_directory", {"path": str(served)}, "[DIR] subdir\n[FILE] test.txt"),
        ("list_directory_with_sizes", {"path": str(served)}, "Total: 1 files, 1 directories"),
        ("search_files", {"path": str(served), "pattern": "**/*.txt"}, f"{served}/subdir/nested.txt"),
        ("get_file_info", {"path": one}, "size: 12"),
        ("list_allowed_directories", {}, f"Allowed directories:\n{served}"),
        ("create_directory", {"path": f"{served}/a/b"}, f"Successfully created directory {served}/a/b"),
        ("write_file", {"path": f"{served}/new", "content": "x\n"}, f"Successfully wrote to {served}/new"),
        ("edit_file", {"path": f"{served}/new", "edits": [{"oldText": "x", "newText": "y"}]}, "-x\n+y"),
        ("move_file", {"source": one, "destination": moved}, f"Successfully moved {one} to {moved}"),
    ]
    async with quiet_net.client(), quiet_net.here("files") as daemon, client_of(daemon.url, shown["alice"]) as alice:
        listed = {tool.name for tool in (await alice.list_tools()).tools}
        found = {name: (await data(alice, name, **arguments))["content"] for name, arguments, _ in calls}
        tree = await data(alice, "directory_tree", path=str(served), excludePatterns=["a", "new"])

    assert listed >= REFERENCE
    assert {name: found[name] for name, _, text in calls if text not in found[name]} == {}
    assert json.loads(tree["content"]) == [
        {"name": "moved.txt", "type": "file"},
        {"name": "subdir", "type": "directory", "children": [{"name": "nested.txt", "type": "file"}]},
    ]


async def test_an_existing_destination(quiet_net: Net, served: Path) -> None:
    """Neither a file nor a directory is replaced or merged by move_file, and a directory is moved with all below it."""
    shown = with_tokens(quiet_net, alice="operate")
    (served / "other").mkdir()
    (served / "file").write_text("existing")
    async with quiet_net.client(), quiet_net.here("files") as daemon, client_of(daemon.url, shown["alice"]) as alice:
        refused = [
            await alice.call_tool("move_file", {"source": f"{served}/{source}", "destination": f"{served}/{target}"})
            for source, target in (("test.txt", "file"), ("subdir", "other"))
        ]
        await data(alice, "move_file", source=f"{served}/subdir", destination=f"{served}/moved")

    assert [answer.is_error for answer in refused] == [True, True]
    assert all("Destination already exists" in str(answer.content) for answer in refused)
    assert (served / "file").read_text() == "existing"
    assert (served / "moved" / "nested.txt").read_text() == "nested content"


async def test_media(quiet_net: Net, served: Path) -> None:
    """An image or a sound is a block of its kind, any other file a resource; structured content mirrors the blocks."""
    shown = with_tokens(quiet_net, alice="operate")
    bytes_of = {"pixel.png": PNG, "clip.mp3": b"ID3\x04", "a größe.bin": b"\x00\xff"}
    for name, content in bytes_of.items():
        (served / name).write_bytes(content)
    async with quiet_net.client(), quiet_net.here("files") as daemon, client_of(daemon.url, shown["alice"]) as alice:
        answers = [await alice.call_tool("read_media_file", {"path": f"{served}/{name}"}) for name in bytes_of]
        tools = {tool.name: tool for tool in (await alice.list_tools()).tools}
    image, sound, other = (answer.model_dump(by_alias=True, exclude_none=True, mode="json") for answer in answers)

    assert [len(answer["content"]) for answer in (image, sound, other)] == [1, 1, 1]
    assert (image["content"][0]["type"], image["content"][0]["mimeType"]) == ("image", "image/png")
    assert base64.b64decode(image["content"][0]["data"]) == PNG
    assert (sound["content"][0]["type"], sound["content"][0]["mimeType"]) == ("audio", "audio/mpeg")
    assert other["content"][0]["type"] == "resource"
    assert other["content"][0]["resource"]["uri"].endswith("/a%20gr%C3%B6%C3%9Fe.bin")
    assert base64.b64decode(other["content"][0]["resource"]["blob"]) == b"\x00\xff"
    assert all(answer["structuredContent"] == {"content": answer["content"]} for answer in (image, sound, other))
    assert all(kind in json.dumps(tools["read_media_file"].output_schema) for kind in ("image", "audio", "resource"))


async def test_a_client_is_limited_to_directories(quiet_net: Net, served: Path) -> None:
    """`agentd mcp --within DIR` reaches nothing else, in no way that a model could choose."""
    quiet_net.settings["policy"] = {"default_tier": "operate"}
    server = command(quiet_net, "alice")
    server.args.extend(["--all-tools", "--within", f"{served}/subdir"])
    outside = {"path": f"{served}/test.txt"}
    task = {"tool": "read_text_file", "parameters": outside}
    attempts: list[tuple[str, dict[str, Any]]] = [
        ("read_text_file", outside),
        ("read_text_file", {**outside, "within": [str(served)]}),
        ("read_text_file", {**outside, "within": [f"{served}/subdir/.."]}),
        ("read_tool", {"tool": "read_text_file", "arguments": outside}),
        ("use_tool", {"tool": "write_file", "arguments": {**outside, "content": "x"}}),
        ("dry_run", {"tool": "write_file", "arguments": {**outside, "content": "x"}}),
        ("submit_workflow", {"workflow_type": "tool_call", "parameters": task}),
    ]
    async with quiet_net.client(), quiet_net.here("files"), Client(server) as alice:
        read = await data(alice, "read_text_file", path=f"{served}/subdir/nested.txt")
        refused = {str(attempt): await alice.call_tool(*attempt) for attempt in attempts}

    assert read["content"] == "nested content"
    assert [attempt for attempt, answer in refused.items() if not answer.is_error] == []
    assert (served / "test.txt").read_text() == "test content"
