"""Finds plugins, calls their hooks, and stores the status and reason of each.

There is one typed method for each hook; no other module uses pluggy.  The configuration decides which plugins an
instance needs; the others are blocked before they are loaded, so that a monitor host never imports the MCP SDK.
A plugin that fails has a status and a reason; it does not stop the daemon, unless it had to provide the role itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import pluggy

from agentd.config import load as configuration
from agentd.errors import ConfigError
from agentd.plugins import hookspecs
from agentd.plugins.role import Role, Settings
from agentd.similar import suggestion
from agentd.tools.definition import BrokenTool, Tool, Toolbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from agentd.bus.jetstream import Bus
    from agentd.config.load import Config
    from agentd.plugins.checks import Check
    from agentd.plugins.diagnosis import DiagnosisRule
    from agentd.plugins.workflow_files import Reader
    from agentd.proxmox.client import Proxmox
    from agentd.tools.definition import Right
    from agentd.wire.workflow import Definition

GROUP: Final = "agentd"
LOADED, BLOCKED, BROKEN = "loaded", "blocked", "broken"


@dataclass
class PluginStatus:
    """The result of loading one plugin, and the reason."""

    name: str
    status: str
    reason: str = ""
    quarantined: list[BrokenTool] = field(default_factory=list)


def installed() -> dict[str, EntryPoint]:
    """Return every installed plugin by the name of its entry point."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def needed_plugins(config: Config, roles: Iterable[str]) -> set[str]:
    """Return the plugins of an instance: its roles, and what is enabled."""
    return set(roles) | {name for name, section in config.plugins.items() if section.get("enabled") is True}


