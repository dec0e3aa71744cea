"""What the documents say can be done: commands exist, examples run, links and paths lead somewhere."""

from __future__ import annotations

import asyncio
import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

from agentd.cli.context import parse_parameters
from agentd.config import load as configuration
from agentd.plugins import manager
from agentd.plugins.diagnosis import Evidence, Situation
from agentd.plugins.hookspecs import PROJECT
from harness import SCRIPTS, Net, until
from project import reference, reference_pages

if TYPE_CHECKING:
    from collections.abc import Iterator

    import click

    from agentd.tools.definition import Right, Tool
    from harness import NatsServer

ROOT: Final = Path(__file__).parents[2]
SKIPPED: Final = {".git", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}
PAGES: Final = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
GUIDES: Final = [ROOT / "README.md", ROOT / "docs" / "guide.md", ROOT / "docs" / "contributing.md"]
LOCAL: Final = re.compile(r"(config (check|show)|token|workflows (check|schema|definitions))\b")
"""Commands that need neither NATS nor Proxmox."""
ENDINGS: Final = "py|md|mjs|yaml|toml|service|ini|cfg|txt|json|html|css|js"
ELSEWHERE: Final = {
    *("agentd.toml", "hello/pyproject.toml", "hello/agentd_hello/__init__.py", "hello/agentd.toml"),
    *("plugins/agentd_proxmox/nodes/subscription.py", "tests/plugins/proxmox/nodes/test_subscription.py"),
    *("claude_desktop_config.json", ".vscode/mcp.json", "librechat.yaml"),
}
"""Files of which the documents say that the reader writes them."""


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _blocks(page: Path, language: str = "") -> list[str]:
    """Return the blocks of a page in this language."""
    return [block for kind, block in _fenced(_text(page)) if kind == language]


def _fenced(text: str) -> list[tuple[str, str]]:
    """Return language and text of each block, without the indentation of the list that contains it."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE)
    return [(kind, re.sub(rf"^{indent}", "", block, flags=re.MULTILINE)) for indent, kind, block in found]


def _lines(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command line `agentd …` in the blocks of a page."""
    for block in _blocks(page):
        prompt = r"\$ " if re.search(r"^\$ ", block, re.MULTILINE) else ""
        for line in block.splitlines():
            match = re.match(rf"{prompt}(?:\.venv/bin/)?agentd ([a-z-].*)", line)
            if match:
                yield shlex.split(match[1], comments=True)


LINES: Final = {" ".join(words): words for page in GUIDES for words in _lines(page)}
COMMANDS: Final = [pytest.param(words, id=line) for line, words in LINES.items()]


@functools.cache
def _tools() -> dict[str, Tool]:
    return reference.known()


@functools.cache
def _workflows() -> dict[str, Any]:
    config = configuration.load(None, {}, manager.installed())
    return manager.every_plugin(config).workflows()


