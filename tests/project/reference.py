"""Writes the reference of all tools, `plugins/agentd_proxmox/TOOLS.md`, from the tools themselves: `make docs`.

Beside it the table of what the policy decides, `agentd/safety/POLICY.md`, from the cases that its tests hold it to, and
the pages of reference_pages.py: settings, commands and metrics.

How a tool is proven is read from the tests: a tool that a test function calls by its name, beside the walk that only
asks whether methods may be called, has its effect read back if it changes something; if it reads, it is answered by the
simulated cluster, a file tool by real files, a cloud tool by a simulated cloud; a test that takes the fixture `facts`
compares it with what a real cluster answered.  All others are valid by the node's own schema, and no more is known.
"""

from __future__ import annotations

import ast
import os
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agentd.config import load
from agentd.plugins import manager
from agentd.wire.messages import Tier
from core.policy_cases import CASES
from project import reference_pages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agentd.tools.definition import Tool

HERE: Final = Path(__file__).parents[1]
FILE: Final = HERE.parent / "plugins" / "agentd_proxmox" / "TOOLS.md"
POLICY: Final = HERE.parent / "agentd" / "safety" / "POLICY.md"
POLICY_HEAD: Final = """\
# What the policy decides

Made from the cases of its tests by `make docs`. alice asks; a call is of a tool that needs a tier, on a guest that may
be protected. `denied`, `needs_plan` and `rejected` are the codes of the errors; nothing is done then.

"""
WALK: Final = "test_rights.py"
RECORDED, EFFECT, SIMULATED, FILES, CLOUD, SCHEMA = (
    "recorded answer",
    "effect read back",
    "answer of the simulator",
    "real files",
    "answer of a simulated cloud",
    "schema alone",
)
ELSEWHERE: Final = {"mcp-filesystem": FILES, "mcp-cloud": CLOUD}
"""Services whose reading tools are not about Proxmox, and what their tests read."""
UNSEEN: Final = frozenset({"regenerate_cloudinit"})
"""Tools that tests call, and whose effect the simulated cluster does not show."""
HEAD: Final = """\
# The tools

Generated from the tools by `make docs`; a test keeps it up to date. Over NATS and MCP each tool is called by its name
with these parameters; one with `?` is optional. `agentd call TOOL KEY=VALUE` is the same from the command line, and
`--dry-run` shows what would be changed.

Tiers: `read` changes nothing · `operate` can be undone · `destroy` and `exec` need the approval of another principal;
some parameters need a higher tier than their tool. Repeating: `idempotent` running twice has the result of once ·
`probed` reads the state first · `marked` finds its own mark · `unsafe` stops on doubt, and a person decides.
"""


def known() -> dict[str, Tool]:
    """Return every tool that an installed plugin defines."""
    return manager.known_tools(load.load(None, {}, manager.installed()))


def tested() -> dict[str, set[str]]:
    """Return for each text in a test function the arguments of the functions that contain it."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in sorted((HERE / "plugins").rglob("test_*.py")):
        if file.name != WALK:
            for function in _tests(ast.parse(file.read_text(encoding="utf-8"))):
                arguments = {arg.arg for arg in function.args.args}
                for node in ast.walk(function):
                    if isinstance(node, ast.Constant) and isinstance(node.value, str):
                        found[node.value] |= arguments | {"test"}
    return found


def _tests(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node


def proof(tool: Tool, where: set[str]) -> str:
    """Return how a tool is proven, given what the tests that name it take."""
    if not where or tool.name in UNSEEN:
        return SCHEMA
    if tool.tier is not Tier.READ:
        return EFFECT
    if tool.service in ELSEWHERE:
        return ELSEWHERE[tool.service]
    return RECORDED if "facts" in where else SIMULATED


def text() -> str:
    """Return the whole reference."""
    tests = tested()
    groups: dict[str, list[Tool]] = defaultdict(list)
    for tool in known().values():
        groups[tool.capability].append(tool)
    proofs = Counter(proof(tool, tests.get(tool.name, set())) for tools in groups.values() for tool in tools)
    counted = ", ".join(
        f"{kind} {proofs[kind]}" for kind in (EFFECT, SIMULATED, RECORDED, FILES, CLOUD, SCHEMA) if proofs[kind]
    )
    parts = [HEAD, f"{sum(proofs.values())} tools; proven by: {counted}.\n"]
    for name, tools in sorted(groups.items()):
        parts.append(f"## {name}\n")
        parts += [_entry(tool, tests.get(tool.name, set())) for tool in sorted(tools, key=lambda item: item.name)]
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _entry(tool: Tool, where: set[str]) -> str:
    schema = tool.input_schema()
    needed = set(schema.get("required", ()))
    given = " ".join(f"`{name}{'' if name in needed else '?'}`" for name in schema.get("properties", {})) or "none"
    answers = " ".join(f"`{name}`" for name in tool.output_schema().get("properties", {}))
    properties = ", ".join([tool.tiers(), str(tool.repeat), *(["stoppable"] if tool.stoppable else [])])
    first = " ".join(tool.description.split("\n\n")[0].split())
    lines = [f"**{tool.name}** ({properties}; {proof(tool, where)}): {first}", f"  {given} → {answers}"]
    return "- " + "\n".join(lines)


def decisions() -> str:
    """Return the table of what the policy decides."""
    lines = ["| | needs | granted | yes by | decided |", "|---|---|---|---|---|"]
    for case in CASES:
        yes = "" if case.yes is None else case.yes or "none"
        lines.append(f"| {case.message} | {case.needed} | {case.granted} | {yes} | {case.code or 'done'} |")
    return POLICY_HEAD + "\n".join(lines) + "\n"


PAGES: Final[dict[Path, Callable[[], str]]] = {
    FILE: text,
    POLICY: decisions,
    reference_pages.SETTINGS: reference_pages.settings,
    reference_pages.CLI: reference_pages.command_line,
    reference_pages.METRICS: reference_pages.metrics,
}
"""Every generated page, and what makes its text."""


def main() -> None:
    """Write every page."""
    for file, made in PAGES.items():
        file.write_text(made(), encoding="utf-8")
        sys.stdout.write(f"{os.path.relpath(file)}\n")


if __name__ == "__main__":
    main()