class Plugins:
    """The plugins of one instance."""

    def __init__(self, config: Config, names: set[str]) -> None:
        """Load the plugins `names` and what they require, and block all others.

        Raises ConfigError if one is not installed.
        """
        self._config = config
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self.status: dict[str, PluginStatus] = {}
        available = installed()
        missing = set(names)
        while missing:
            for name in sorted(missing):
                if name not in available:
                    raise ConfigError(f"no plugin brings {name!r}{suggestion(name, sorted(available))}")
                self._load(name, available[name])
            missing = {other for name in missing for other in self._call_hook(name, "agentd_requires") or ()}
            missing -= set(self.status)
        for name in set(available) - set(self.status):
            self._manager.set_blocked(name)
            self.status[name] = PluginStatus(name, BLOCKED, "this instance does not need it")
        self.status = {name: self.status[name] for name in available}
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise ConfigError(f"a plugin implements a hook that there is not: {error}") from error

    def _load(self, name: str, entry: EntryPoint) -> None:
        try:
            self._manager.register(entry.load(), name=name)
        except Exception as error:  # noqa: BLE001 - a foreign plugin may raise anything; it is shown
            self._mark_broken(name, error)
        else:
            self.status[name] = PluginStatus(name, LOADED)

    def _mark_broken(self, name: str, error: Exception) -> None:
        self.status[name] = PluginStatus(name, BROKEN, f"{type(error).__name__}: {error}")
        if self._manager.has_plugin(name):
            self._manager.unregister(name=name)

    def _call_hook(self, name: str, hook: str, **arguments: Any) -> Any:  # noqa: ANN401 - each hook has its own
        """Call one hook of one plugin; None if the plugin does not implement it."""
        plugin = self._manager.get_plugin(name)
        caller = getattr(self._manager.hook, hook)
        if plugin is None or all(implementation.plugin is not plugin for implementation in caller.get_hookimpls()):
            return None
        others = [other for other in self._manager.get_plugins() if other is not plugin]
        answers = self._manager.subset_hook_caller(hook, others)(**arguments)
        return answers[0] if answers else None

    def loaded(self) -> list[str]:
        """Return the names of the plugins that are loaded."""
        return [name for name, status in self.status.items() if status.status == LOADED]

    def settings(self, name: str) -> Settings:
        """Return the validated section `[<name>]`; raises ConfigError."""
        kind = self._call_hook(name, "agentd_settings") or Settings
        found: Settings = configuration.plugin_settings(self._config, name, kind)
        return found

    def role(self, name: str) -> Role:
        """Return the role of plugin `name`; raises ConfigError if it provides none."""
        found = self._role(name)
        if found is None:
            status = self.status[name]
            raise ConfigError(f"the plugin {name!r} brings no role: {status.reason or 'it implements no agentd_role'}")
        return found

    def roles(self) -> dict[str, Role]:
        """Return every role that a loaded plugin provides, by name."""
        found = {name: self._role(name) for name in self.loaded()}
        return {name: role for name, role in found.items() if role is not None}

    def _role(self, name: str) -> Role | None:
        found = self._call_hook(name, "agentd_role")
        if not isinstance(found, Role):
            return None
        configure: Callable[[Settings], None] | None = getattr(found, "configure", None)
        if configure is not None:
            configure(self.settings(name))
        return found

    def services(self) -> list[str]:
        """Return the services of the roles that the loaded plugins provide."""
        return sorted({service for role in self.roles().values() for service in role.services})

    def tools(self, node: str, proxmox: Proxmox | None, bus: Bus | None = None) -> dict[str, Tool]:
        """Return all tools by name; an invalid one is quarantined with a reason."""
        found: dict[str, Tool] = {}
        rules = self.diagnosis_rules()
        for name in self.loaded():
            toolbox = Toolbox(node, proxmox, self.settings(name), self._config.node.state_dir, bus, rules)
            try:
                offered = self._call_hook(name, "agentd_tools", toolbox=toolbox) or []
            except Exception as error:  # noqa: BLE001
                self._mark_broken(name, error)
                continue
            for tool in offered:
                self._add_tools(name, tool, found)
        return found

    def _add_tools(self, plugin: str, offered: Tool | BrokenTool, found: dict[str, Tool]) -> None:
        if isinstance(offered, Tool) and offered.name not in found:
            found[offered.name] = offered
            return
        if isinstance(offered, Tool):
            offered = BrokenTool(offered.name, f"{found[offered.name].service} has a tool of that name already")
        self.status[plugin].quarantined.append(offered)

    def diagnosis_rules(self) -> tuple[DiagnosisRule, ...]:
        """Return the rules of all plugins for diagnoses."""
        return tuple(rule for name in self.loaded() for rule in self._call_hook(name, "agentd_diagnosis_rules") or ())

    def rights(self, node: str, proxmox: Proxmox) -> list[Callable[[], Awaitable[list[Right]]]]:
        """Return the functions that find the rights that the tools of each plugin need."""
        found = []
        for name in self.loaded():
            toolbox = Toolbox(node, proxmox, self.settings(name), self._config.node.state_dir)
            found.append(self._call_hook(name, "agentd_rights", toolbox=toolbox))
        return [learner for learner in found if learner is not None]

    def checks(self, node: str, proxmox: Proxmox | None, bus: Bus) -> list[Check]:
        """Return the checks that all plugins add to those of the monitor."""
        found: list[Check] = []
        for name in self.loaded():
            toolbox = Toolbox(node, proxmox, self.settings(name), self._config.node.state_dir, bus)
            found += self._call_hook(name, "agentd_checks", toolbox=toolbox) or []
        return found

    def workflows(self) -> dict[str, Definition]:
        """Return the workflow definitions of all plugins by name."""
        found: dict[str, Definition] = {}
        for name in self.loaded():
            for workflow in self._call_hook(name, "agentd_workflows", tools=lambda: known_tools(self._config)) or []:
                if workflow.name in found:
                    self.status[
                        name
                    ].reason = f"its workflow {workflow.name!r} is left out: another plugin has that name"
                else:
                    found[workflow.name] = replace(workflow, source=f"plugin {name}")
        return found

    def reader(self) -> Reader:
        """Return the reader of workflow files; raises ConfigError without one."""
        for name in self.loaded():
            arguments = {"settings": self.settings(name), "tools": lambda: known_tools(self._config)}
            found: Reader | None = self._call_hook(
                name, "agentd_workflow_reader", workflows=self.workflows(), **arguments
            )
            if found is not None:
                return found
        raise ConfigError("no plugin reads workflow files")

    def stdio(self) -> hookspecs.Stdio:
        """Return the function that serves tools over stdin and stdout; raises ConfigError if no plugin provides one."""
        for name in self.loaded():
            found = self._call_hook(name, "agentd_stdio")
            if found is not None:
                return cast("hookspecs.Stdio", found)
        raise ConfigError("no plugin serves tools over stdin and stdout; the plugin mcp-bridge does")


class _NoProxmox:
    """Replaces Proxmox where tools are only inspected: every method raises."""

    settings = None

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        def fail(*_: object, **__: object) -> NoReturn:
            raise AssertionError(f"{name}: this tool may only be inspected")

        return fail


def every_plugin(config: Config) -> Plugins:
    """Return all installed plugins, whatever the roles of this instance."""
    return Plugins(config, set(installed()))


def known_tools(config: Config) -> dict[str, Tool]:
    """Return every tool of the installed plugins, for inspection only.

    To check a plan, the name, service, tier and parameters of tools that run on other nodes must be known.
    """
    return every_plugin(config).tools(config.node.name, cast("Proxmox", _NoProxmox()))
