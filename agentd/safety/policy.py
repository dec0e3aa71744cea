"""Decides which principal may use which tool on which target; pure.

NATS proves the principal (only a principal may publish under its own name), and Proxmox limits what a token may do;
this file compares the request with what the configuration grants.  A call of tier destroy or exec needs two principals:
one asks, another approves what is shown to it, and the call is done only while its targets are as they were shown.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, Self

from agentd.config import policy as settings
from agentd.errors import Denied, NeedsPlan, Rejected, TemporaryError
from agentd.wire.messages import Consent, Target, Tier

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence


GUEST: Final = "guest/"
"""Prefix of guests among the target names, and of the labels with a guest's name."""
PLAIN: Final = "plain"
"""The principal of requests on the plain subject."""
NEEDS_APPROVAL: Final = (Tier.DESTROY, Tier.EXEC)
"""Tiers whose calls need the approval of another principal."""
ANONYMOUS: Final = ("mcp", "plain")
"""Principals without token and login.

`mcp` is an MCP client without a token, `plain` the plain request subject.  Such a principal has at most tier operate,
and never counts as one of the two principals that an approval needs.
"""


DEFAULTS: Final = settings.Policy()
"""The values that apply where the configuration sets none."""


@dataclass(frozen=True)
class Policy:
    """What the configuration grants and forbids.

    default_tier          of a principal that is not named
    anonymous_tier        of the subject ai.workflows.request, whose sender is not authenticated
    principals            of each principal that is named
    external_agents       of the tasks that each external agent may get; one that is not named gets `read`
    protected             patterns of protected targets: guest/100, tag/keep, pool/core, storage/*, node/pve1
    protected_min_tier    the lowest tier that may not touch them
    per_hour              calls of tier destroy or exec, in the whole network
    approval_timeout      seconds within which such a call must be approved
    max_concurrent_calls  calls of one principal that an agent runs at the same time
    """

    default_tier: Tier = DEFAULTS.default_tier
    anonymous_tier: Tier = Tier.READ
    principals: Mapping[str, Tier] = field(default_factory=dict)
    external_agents: Mapping[str, Tier] = field(default_factory=dict)
    protected: Sequence[str] = ()
    protected_min_tier: Tier = DEFAULTS.protected_min_tier
    per_hour: int = DEFAULTS.destructive_per_hour
    approval_timeout: float = DEFAULTS.approval_timeout
    max_concurrent_calls: int = DEFAULTS.max_concurrent_calls

    @classmethod
    def of(cls, section: settings.Policy) -> Self:
        """Return the policy that `[policy]` of the configuration describes."""
        plain = section.default_tier if section.anonymous_tier is None else section.anonymous_tier
        return cls(
            section.default_tier,
            plain,
            section.principals,
            section.external_agents,
            section.protected,
            section.protected_min_tier,
            section.destructive_per_hour,
            section.approval_timeout,
            section.max_concurrent_calls,
        )

    def tier_of(self, principal: str, *, plain: bool) -> Tier:
        """Return the highest tier that `principal` may use.

        plain  the name of the principal is not proven

        Requests of the plain subject continue under the name `plain`; a principal of that name is not proven either.
        """
        plain = plain or principal in {"", PLAIN}
        granted = self.anonymous_tier if plain else self.principals.get(principal, self.default_tier)
        return Tier.OPERATE if granted in NEEDS_APPROVAL and (plain or principal in ANONYMOUS) else granted

    def granted(self, principal: str, stated: Tier) -> Tier:
        """Return the tier of an assignment: the stated one, or the principal's if lower."""
        own = self.tier_of(principal, plain=False)
        return stated if own.covers(stated) else own

    def warnings(self) -> list[str]:
        """Return warnings about grants that have no effect."""
        return [
            f'[policy.principals] {name} = "{self.principals[name]}": {name} needs no token, so it may at most '
            f'"{Tier.OPERATE}"; name a principal of its own for a client that is to do more (agentd token NAME)'
            for name in ANONYMOUS
            if self.principals.get(name, Tier.READ) in NEEDS_APPROVAL
        ]

    def tier_of_plain_agent(self, agent_id: str) -> Tier:
        """Return the highest tier of a task that the external agent `agent_id` may get.

        External agents do not compare the targets with the plan before they act, so none gets a task of tier destroy or
        exec.
        """
        granted = self.external_agents.get(agent_id, Tier.READ)
        return Tier.OPERATE if granted in NEEDS_APPROVAL else granted

    def allow(self, tool: str, needed: Tier, granted: Tier, *, principal: str = "", plain: bool = False) -> None:
        """Raise Denied unless the tier `granted` covers the tier `needed`.

        The error says how to grant it.
        """
        if plain and needed in NEEDS_APPROVAL:
            raise Denied(f"{tool} is of tier {needed}; an anonymous request cannot have it: use your own subject")
        if granted.covers(needed):
            return
        who = "an anonymous request" if plain else principal or "the principal"
        setting = "[policy] anonymous_tier" if plain else f"[policy.principals] {principal or 'NAME'}"
        raise Denied(f'{tool} needs tier {needed}; {who} has {granted}; grant it with {setting} = "{needed}"')

    def may_approve(self, principal: str, needed: Tier, requesters: Collection[str]) -> bool:
        """Return whether a principal may approve a call of the tier `needed` that `requesters` requested."""
        other = principal not in ANONYMOUS and principal not in requesters
        return other and self.tier_of(principal, plain=False).covers(needed)

    def check_approval(
        self, tool: str, needed: Tier, principal: str, consent: Consent | None, *, asked: str = ""
    ) -> None:
        """Check the approval of a call of tier destroy or exec.

        asked  the digest of the tool and its parameters; Rejected if it is not the one that was approved

        Raises NeedsPlan if there is no approval, Denied unless two authenticated principals want the call.
        """
        if needed not in NEEDS_APPROVAL:
            return
        if principal in ANONYMOUS:
            raise Denied(unproven_reason(f"{tool} is of tier {needed}", principal))
        if consent is None:
            asks = f"`agentd call {tool.partition(' ')[0]} …` requests it"
            raise NeedsPlan(f"{tool} is of tier {needed}: another principal has to approve it; {asks}")
        if consent.by in ANONYMOUS:
            raise Denied(unproven_reason(f"{tool} was approved by {consent.by}", consent.by))
        if consent.by in {"", principal}:
            approver = f"{consent.by}, who requested it" if consent.by else "no principal"
            raise Denied(f"{tool} was approved by {approver}: another principal has to approve it")

        if not consent.call:
            raise Rejected(
                f"{tool}: the approval of {consent.by} does not name the call, for an older orchestrator wrote it: "
                "nothing was done; request it again"
            )
        if consent.call != asked:
            raise Rejected(
                f"{tool}: its parameters are not those that {consent.by} approved: nothing was done; request it again"
            )

    def check_targets(self, tool: str, needed: Tier, targets: Sequence[Target], consent: Consent | None = None) -> None:
        """Raise Denied or Rejected unless `tool` may now change these targets."""
        guarded = bool(self.protected) and needed.covers(self.protected_min_tier)
        if not targets and (needed in NEEDS_APPROVAL or guarded):
            raise Denied(f"{tool} does not report what it changes, so it cannot be checked whether it is allowed")
        for item in targets if guarded else ():
            pattern = self.protecting(item)
            if pattern is not None:
                raise Denied(f"{tool}: {item.title} is protected by [policy] protected = {pattern!r}; nothing was done")
        if needed in NEEDS_APPROVAL and consent is not None:
            check_unchanged(targets, consent)

    def protecting(self, target: Target) -> str | None:
        """Return the pattern that protects `target`, or None.

        Case is ignored, because Proxmox writes tags in lower case or not, depending on its options.  Protecting a pool
        also protects the pools within it.
        """
        names = {name.casefold() for label in (target.name, *target.labels) for name in _with_parents(label)}
        return next(
            (pattern for pattern in self.protected if any(fnmatchcase(name, pattern.casefold()) for name in names)),
            None,
        )


