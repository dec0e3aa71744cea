"""Who may use which tool: a tier for each principal, compared with the tier of the tool; pure.

NATS proves who asks (only a principal may publish under its own name), Proxmox limits what a token may do; this
is the fence between the two.  Nobody is trusted with more than the configuration says, and tools that destroy or
execute are refused for everybody until a plan can be approved by a second person.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from agentd.errors import Denied
from agentd.messages import Tier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentd import sections

REFUSED: Final = (Tier.DESTROY, Tier.EXEC)
"""Tiers that nobody may use: a tool of them needs a plan and an approval."""


@dataclass(frozen=True)
class Policy:
    """The tiers that the configuration grants.

    default_tier   of a principal that is not named
    plain_tier     of the plain ai.workflows.request, whose sender nobody proves
    principals     of each principal that is named
    plain_agents   of the tasks that each plain agent may be given; one that is not named gets `read`
    """

    default_tier: Tier = Tier.READ
    plain_tier: Tier = Tier.READ
    principals: Mapping[str, Tier] = field(default_factory=dict)
    plain_agents: Mapping[str, Tier] = field(default_factory=dict)

    @classmethod
    def of(cls, section: sections.Policy) -> Self:
        """Return the policy that `[policy]` of the configuration describes."""
        plain = section.default_tier if section.plain_tier is None else section.plain_tier
        return cls(section.default_tier, plain, section.principals, section.plain_agents)

    def tier_of(self, principal: str, *, plain: bool) -> Tier:
        """Return the highest tier that `principal` may use; `plain` means that nothing proves its name."""
        return self.plain_tier if plain else self.principals.get(principal, self.default_tier)

    def tier_of_plain_agent(self, agent_id: str) -> Tier:
        """Return the highest tier of a task that the plain agent `agent_id` may be given."""
        return self.plain_agents.get(agent_id, Tier.READ)

    def allow(self, tool: str, needed: Tier, granted: Tier, *, principal: str = "", plain: bool = False) -> None:
        """Return if who was granted the tier `granted` may use `tool`; raises Denied that says how it is granted."""
        if needed in REFUSED:
            raise Denied(
                f"{tool} is of tier {needed}: plans and approvals are needed, which this version does not have"
            )
        if granted.covers(needed):
            return
        who = "the plain subject" if plain else principal or "the principal"
        setting = "[policy] plain_tier" if plain else f"[policy.principals] {principal or 'NAME'}"
        raise Denied(f'{tool} needs tier {needed}; {who} has {granted}; grant it with {setting} = "{needed}"')
