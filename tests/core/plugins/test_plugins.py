"""Plugins: which are loaded, which are blocked, and what happens to a broken one."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import pytest

from agentd import hookimpl
from agentd.errors import ConfigError
from agentd.plugins import manager
from agentd.plugins.manager import Plugins, needed_plugins
from agentd.plugins.role import Settings
from agentd.tools.definition import BrokenTool, Repeat, Tool
from agentd.wire.messages import Tier
from agentd.wire.workflow import Definition
from core.tools.test_tools import Made, Make
from harness import ALL_ROLES, Net

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agentd.config.load import Config

HEAVY = ("mcp", "jinja2", "libcloud", "highspy", "aiohttp", "agentd_mcp", "agentd_proxmox", "agentd_orchestrator")


@dataclass
class Entry:
    """An entry point whose plugin is made on loading."""

    made: Callable[[], object]

    def load(self) -> object:
        """Import the plugin."""
        return self.made()


def _module(**hooks: Callable[..., object]) -> ModuleType:
    made = ModuleType("plugin")
    vars(made).update({name: hookimpl(hook) for name, hook in hooks.items()})
    return made


async def _run(_call: Any, _parameters: Any) -> Made:
    return Made(1)


def _tool(name: str, service: str) -> Tool:
    return Tool(name, service, "Do it.", Tier.READ, Repeat.IDEMPOTENT, "c", Make, Made, _run)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return a configuration without Proxmox."""
    return Net(tmp_path, "nats://127.0.0.1:1").config()


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that replaces what is installed."""

    def replace(**made: Callable[[], object]) -> None:
        monkeypatch.setattr(manager, "installed", lambda: {name: Entry(item) for name, item in made.items()})

    return replace


def test_bundled_plugins_have_their_roles(config: Config) -> None:
    """What agentd brings comes in by entry points, loads, and brings the four roles."""
    found = Plugins(config, set(ALL_ROLES))

    assert {role: found.role(role).name for role in ALL_ROLES} == {role: role for role in ALL_ROLES}
    assert set(found.loaded()) == {*ALL_ROLES, "mcp-proxmox"}, "the bridge requires the tools of Proxmox"
    assert found.services() == ["mcp-proxmox", "monitor", "specialist"]
    assert "vm_deployment" in found.workflows()


async def test_unconfigured_tools_are_listed(config: Config) -> None:
    """Where nothing of Proxmox is configured, its tools are known by name, service and tier; none of them can run."""
    found = await asyncio.to_thread(manager.known_tools, config)

    assert (found["create_vm"].service, found["create_vm"].tier) == ("mcp-proxmox", Tier.OPERATE)
    assert found["summarize_health"].service == "specialist"
    with pytest.raises(AssertionError, match="this tool may only be inspected"):
        await found["list_nodes"].run(cast("Any", None), None)


def test_blocked(config: Config, install: Callable[..., None]) -> None:
    """A plugin that the instance does not need is never imported, and its status says so."""

    def import_it() -> object:
        raise AssertionError

    install(wanted=_module, other=import_it)
    found = Plugins(config, {"wanted"})

    assert found.loaded() == ["wanted"]
    assert (found.status["other"].status, found.status["other"].reason) == (
        manager.BLOCKED,
        "this instance does not need it",
    )


@pytest.mark.parametrize("error", [ImportError("no module named libcloud"), SyntaxError("line 3"), SystemError()])
def test_broken_on_import(config: Config, install: Callable[..., None], error: Exception) -> None:
    """A plugin that cannot be imported has a status and a reason; the others are loaded."""

    def fail() -> object:
        raise error

    install(bad=fail, good=_module)
    found = Plugins(config, {"bad", "good"})

    assert found.loaded() == ["good"]
    assert found.status["bad"].status == manager.BROKEN
    assert found.status["bad"].reason == f"{type(error).__name__}: {error}"
    with pytest.raises(ConfigError, match=f"'bad' brings no role: {type(error).__name__}"):
        found.role("bad")


def test_broken_tools(config: Config, install: Callable[..., None]) -> None:
    """A plugin whose tools cannot be made is left out with its reason; the others' tools stay."""

    def fail(toolbox: object) -> object:
        raise KeyError(str(toolbox)[:0] + "url")

    install(
        bad=lambda: _module(agentd_tools=fail),
        good=lambda: _module(agentd_tools=lambda toolbox: [_tool(f"look_{toolbox.node}", "good")]),
    )
    found = Plugins(config, {"bad", "good"})

    assert set(found.tools("pve1", None)) == {"look_pve1"}
    assert found.status["bad"].status == manager.BROKEN
    assert found.status["bad"].reason == "KeyError: 'url'"
    assert found.loaded() == ["good"]


