"""Requests the workflows that alerts start (alerting/runs.py), and records on the alerts how they end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from pydantic import Field

from agentd import Settings, WorkflowRequest, subjects
from agentd_monitor.alerting import runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agentd import Context
    from agentd_monitor.alerting.book import AlertStates, Record
    from agentd_monitor.alerting.suppression import Condition, Silence

START_BY: Final = 600.0
"""Seconds within which an orchestrator must start the workflow: later, the alert may be about something else."""
ERROR_SHOWN: Final = 500
"""Maximum characters of the error of a workflow that are stored with its alert."""
PRINCIPAL: Final = "alerts"


class ActionSettings(Settings):
    """The workflow that an alert starts; the key is the name of the alert."""

    workflow: str = Field(description="type of the workflow, as in `agentd submit TYPE`")
    principal: Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$")] = Field(
        default=PRINCIPAL,
        description="principal that requests the workflow. It must be in [policy.principals], which defines what it "
        "may do; without that, nothing is started",
    )
    parameters: dict[str, Any] = Field(default={}, description="parameters of the workflow")
    labels: dict[str, str] = Field(
        default={}, description='parameters that are labels of the alert, such as `labels = { node = "node" }`'
    )
    severity: Literal["warning", "critical"] = Field(
        default="critical", description="the least severity of the alert that starts the workflow"
    )
    per_hour: int = Field(
        default=1,
        ge=1,
        le=60,
        description="number of workflows that this alert starts in an hour, for all objects together; for one object "
        "it is always one",
    )


class _View(msgspec.Struct, frozen=True):
    """The fields of a workflow that its alert records."""

    workflow_id: str
    status: str
    principal: str = ""
    error: str = ""


class AlertActions:
    """Starts the workflows of alerts, for the monitor that writes the alerts.

    problems  why the workflow of an alert is never started
    """

    def __init__(self, context: Context) -> None:
        self.problems: list[str] = []
        self._context = context
        self._actions: Mapping[str, ActionSettings] = {}
        self._sent: set[str] = set()
        self.configure(context.settings.actions)

    def configure(self, actions: Mapping[str, ActionSettings]) -> None:
        """Use these actions from now on, but for those that the policy does not name."""
        granted = self._context.policy.principals
        self._actions = {name: action for name, action in actions.items() if action.principal in granted}
        self.problems = [
            f"monitor.actions.{name} starts nothing: {action.principal} is not in [policy.principals]"
            for name, action in actions.items()
            if name not in self._actions
        ]

    def choose(self, alerts: AlertStates, at: float, facts: Iterable[Condition], silences: Iterable[Silence]) -> None:
        """Decide which workflows start now; the caller stores the alerts, then calls `follow`."""
        if self._actions:
            wanting = alerts.wanting(self._actions, at, facts, silences)
            for key, run in runs.due(wanting, alerts.records().values(), self._actions, at).items():
                alerts.record_run(key, run)

    async def follow(self, alerts: AlertStates, at: float) -> None:
        """Request the workflows that are not requested yet, and record what became of the others."""
        for key, record in list(alerts.records().items()):
            if record.run is not None and not record.run.over:
                alerts.record_run(key, await self._followed(record, record.run, at))

    async def _followed(self, record: Record, run: runs.Run, at: float) -> runs.Run:
        subject = subjects.event(run.workflow_id)
        workflow = (await self._context.bus.newest(subjects.WORKFLOWS, subject, _View)).value
        if workflow is None:
            action = self._actions.get(record.item.rule)
            if action is None or action.principal != run.principal or not 0 <= at - run.at <= START_BY:
                error = "no orchestrator has started it in time"
                return msgspec.structs.replace(run, status=runs.NOT_STARTED, error=error)
            if run.workflow_id not in self._sent:
                await self._request(record, run, action, at)
            return run
        if workflow.principal != run.principal:
            error = f"the id {run.workflow_id} is that of a workflow of {workflow.principal}"
            return msgspec.structs.replace(run, status=runs.NOT_STARTED, error=error)
        return msgspec.structs.replace(run, status=workflow.status, error=workflow.error[:ERROR_SHOWN])

    async def _request(self, record: Record, run: runs.Run, action: ActionSettings, at: float) -> None:
        request = WorkflowRequest(
            action.workflow,
            run.workflow_id,
            runs.parameters(record, action),
            requester_id=f"alert {record.item.rule}",
            start_by=max(0.0, START_BY - (at - run.at)),
        )
        await self._context.bus.store(subjects.request(run.principal), request)
        self._sent.add(run.workflow_id)
        self._context.log.warning(
            "an alert starts a workflow", alert=record.item.rule, workflow=run.workflow_id, kind=action.workflow
        )