def _command(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command that the first words name, and the words behind its name."""
    found = reference_pages.commands()
    path = "agentd"
    rest = [*words]
    while rest and f"{path} {rest[0]}" in found:
        path += f" {rest.pop(0)}"
    assert path != "agentd", f"no such command: agentd {' '.join(words)}"
    return found[path], rest


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_line_of_the_documents_is_accepted(words: list[str]) -> None:
    """Command, options and arguments exist; a tool or workflow that is named takes these parameters."""
    assert len(LINES) >= 8
    command, rest = _command(words)
    with command.make_context(command.name, [*rest], **reference_pages.HELP) as context:
        given = context.params
    if command.name == "call" and given["tool"] != "greet":
        _tools()[given["tool"]].parse(parse_parameters(given["pairs"]))
    if command.name == "submit" and given["workflow_type"] != "first":
        kind = _workflows()[given["workflow_type"]].parameters
        msgspec.convert(parse_parameters(given["pairs"]), kind)


@pytest.mark.parametrize("page", PAGES[:1] + PAGES[2:], ids=lambda page: page.stem)
def test_a_command_in_a_sentence_exists(page: Path) -> None:
    """`agentd …` in a sentence is a command, and has the options that are named there."""
    spans = re.findall(r"(?<!`)`agentd ([a-z][^`]*)`", re.sub(r"```.*?```", "", _text(page), flags=re.DOTALL))
    for span in spans:
        if "/" in span.partition(" ")[0]:
            continue
        command, rest = _command(re.sub(r"[\[\]]", " ", span).split())
        known = {name for option in command.params for name in option.opts} | {"--help"}

        assert [word for word in rest if word.startswith("--") and word not in known] == [], span


@pytest.mark.parametrize("words", [pytest.param(words, id=line) for line, words in LINES.items() if LOCAL.match(line)])
def test_a_command_that_needs_no_network_works(tmp_path: Path, words: list[str]) -> None:
    """What can run here runs in a scratch folder, with the files that the documents ask the reader to write."""
    config = tmp_path / "agentd.toml"
    config.write_text("[node]\n", encoding="utf-8")
    config.chmod(0o600)
    (first,) = [block for block in _blocks(GUIDES[2], "yaml") if "Count the guests" in block]
    (tmp_path / "first.yaml").write_text(first, encoding="utf-8")
    command = [str(SCRIPTS / "agentd"), "--config", str(config), *words]
    command = [word.replace("/tmp/first.yaml", str(tmp_path / "first.yaml")) for word in command]  # noqa: S108
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_target_of_make_that_a_document_names_exists() -> None:
    """`make …` in a document is a target of the Makefile, and each target with a help text is in the documents."""
    text = "\n".join(map(_text, GUIDES))
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", text, re.MULTILINE))
    targets = set(re.findall(r"^([a-z]+):.*##", _text(ROOT / "Makefile"), re.MULTILINE))

    assert named - targets == set()
    assert targets - named <= {"help", "lock", "clean"}


# -- links and paths ---------------------------------------------------------------------------------------------------


@functools.cache
def _files() -> frozenset[str]:
    """Return every end, from a folder on, of the path of every file and folder."""
    ends: set[str] = set()
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in SKIPPED and not name.startswith(".venv")]
        for name in [*files, *folders]:
            parts = Path(folder, name).relative_to(ROOT).parts
            ends |= {"/".join(parts[start:]) for start in range(len(parts))}
    return frozenset(ends)


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", _text(page), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_has_a_target(page: Path) -> None:
    """A link within the repository names a file that exists, and a heading in it."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", _text(page), flags=re.DOTALL)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target)

    assert broken == []


@pytest.mark.parametrize("page", PAGES[:1] + PAGES[2:], ids=lambda page: page.stem)
def test_every_path_exists(page: Path) -> None:
    """A file or folder of the repository that a document names is there."""
    spans = re.findall(r"(?<!`)`([^`\s]+)`(?!`)", re.sub(r"```.*?```", "", _text(page), flags=re.DOTALL))
    paths = [
        span.partition("::")[0].rstrip("/")
        for span in spans
        if re.fullmatch(rf"[\w.-]+(/[\w.-]+)*(\.({ENDINGS})(::\S+)?|/)", span)
    ]

    assert [path for path in paths if path not in _files() | ELSEWHERE] == []


def test_the_map_is_that_of_the_repository() -> None:
    """Each folder of the map in contributing.md exists, and each package of the core is in it."""
    (block,) = [block for block in _blocks(GUIDES[2]) if block.startswith("agentd/")]
    folders, above = set(), ""
    for indent, name in re.findall(r"^( {0,2})(\w+)/ ", block, re.MULTILINE):
        above = above if indent else name
        folders.add(f"{above}/{name}" if indent else name)
    packages = {str(path.parent.relative_to(ROOT)) for path in (ROOT / "agentd").glob("*/__init__.py")}

    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []
    assert packages <= folders


# -- the plugins of the documents --------------------------------------------------------------------------------------


class Entry:
    """The entry point of a plugin that is in memory."""

    def __init__(self, made: ModuleType) -> None:
        """Keep the plugin."""
        self.made = made

    def load(self) -> ModuleType:
        """Return the plugin."""
        return self.made


