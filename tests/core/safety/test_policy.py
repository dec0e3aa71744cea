"""The policy: which principal may use which tool."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.config import policy as settings
from agentd.errors import Denied, NeedsPlan
from agentd.safety.policy import Policy
from agentd.wire.messages import Tier
from core.policy_cases import CASES, Case

tiers = st.sampled_from(list(Tier))


def test_no_principal_is_trusted_by_default() -> None:
    """Without configuration every principal may read and no more."""
    policy = Policy.of(settings.Policy())

    assert policy == Policy()
    assert policy.tier_of("bob", plain=False) is Tier.READ
    assert policy.tier_of("bob", plain=True) is Tier.READ
    assert policy.tier_of_plain_agent("legacy-1") is Tier.READ


def test_named_principal_has_its_tier() -> None:
    """A principal that is named has the tier that is written there, up or down."""
    section = settings.Policy(default_tier=Tier.OPERATE, principals={"bob": Tier.DESTROY, "eve": Tier.READ})
    policy = Policy.of(section)

    assert policy.tier_of("bob", plain=False) is Tier.DESTROY
    assert policy.tier_of("eve", plain=False) is Tier.READ
    assert policy.tier_of("ann", plain=False) is Tier.OPERATE


def test_plain_subject_proves_no_principal() -> None:
    """On the plain subject a name counts for nothing: the tier is that of the subject."""
    named = settings.Policy(default_tier=Tier.OPERATE, anonymous_tier=Tier.READ, principals={"bob": Tier.DESTROY})

    assert Policy.of(named).tier_of("bob", plain=True) is Tier.READ
    assert Policy.of(settings.Policy(default_tier=Tier.OPERATE)).tier_of("", plain=True) is Tier.OPERATE


def test_plain_agent_has_a_higher_tier_only_by_name() -> None:
    """An external agent gets tasks above read only if the configuration names it, for any default."""
    policy = Policy.of(settings.Policy(default_tier=Tier.OPERATE, external_agents={"legacy-1": Tier.OPERATE}))

    assert policy.tier_of_plain_agent("legacy-1") is Tier.OPERATE
    assert policy.tier_of_plain_agent("legacy-2") is Tier.READ


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.message)
def test_decisions(case: Case) -> None:
    """What the table in the docs says is what is decided."""
    assert case.decide() == case.code


@given(granted=tiers, needed=tiers)
def test_tier_covers_those_below(granted: Tier, needed: Tier) -> None:
    """A tool may be asked for exactly if the tier covers it."""
    if granted.rank >= needed.rank:
        Policy().allow("a_tool", needed, granted)
    else:
        with pytest.raises(Denied):
            Policy().allow("a_tool", needed, granted)


@pytest.mark.parametrize(
    ("principal", "plain", "line"),
    [
        ("bob", False, 'create_vm needs tier operate; bob has read; grant it with [policy.principals] bob = "operate"'),
        (
            "",
            False,
            'create_vm needs tier operate; the principal has read; grant it with [policy.principals] NAME = "operate"',
        ),
        (
            "",
            True,
            (
                "create_vm needs tier operate; an anonymous request has read; "
                'grant it with [policy] anonymous_tier = "operate"'
            ),
        ),
    ],
)
def test_refusal_names_the_line_that_grants_it(principal: str, plain: bool, line: str) -> None:  # noqa: FBT001
    """A refusal names the needed tier, the granted tier, and the line that grants it."""
    with pytest.raises(Denied) as caught:
        Policy().allow("create_vm", Tier.OPERATE, Tier.READ, principal=principal, plain=plain)

    assert str(caught.value) == line


@pytest.mark.parametrize("tier", [Tier.DESTROY, Tier.EXEC])
def test_destruction_needs_a_second_principal(tier: Tier) -> None:
    """A destructive or executing tool needs another principal's approval, even for a principal with all tiers."""
    with pytest.raises(NeedsPlan) as caught:
        Policy().check_approval("destroy_vm", tier, "root", None)

    assert str(caught.value) == (
        f"destroy_vm is of tier {tier}: another principal has to approve it; `agentd call destroy_vm …` requests it"
    )
