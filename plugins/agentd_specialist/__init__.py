"""The plugin of the role `specialist`: validate and place VMs, summarize health."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentd import hookimpl

if TYPE_CHECKING:
    from agentd import BrokenTool, DiagnosisRule, Role, Settings, Tool, Toolbox


@hookimpl
def agentd_settings() -> type[Settings]:
    """Return the settings type of the section `[specialist]`."""
    from agentd_specialist.settings import SpecialistSettings

    return SpecialistSettings


@hookimpl
def agentd_role() -> Role:
    """Return the role `specialist`."""
    from agentd_specialist.role import Specialist

    return Specialist()


@hookimpl
def agentd_tools(toolbox: Toolbox) -> list[Tool | BrokenTool]:
    """Return the tools of the service `specialist`.

    They reach Proxmox through the tools of `mcp-proxmox`.
    """
    from agentd import collect
    from agentd_specialist.balance_tools import Balance
    from agentd_specialist.diagnosis_tools import DiagnosisTools
    from agentd_specialist.maintenance_tools import MaintenanceTools
    from agentd_specialist.placement_tools import PlacementTools
    from agentd_specialist.report_tools import ReportTools
    from agentd_specialist.settings import SpecialistSettings
    from agentd_specialist.sizing_tools import SizingTools
    from agentd_specialist.tools import SERVICE, Domain

    settings = toolbox.settings or SpecialistSettings()
    domain = Domain(settings, toolbox.proxmox)
    providers = (
        domain,
        PlacementTools(settings, domain),
        Balance(settings),
        MaintenanceTools(),
        DiagnosisTools(toolbox.diagnosis_rules, settings.language_model()),
        SizingTools(),
        ReportTools(),
    )
    return [found for provider in providers for found in collect(provider, service=SERVICE)]


@hookimpl
def agentd_diagnosis_rules() -> list[DiagnosisRule]:
    """Return the rules that agentd itself has."""
    from agentd_specialist.diagnosis.log_rules import log_causes
    from agentd_specialist.diagnosis.state_rules import cluster_causes, guest_causes, storage_causes

    return [log_causes, cluster_causes, guest_causes, storage_causes]
