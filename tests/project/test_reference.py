"""The generated pages are those of this code, and everything that they list is described."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import click
import pluggy
import pytest

from agentd.plugins import hookspecs
from project import reference, reference_pages

if TYPE_CHECKING:
    from pathlib import Path

PLUGINS = reference_pages.DOCS / "plugins.md"


@pytest.mark.parametrize("file", [pytest.param(file, id=file.name) for file in reference.PAGES])
def test_a_generated_page_is_up_to_date(file: Path) -> None:
    """What the docs say of tools, decisions, settings, commands and metrics is what the code says."""
    if not file.exists():
        pytest.fail(f"{file} is missing: make docs")

    assert file.read_text(encoding="utf-8") == reference.PAGES[file](), f"{os.path.relpath(file)} is old: make docs"


def test_every_tool_of_the_service_is_proven_in_some_way() -> None:
    """No tool is known by its schema alone, but for those that the reference names."""
    tests = reference.tested()
    proofs = {name: reference.proof(tool, tests.get(name, set())) for name, tool in reference.known().items()}

    assert {name for name, proof in proofs.items() if proof == reference.SCHEMA} == reference.UNSEEN


def test_every_setting_is_described() -> None:
    """Each setting has a description, and each number that is not a count has a unit."""
    tables = reference_pages.tables()
    described = {
        f"{heading} {key}": (text, kind.model_fields[key].annotation)
        for heading, kind in tables.items()
        for key, text in reference_pages.descriptions(kind).items()
        if reference_pages.table_below(kind.model_fields[key].annotation) is None
    }

    assert {"[bus]", "[bus.admin]", "[[bus.queues]]", "[instances.NAME]", "[monitor]", "[mcp-proxmox]"} <= set(tables)
    assert [name for name, (text, _) in described.items() if not text] == []
    assert [
        name
        for name, (text, annotation) in described.items()
        if annotation in {float, float | None} and not reference_pages.unit(text)
    ] == []


def test_every_command_and_option_is_described() -> None:
    """Each command has a help text whose first line is shown whole in the list, and each of its options has one."""
    commands = reference_pages.commands()
    options = {
        f"{path} {option.opts[-1]}": option.help
        for path, command in commands.items()
        for option in command.params
        if isinstance(option, click.Option)
    }

    assert [path for path, command in commands.items() if not command.help] == []
    assert [path for path, command in commands.items() if command.get_short_help_str(63).endswith("...")] == []
    assert [name for name, text in options.items() if not text] == []


def test_every_metric_is_described() -> None:
    """Each metric has a sentence, in the code and so in the generated page."""
    rows = [line.split(" | ") for line in reference_pages.metrics().splitlines() if line.startswith("| `")]

    assert len(rows) >= 30
    assert [row[0] for row in rows if len(row[3].strip(" |")) < 10] == []


def test_every_hook_is_described() -> None:
    """Each hook has a docstring that says what to return, a section in docs/plugins.md, and an example in it."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    hooks = {name for name in vars(manager.hook) if name.startswith("agentd_")}
    text = PLUGINS.read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))

    assert len(hooks) >= 6
    assert [name for name in hooks if not (getattr(hookspecs, name).__doc__ or "").startswith("Return ")] == []
    assert set(sections) == hooks
    assert [name for name in hooks if not sections[name].startswith("\nReturn ")] == []
    assert [name for name in hooks if f"@hookimpl\ndef {name}(" not in sections[name]] == []
    assert [name for name in hooks if f"| [`{name}`](#{name}) |" not in text] == []
