"""Settings of the section `[orchestrator]`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from agentd import Settings
from agentd_orchestrator.engine.executor import KEPT


class OrchestratorSettings(Settings):
    """Settings of the orchestrator, section `[orchestrator]`."""

    slots: int = Field(256, ge=1, le=4096, description="number of messages that are processed at the same time")
    max_open_workflows: int = Field(
        5000, ge=1, description="number of unfinished workflows above which no new request is read"
    )
    open_workflows_per_principal: int = Field(
        100,
        ge=1,
        description="number of unfinished workflows of one principal above which its requests are rejected; workflows "
        "that schedules and other workflows start are never rejected",
    )
    requests_per_minute: int = Field(
        300,
        ge=1,
        description="number of requests of one principal per minute and orchestrator; further requests are rejected",
    )
    retention_days: float = Field(
        KEPT / 86_400,
        ge=1,
        le=KEPT / 86_400,
        description="days for which finished workflows and their answers are kept; to keep them longer, use `agentd "
        "export`",
    )
    workflows_dir: Path = Field(Path("/etc/agentd/workflows"), description="directory of workflow files, NAME.yaml")
    discovery_interval: float = Field(60.0, ge=1, description="seconds between two requests for the list of agents")
