"""What the policy decides, as cases: `test_policy.py` holds it to them, and `make docs` writes them down as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agentd.errors import AgentdError
from agentd.safety.policy import Policy
from agentd.wire.messages import Consent, Target, Tier

GUEST: Final = Target("guest/100", "VM 100", {"status": "stopped"}, ["tag/keep", "pool/core"])


@dataclass(frozen=True)
class Case:
    """One call: what it needs, what its principal was granted, and all that the decision depends on.

    says  the sentence that the table has for it
    code  of the error that refuses it; "" if it is done
    """

    says: str
    needed: Tier
    granted: Tier
    code: str = ""
    plain: bool = False
    yes: str | None = None
    call: str = "c1"
    status: str = "stopped"
    protected: tuple[str, ...] = ()
    protected_min_tier: Tier = Tier.DESTROY
    targets: bool = True

    def decide(self) -> str:
        """Return the code of the error that refuses it, "" if nothing does; alice asks."""
        policy = Policy(protected=self.protected, protected_min_tier=self.protected_min_tier)
        consent = None if self.yes is None else Consent(self.yes, "", [GUEST], self.call)
        now = Target(GUEST.name, GUEST.title, {"status": self.status}, GUEST.labels)
        try:
            policy.allow("a_tool", self.needed, self.granted, principal="alice", plain=self.plain)
            policy.check_approval("a_tool", self.needed, "alice", consent, asked="c1")
            if self.needed is not Tier.READ:
                policy.check_targets("a_tool", self.needed, [now] if self.targets else [], consent)
        except AgentdError as error:
            return error.code
        return ""


READ, OPERATE, DESTROY, EXEC = Tier.READ, Tier.OPERATE, Tier.DESTROY, Tier.EXEC
CASES: Final = [
    Case("who may read reads", READ, READ),
    Case("who may read changes nothing", OPERATE, READ, "denied"),
    Case("who may operate operates", OPERATE, OPERATE),
    Case("a higher tier covers the lower ones", OPERATE, EXEC),
    Case("the plain subject operates where it was granted", OPERATE, OPERATE, plain=True),
    Case("the plain subject destroys nothing, whatever it was granted", DESTROY, EXEC, "denied", plain=True, yes="bob"),
    Case("who may operate destroys nothing, whoever says yes", DESTROY, OPERATE, "denied", yes="bob"),
    Case("nobody destroys alone", DESTROY, DESTROY, "needs_plan"),
    Case("nobody runs commands alone", EXEC, EXEC, "needs_plan"),
    Case("a yes to another call is none", DESTROY, DESTROY, "rejected", yes="bob", call="c2"),
    Case("a yes that names no call is none", DESTROY, DESTROY, "rejected", yes="bob", call=""),
    Case("one's own yes is none", DESTROY, DESTROY, "denied", yes="alice"),
    Case("a yes of nobody is none", DESTROY, DESTROY, "denied", yes=""),
    Case("with somebody else's yes it is done", DESTROY, DESTROY, yes="bob"),
    Case("what has changed since the yes is left alone", DESTROY, DESTROY, "rejected", yes="bob", status="running"),
    Case("a tool that does not say what it destroys is refused", DESTROY, DESTROY, "denied", yes="bob", targets=False),
    Case("what is protected by its id stays", DESTROY, DESTROY, "denied", yes="bob", protected=("guest/100",)),
    Case("what is protected by a pattern stays", DESTROY, DESTROY, "denied", yes="bob", protected=("guest/*",)),
    Case("what is protected by its tag stays", DESTROY, DESTROY, "denied", yes="bob", protected=("tag/keep",)),
    Case("what is protected by its pool stays", DESTROY, DESTROY, "denied", yes="bob", protected=("pool/core",)),
    Case("what is protected may be operated", OPERATE, OPERATE, protected=("guest/100",)),
    Case(
        "unless it is protected from that, too",
        OPERATE,
        OPERATE,
        "denied",
        protected=("guest/100",),
        protected_min_tier=OPERATE,
    ),
    Case("others may be operated then", OPERATE, OPERATE, protected=("guest/1",), protected_min_tier=OPERATE),
    Case("what is protected may be looked at", READ, READ, protected=("*",), protected_min_tier=OPERATE),
]
