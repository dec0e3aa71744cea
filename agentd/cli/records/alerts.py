"""`agentd alerts` and `agentd checks`: what the monitors see, silences and acknowledgements.

They call tools of the service `monitor`, so that policy and audit hold as for any call.
"""

from __future__ import annotations

from typing import Any, Final

import click

from agentd.cli.context import App, Group, passes, run_async
from agentd.cli.freeze import parse_duration
from agentd.cli.output import alert_tables
from agentd.client import tool_calls
from agentd.errors import UsageError

WAIT: Final = 30.0
"""Seconds to wait for a monitor."""
HOUR: Final = 3600.0
STATES: Final = ("firing", "pending", "resolved", "all")
LEVELS: Final = ("unknown", "warning", "critical")


def _call(app: App, tool: str, parameters: dict[str, Any]) -> Any:  # noqa: ANN401 - the result of the tool
    async def work() -> Any:  # noqa: ANN401
        async with app.bus() as (bus, config):
            return (await tool_calls.call(bus, config.principal, tool, parameters, seconds=WAIT)).result

    return run_async(work())


@click.group(cls=Group, invoke_without_command=True)
@click.pass_context
def alerts(context: click.Context) -> None:
    """List, acknowledge and silence alerts.

    Without a subcommand, the alerts that are firing are listed. `agentd checks` lists all findings.
    """
    if context.invoked_subcommand is None:
        context.invoke(list_alerts)


@alerts.command(name="list")
@click.option("--state", type=click.Choice(STATES), default="firing", show_default=True, help="State of the alerts.")
@click.option("--name", default="", help="Only list alerts of this type, such as node_down.")
@click.option("--limit", type=click.IntRange(1, 500), default=100, show_default=True, help="Maximum number of alerts.")
@passes
def list_alerts(app: App, state: str, name: str, limit: int) -> None:
    """List alerts, the worst and newest first."""
    app.show(_call(app, "list_alerts", {"state": state, "name": name, "limit": limit}), alert_tables.alerts)


@alerts.command()
@click.argument("alert_id", metavar="ID")
@click.option("--for", "duration", default="1d", show_default=True, help="How long it holds: 30min, 4h, 2d.")
@passes
def ack(app: App, alert_id: str, duration: str) -> None:
    """Acknowledge an alert: no reminders, also if it begins again.

    ID is the first column of `agentd alerts`. Needs tier operate.
    """
    found = _call(app, "acknowledge_alert", {"id": alert_id, "hours": parse_duration(duration) / HOUR})
    app.show({"total": 1, "alerts": [found]}, alert_tables.alerts)


@alerts.command()
@click.argument("matchers", nargs=-1, required=True, metavar="LABEL=PATTERN...")
@click.option("--reason", required=True, help="Reason; shown in the list of silences.")
@click.option("--for", "duration", default="2h", show_default=True, help="How long it holds: 30min, 4h, 2d.")
@passes
def silence(app: App, matchers: tuple[str, ...], reason: str, duration: str) -> None:
    """Silence the alerts that all matchers fit.

    Labels are alertname, severity, node, guest and so on; a pattern may have * and ?; LABEL!=PATTERN negates. Silenced
    alerts are listed, but no receiver is notified. Needs tier operate.
    """
    for matcher in matchers:
        if "=" not in matcher:
            raise UsageError(f"{matcher!r}: write LABEL=PATTERN or LABEL!=PATTERN, such as alertname=guest_cpu")
    hours = parse_duration(duration) / HOUR
    found = _call(app, "silence_alerts", {"matchers": list(matchers), "comment": reason, "hours": hours})
    app.show({"silences": [found]}, alert_tables.silences)


@alerts.command()
@passes
def silences(app: App) -> None:
    """List the silences that hold now."""
    app.show(_call(app, "list_silences", {}), alert_tables.silences)


@alerts.command()
@click.argument("silence_id", metavar="ID")
@passes
def unsilence(app: App, silence_id: str) -> None:
    """End a silence. Needs tier operate."""
    app.show({"silences": [_call(app, "delete_silence", {"id": silence_id})]}, alert_tables.silences)


@click.command()
@click.option("--level", type=click.Choice(LEVELS), default="unknown", show_default=True, help="The least level.")
@click.option("--check", "name", default="", help="Only list findings of this check, such as zfs_health.")
@click.option("--node", help="Only list findings about this node.")
@click.option(
    "--limit", type=click.IntRange(1, 500), default=100, show_default=True, help="Maximum number of findings."
)
@passes
def checks(app: App, level: str, name: str, node: str | None, limit: int) -> None:
    """List what the checks of the cluster found.

    The checks of nodes, guests, storages, backups and of the cluster run in the monitors every 15 seconds.
    """
    wanted = {"level": level, "check": name, "limit": limit} | ({"node": node} if node else {})
    app.show(_call(app, "list_findings", wanted), alert_tables.checks)