def test_the_plugin_of_the_page_about_hooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The blocks of docs/plugins.md are one plugin that loads, and each of its hooks returns what the page says."""
    module = ModuleType("agentd_hello")
    monkeypatch.setitem(sys.modules, "agentd_hello", module)
    exec("\n".join(_blocks(ROOT / "docs" / "plugins.md", "python")), vars(module))  # noqa: S102 - what is under test
    monkeypatch.setattr(manager, "installed", lambda: {"hello": Entry(module), "words": Entry(ModuleType("words"))})
    net = Net(tmp_path, "nats://127.0.0.1:1")
    net.settings |= {"hello": {"word": "Good morning"}, "instances": {"hello": {"roles": ["hello"]}}}
    (tmp_path / "empty").write_text("")
    plugins = manager.Plugins(net.config(), {"hello"})
    tools = plugins.tools("pve1", None)
    (rights,) = plugins.rights("pve1", None)  # type: ignore[arg-type]

    async def asked() -> tuple[Any, list[Right]]:
        nothing: Any = None
        return await tools["greet"].run(nothing, tools["greet"].parse({"name": "Ada"})), await rights()

    greeting, needed = asyncio.run(asked())
    asyncio.run(plugins.stdio()(None, "ada", tools, True, ()))  # type: ignore[arg-type]  # noqa: FBT003 - as documented
    (check,) = plugins.checks("pve1", None, None)  # type: ignore[arg-type]
    reader = plugins.reader()
    (task,) = plugins.workflows()["welcome"].plan(module.Who("Ada"))

    assert plugins.status["hello"].reason == ""
    assert plugins.role("hello").services == ("hello",)
    assert plugins.services() == ["hello"]
    assert plugins.loaded() == ["hello", "words"]
    assert greeting.text == "Good morning, Ada"
    assert tools["greet"].parse(task.parameters) == module.Who("Ada")
    assert [item.privilege for item in needed] == ["VM.Audit"]
    assert capsys.readouterr().out == "ada may call 1 tools\n"
    assert [str(fault) for fault in reader.check([tmp_path / "empty"])] == [f"{tmp_path}/empty:1:1: the file is empty"]
    assert [finding.level for finding in check.run()] == ["warning"]  # type: ignore[union-attr]
    assert [item.name for item in reader.listed()] == ["welcome"]
    assert reader.schema() == {"type": "string"}
    situation = Situation("guest 101", evidence=[Evidence("journal", "FC link down")])
    assert [cause.text for rule in plugins.diagnosis_rules() for cause in rule(situation)] == [
        "the fibre channel link is down"
    ]
    assert all(hasattr(module, name) for name in vars(plugins._manager.hook) if name.startswith(PROJECT))  # noqa: SLF001


def test_the_first_plugin(tmp_path: Path, nats_server: NatsServer) -> None:
    """Following "Your first plugin" literally ends with a call of its tool."""
    section = _text(GUIDES[2]).partition("## Your first plugin")[2]
    files = re.findall(r"^`(hello/[^`]+)`:\n\n```\w+\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    assert [name for name, _ in files] == [
        "hello/pyproject.toml",
        "hello/agentd_hello/__init__.py",
        "hello/agentd.toml",
    ]
    for name, text in files:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("nats://127.0.0.1:4222", nats_server.url), encoding="utf-8")
    installed = tmp_path / "site"
    (install, *_), (call, *_) = (
        [line for line in block.splitlines() if line.startswith(".venv")]
        for kind, block in _fenced(section)
        if not kind
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(installed),
        "AGENTD_CONFIG": str(tmp_path / "hello" / "agentd.toml"),
        "STATE_DIRECTORY": str(tmp_path / "state"),
    }

    def run(line: str, *more: str) -> str:
        command = [str(SCRIPTS / word.removeprefix(".venv/bin/")) if ".venv" in word else word for word in line.split()]
        done = subprocess.run(
            [*command, *more], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(install, "--target", str(installed), "--no-deps", "--quiet", "--no-index", "--disable-pip-version-check")
    assert "hello" in run(".venv/bin/agentd config check")
    run(".venv/bin/agentd provision")
    with subprocess.Popen([str(SCRIPTS / "agentd"), "run", "hello"], cwd=tmp_path, env=environment) as daemon:
        try:
            until(lambda: "greet" in run(".venv/bin/agentd tools"), "the tool is offered", 60)
            assert "Hello, you" in run(call)
        finally:
            daemon.terminate()