def guests(targets: Sequence[Target]) -> dict[str, str]:
    """Return the names of the guests among these targets, by target name."""
    return {
        target.name: label.removeprefix(GUEST)
        for target in targets
        if target.name.startswith(GUEST)
        for label in target.labels
        if label.startswith(GUEST) and label != GUEST
    }


def check_same_guests(tool: str, targets: Sequence[Target], wanted: Mapping[str, str]) -> None:
    """Raise Rejected if a guest does not have the name in `wanted`.

    It may be another guest now.  A target without an entry in `wanted` is not checked.
    """
    names = guests(targets)
    for target in targets:
        name = wanted.get(target.name)
        if name is not None and names.get(target.name) != name:
            raise Rejected(
                f"{tool}: {target.title} was called {name!r} when the call was made that this undoes, so it may be "
                "another guest: nothing was done; check which guest is meant, then call the tool itself"
            )


def _with_parents(name: str) -> Iterator[str]:
    """Yield a name, and for a pool also its parents: `pool/core/web`, `pool/core`."""
    yield name
    while name.startswith("pool/") and name.count("/") > 1:
        name = name.rpartition("/")[0]
        yield name


class CallsAtOnce:
    """Limits concurrent calls per principal to [policy] max_concurrent_calls."""

    def __init__(self, most: int, where: str) -> None:
        """Start with no calls; `where` names the process in errors."""
        self.most = most
        self._where = where
        self._running: Counter[str] = Counter()

    def begin(self, principal: str) -> None:
        """Count a new call; raises TemporaryError if the principal has reached the limit."""
        if self._running[principal] >= self.most:
            raise TemporaryError(
                f"{principal} has {self.most} calls under way at {self._where}, as many as [policy] "
                "max_concurrent_calls allows; call again when one of them has ended"
            )
        self._running[principal] += 1

    def end(self, principal: str) -> None:
        """Count the end of a call."""
        self._running[principal] -= 1
        if not self._running[principal]:
            del self._running[principal]

    @contextmanager
    def one(self, principal: str) -> Iterator[None]:
        """Count a call while the block runs; raises TemporaryError."""
        self.begin(principal)
        try:
            yield
        finally:
            self.end(principal)


