"""The section [policy]: what each principal may do, and what is protected."""

from __future__ import annotations

from typing import Final

from pydantic import Field, field_validator

from agentd.config.section import Id, Section
from agentd.wire.messages import Tier

PROTECTABLE: Final = (
    *("guest", "tag", "pool", "node", "storage", "volume", "backups", "backup_job", "replication", "task", "disk"),
    *("user", "group", "role", "realm", "token", "acl", "firewall", "sdn", "interface", "network"),
    *("ha-rule", "ha-group", "ceph", "osd", "certificate", "service", "notification", "matcher", "metrics"),
    "file",
    "cloud",
)
"""The kinds that [policy] protected may name: tools announce the objects that they change by these kinds."""


def unprotectable(entry: str) -> str:
    """Return why an entry of [policy] protected is not valid; "" if it is.

    An invalid entry would protect nothing; the text also says what to write.
    """
    if entry == "*":
        return ""
    kind, slash, name = entry.partition("/")
    if any(char.isspace() or not char.isprintable() for char in entry):
        return "it contains blanks or characters that cannot be seen; take them out"
    if kind not in PROTECTABLE or not slash:
        return f"unknown kind {kind!r}; write KIND/NAME with one of {', '.join(PROTECTABLE)}"
    if not name:
        return f"the name is missing: {kind}/NAME, or {kind}/* for all"
    if name.count("[") != name.count("]") or "[]" in name:
        return "the pattern has a [ without its ]; * ? and [abc] are understood"
    return ""


class Policy(Section):
    """What each principal may do.

    A tier includes the lower ones: read < operate < destroy < exec.
    """

    default_tier: Tier = Field(
        default=Tier.READ,
        description="tier of principals that are not in [policy.principals]: read, operate, destroy or exec",
    )
    anonymous_tier: Tier | None = Field(
        default=None,
        description="tier of requests on ai.workflows.request, whose sender is not authenticated; never destroy or "
        "exec. Default: default_tier",
    )
    principals: dict[Id, Tier] = Field(default={}, description="tier of each principal: read, operate, destroy or exec")
    max_concurrent_calls: int = Field(
        default=32,
        ge=1,
        description="number of calls of one principal that run at the same time in one daemon (agentd call, MCP, "
        "actions over HTTP); further calls are refused",
    )
    external_agents: dict[Id, Tier] = Field(
        default={},
        description="highest tier of the tasks that each external agent may receive. Default: read, because an "
        "external agent keeps no records that prevent a second execution",
    )

    @field_validator("principals")
    @classmethod
    def _proven(cls, value: dict[str, Tier]) -> dict[str, Tier]:
        if "plain" in value:
            raise ValueError("`plain` is the name of requests whose sender is not proven; set anonymous_tier instead")
        return value

    protected: tuple[str, ...] = Field(
        default=(),
        description="objects that must not be changed, such as guest/100, tag/keep, pool/core, storage/*, node/pve1, "
        "user/*; not even an approval allows it",
    )
    protected_min_tier: Tier = Field(
        default=Tier.DESTROY, description="lowest tier of calls that are refused on protected objects"
    )
    destructive_per_hour: int = Field(
        default=10,
        ge=0,
        le=1000,
        description="number of calls of tier destroy or exec per hour, in the whole network; 0: none",
    )

    @field_validator("protected")
    @classmethod
    def _protectable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            fault = unprotectable(entry)
            if fault:
                raise ValueError(f"{entry!r}: {fault}")
        return value

    approval_timeout: float = Field(
        default=86_400.0,
        gt=0,
        le=2_592_000.0,
        description="seconds in which a call of tier destroy or exec must be approved; afterwards its workflow fails",
    )
