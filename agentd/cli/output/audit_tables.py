"""Tables of the audit: verdicts, recorded changes, what can be undone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentd.cli.output.console import json_text, print_line, print_rows, safe

if TYPE_CHECKING:
    from agentd.cli.records.audit import Verdict
    from agentd.wire.records import AuditRecord, EffectRecord


def verdicts(found: list[Verdict]) -> None:
    """Print the result of the check of each chain."""
    rows = [
        [
            "[red]✗[/]" if verdict.fault else "[green]✓[/]",
            safe(verdict.agent_id),
            f"{verdict.lines} lines",
            f"{verdict.first} to {verdict.last}{', older ones have expired' if verdict.trimmed else ''}"
            if verdict.lines
            else "",
            safe(verdict.fault),
        ]
        for verdict in found
    ]
    print_rows(["", "AGENT", "CHAIN", "", "FAULT"], rows, "no agent has an audit chain yet")
    for verdict in found:
        for text in [*verdict.faults[1:], *verdict.accepted]:
            print_line(f"{safe(verdict.agent_id)}: {safe(text)}")
    sources: dict[str, list[str]] = {}
    for verdict in found:
        sources.setdefault(verdict.keys, []).append(verdict.agent_id)
    for source, agents in sources.items():
        print_line(f"[dim]keys of {safe(', '.join(agents))}: {safe(source)}[/]")


def audit(found: list[AuditRecord]) -> None:
    """Print recorded changes."""
    rows = [
        [
            f"{record.timestamp:%Y-%m-%d %H:%M:%S}",
            safe(record.principal + (f" (approved by {record.approved_by})" if record.approved_by else "")),
            safe(record.tool),
            safe(record.outcome or record.phase),
            safe(record.key),
            safe(json_text(record.arguments) if record.arguments else ""),
        ]
        for record in found
    ]
    print_rows(["TIME", "PRINCIPAL", "TOOL", "RESULT", "KEY", "PARAMETERS"], rows, "no changes are recorded")


def undoable(found: list[EffectRecord]) -> None:
    """Print the calls that can be undone."""
    rows = [
        [safe(effect.key), safe(effect.tool), safe(effect.undo.tool), safe(json_text(effect.undo.parameters))]
        for effect in found
        if effect.undo
    ]
    print_rows(["CALL", "TOOL", "UNDONE BY", "PARAMETERS"], rows, "nothing can be undone")