def unproven_reason(what: str, principal: str) -> str:
    """Return the reason and the remedy when an anonymous principal is refused."""
    who = "the plain subject" if principal == "plain" else principal or "the requester"
    return (
        f"{what}: it needs two authenticated principals, and {who} needs no token; use a principal of your own: "
        "with a token (agentd token NAME), or by agentd call with [client] principal"
    )


def check_unchanged(targets: Sequence[Target], consent: Consent) -> None:
    """Raise Rejected, naming the change, unless `targets` are as they were approved."""
    approved = {target.name: target for target in consent.targets}
    for target in targets:
        old = approved.pop(target.name, None)
        if old is None:
            raise Rejected(
                f"{target.title} was not part of what {consent.by} approved: nothing was done; request it again"
            )
        changes = _difference(old, target)
        if changes:
            raise Rejected(
                f"{target.title} is not as it was when {consent.by} approved it ({changes}): nothing was done; "
                "request it again"
            )
    if approved:
        gone = next(iter(approved.values())).title
        raise Rejected(
            f"{gone}, which {consent.by} approved, is no longer among the targets: nothing was done; request it again"
        )


def _difference(old: Target, new: Target) -> str:
    """Return how a target differs from its approved state; "" if it does not.

    `risks` are not compared, because they change by themselves.
    """
    keys = sorted(key for key in {*old.state, *new.state} if old.state.get(key) != new.state.get(key))
    changes = [f"{key}: {old.state.get(key)!r} → {new.state.get(key)!r}" for key in keys]
    if changes:
        return ", ".join(changes)
    sides = {
        "title": (old.title, new.title),
        "labels": (sorted(old.labels), sorted(new.labels)),
        "loses": (sorted(old.loses), sorted(new.loses)),
    }
    return ", ".join(f"{name}: {was!r} → {now!r}" for name, (was, now) in sides.items() if was != now)