def test_quarantined_tools(config: Config, install: Callable[..., None]) -> None:
    """A tool that does not validate, and the second of one name, are kept apart with their reasons."""
    install(
        one=lambda: _module(agentd_tools=lambda: [_tool("look", "one"), BrokenTool("bad", "no docstring")]),
        two=lambda: _module(agentd_tools=lambda: [_tool("look", "two"), _tool("other", "two")]),
    )
    found = Plugins(config, {"one", "two"})
    tools = found.tools("pve1", None)

    assert {name: tool.service for name, tool in tools.items()} == {"look": "one", "other": "two"}
    assert found.status["one"].quarantined == [BrokenTool("bad", "no docstring")]
    assert found.status["two"].quarantined == [BrokenTool("look", "one has a tool of that name already")]


def test_workflows_of_one_name(config: Config, install: Callable[..., None]) -> None:
    """Of two workflows of one name the first counts, and the second plugin's status says that it was left out."""

    def definition() -> Definition:
        return Definition("same", "It does it.", Make, lambda _: [])

    install(
        one=lambda: _module(agentd_workflows=lambda: [definition()]),
        two=lambda: _module(agentd_workflows=lambda: [definition()]),
    )
    found = Plugins(config, {"one", "two"})

    assert set(found.workflows()) == {"same"}
    assert "'same' is left out" in found.status["two"].reason


def test_a_hook_with_a_typo(config: Config, install: Callable[..., None]) -> None:
    """A hook whose name agentd does not know is an error at start that names it, not a plugin that does nothing."""

    def tolls() -> list[Tool]:
        return []

    install(bad=lambda: _module(agentd_tolls=tolls))
    with pytest.raises(ConfigError, match="agentd_tolls"):
        Plugins(config, {"bad"})


def test_not_installed(config: Config) -> None:
    """A plugin that is not installed is an error that names those that are."""
    with pytest.raises(ConfigError, match=r"no plugin brings 'backup'; there are .*monitor"):
        Plugins(config, {"backup"})


def test_settings(tmp_path: Path, install: Callable[..., None]) -> None:
    """A plugin's section is checked by its own type; a wrong key is an error that names it."""

    class Mine(Settings):
        every: int = 5

    install(mine=lambda: _module(agentd_settings=lambda: Mine))
    net = Net(tmp_path, "nats://127.0.0.1:1")
    net.settings["instances"] = {"one": {"roles": ["mine"]}}
    net.settings["mine"] = {"every": 7}
    assert Plugins(net.config(), {"mine"}).settings("mine") == Mine(every=7)

    net.settings["mine"] = {"evry": 7}
    with pytest.raises(ConfigError, match="evry"):
        Plugins(net.config(), {"mine"}).settings("mine")


def test_wanted(tmp_path: Path) -> None:
    """An instance needs the plugins of its roles, and what the configuration enables."""
    net = Net(tmp_path, "nats://127.0.0.1:1")
    assert needed_plugins(net.config(), ["monitor"]) == {"monitor"}

    net.settings["specialist"] = {"enabled": True}
    assert needed_plugins(net.config(), ["mcp-bridge"]) == {"mcp-bridge", "specialist"}


def test_required_plugins_are_loaded(config: Config, install: Callable[..., None]) -> None:
    """A plugin that another one requires is loaded with it, and so is what that one requires; others are blocked."""
    install(
        first=lambda: _module(agentd_requires=lambda: ["second"]),
        second=lambda: _module(agentd_requires=lambda: ["third", "first"]),
        third=lambda: _module(agentd_tools=lambda toolbox: [_tool("act", toolbox.node)]),
        fourth=_module,
    )
    found = Plugins(config, {"first"})

    assert found.loaded() == ["first", "second", "third"]
    assert found.status["fourth"].status == "blocked"
    assert set(found.tools("pve1", None)) == {"act"}


def test_a_required_plugin_that_is_not_installed(config: Config, install: Callable[..., None]) -> None:
    """The instance does not start without it; the error names it."""
    install(first=lambda: _module(agentd_requires=lambda: ["second"]))

    with pytest.raises(ConfigError, match="no plugin brings 'second'; there are first"):
        Plugins(config, {"first"})


SCRIPT = """
import json, sys
from pathlib import Path
from agentd.config.load import load
from agentd.daemon import supervisor
from agentd.plugins import manager
loaded = load(Path(sys.argv[1]), {}, manager.installed())
supervisor.Supervisor(loaded, sys.argv[2], reload=lambda: loaded)
print(json.dumps(sorted(sys.modules)))
"""


def _modules(tmp_path: Path, role: str) -> set[str]:
    file = Net(tmp_path, "nats://127.0.0.1:1").config_file()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(file), role], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


async def test_a_monitor_host_loads_a_monitor(tmp_path: Path) -> None:
    """An instance that monitors imports neither the MCP SDK nor anything else that another role needs."""
    monitor, bridge = await asyncio.gather(
        asyncio.to_thread(_modules, tmp_path / "", "monitor"), asyncio.to_thread(_modules, tmp_path / "", "mcp-bridge")
    )

    assert "agentd_monitor" in monitor
    assert [item for item in HEAVY if item in monitor] == []
    assert "agentd_mcp" in bridge, "the question would find it"
