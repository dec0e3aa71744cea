"""The tables of `agentd tools`, `agentd explain` and `agentd call`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agentd.cli.output.console import print_line, print_rows, safe, safe_lines
from agentd.printable import as_json
from agentd.wire.codec import plain
from agentd.wire.messages import Preview

if TYPE_CHECKING:
    from agentd.cli.explain import Explanation
    from agentd.cli.tools import Description, Entry
    from agentd.wire.messages import ToolReply


def tools(found: list[Entry]) -> None:
    """Print the tools by area."""
    width = max((len(entry.name) for entry in found), default=0)
    for number, area in enumerate(dict.fromkeys(entry.area for entry in found)):
        if number:
            print_line()
        print_line(f"[bold]{safe(area)}[/]")
        for entry in found:
            if entry.area == area:
                note = "  [dim](no running agent offers it)[/]" if entry.agents == [] else ""
                line = f"  {safe(entry.name):<{width}}  {safe(entry.tier):<7}  {safe(entry.description)}{note}"
                print_line(line, whole=True)
    print_line("\n[dim]agentd tools NAME describes one; agentd call NAME KEY=VALUE calls it[/]")


def tool(found: Description) -> None:
    """Print the description of one tool."""
    from agentd.cli.tools import needs_approval

    print_line(f"[bold]{safe(found.name)}[/]  {safe(found.area)}\n\n{safe_lines(found.description)}\n", whole=True)
    rows = [
        [safe(field.name), safe(field.type), "required" if field.required else safe(_default(field.default)),
         safe(field.meaning)]
        for field in found.parameters
    ]  # fmt: skip
    print_rows(["PARAMETER", "TYPE", "DEFAULT", "MEANING"], rows, "no parameters")
    if found.parameters and found.notes:
        print_line(f"\n{safe(found.notes)}")
    print_line()
    print_rows(
        ["RESULT", "TYPE", "MEANING"],
        [[safe(f.name), safe(f.type), safe(f.meaning)] for f in found.result],
        "no result",
    )
    print_line()
    approval = ": a second principal has to approve the call" if needs_approval(found.tier) else ""
    print_line(f"[bold]tier[/]        {safe(found.tier)}{approval}", whole=True)
    for says, tier in found.raises.items():
        print_line(f"            {safe(tier)} with {safe(says)}", whole=True)
    print_line(f"[bold]repeat[/]      {safe(found.repeat)}", whole=True)
    agents = "not known" if found.agents is None else safe(", ".join(found.agents) or "no running agent")
    print_line(f"[bold]offered by[/]  {agents}", whole=True)
    print_line(f"[bold]example[/]     {safe(found.example)}", whole=True)


def _default(value: object) -> str:
    return "-" if value is None or value == "" else value if isinstance(value, str) else as_json(plain(value))


def explanation(found: Explanation) -> None:
    """Print the explanation of one code."""
    facts = {
        "code": found.code,
        "meaning": " ".join(found.meaning.split()),
        "causes": found.causes,
        "do": found.advice,
        "exit code": str(found.exit_code),
        "kind of": found.kind_of,
        "retried": "yes, tasks are retried by themselves" if found.retried else "",
    }
    for name, text in facts.items():
        if text:
            print_line(f"[bold]{safe(f'{name:<9}')}[/]  {safe(text)}", whole=True)


def explanations(found: list[Explanation]) -> None:
    """Print all codes."""
    rows = [
        [safe(entry.code), str(entry.exit_code), safe(entry.meaning.partition("\n\n")[0].replace("\n", " "))]
        for entry in found
    ]
    print_rows(["CODE", "EXIT", "MEANING"], rows, "no codes")


def reply(reply: ToolReply) -> None:
    """Print the result of a call."""
    from agentd.cli.output import values

    values.show(plain(reply.result))
    for warning in reply.warnings:
        print_line(f"[yellow]{safe(warning)}[/]")
    if reply.undo:
        print_line(f"[dim]undo with: agentd undo {safe(reply.undo)}[/]")


def preview(reply: ToolReply) -> None:
    """Print what a call would change."""
    found = msgspec.convert(reply.result, Preview)
    if found.already:
        print_line(f"{safe(found.tool)} would change nothing: already done")
    for target in found.targets:
        print_line(f"{safe(found.tool)} would change {safe(target.title)}")
        for line in target.loses:
            print_line(f"  and with it {safe(line)}")
    if found.undo is not None:
        print_line(f"[dim]agentd undo would call {safe(found.undo.tool)}[/]")
    elif not found.already:
        print_line("cannot be undone")
    if not found.targets and not found.already:
        print_line(f"{safe(found.tool)} would run; it does not report what it changes")
    for warning in reply.warnings:
        print_line(f"[yellow]{safe(warning)}[/]")
