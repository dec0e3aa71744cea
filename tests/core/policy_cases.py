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

    message  the sentence that the table has for it
    code     of the error that refuses it; "" if it is done
    """

    message: str
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
    Case("tier read allows reads", READ, READ),
    Case("tier read does not allow changes", OPERATE, READ, "denied"),
    Case("tier operate allows operations", OPERATE, OPERATE),
    Case("a higher tier covers the lower ones", OPERATE, EXEC),
    Case("the plain subject may operate if it is granted", OPERATE, OPERATE, plain=True),
    Case("the plain subject never destroys, whatever is granted", DESTROY, EXEC, "denied", plain=True, yes="bob"),
    Case("an approval does not replace the requester's tier", DESTROY, OPERATE, "denied", yes="bob"),
    Case("destroy needs a second principal", DESTROY, DESTROY, "needs_plan"),
    Case("exec needs a second principal", EXEC, EXEC, "needs_plan"),
    Case("an approval of another call does not count", DESTROY, DESTROY, "rejected", yes="bob", call="c2"),
    Case("an approval that names no call does not count", DESTROY, DESTROY, "rejected", yes="bob", call=""),
    Case("an approval by the requester does not count", DESTROY, DESTROY, "denied", yes="alice"),
    Case("an approval without a principal does not count", DESTROY, DESTROY, "denied", yes=""),
    Case("with the approval of another principal it is done", DESTROY, DESTROY, yes="bob"),
    Case(
        "a target that changed after the approval is refused", DESTROY, DESTROY, "rejected", yes="bob", status="running"
    ),
    Case("a tool that reports no targets is refused", DESTROY, DESTROY, "denied", yes="bob", targets=False),
    Case("a target protected by its id is refused", DESTROY, DESTROY, "denied", yes="bob", protected=("guest/100",)),
    Case("a target protected by a pattern is refused", DESTROY, DESTROY, "denied", yes="bob", protected=("guest/*",)),
    Case("a target protected by its tag is refused", DESTROY, DESTROY, "denied", yes="bob", protected=("tag/keep",)),
    Case("a target protected by its pool is refused", DESTROY, DESTROY, "denied", yes="bob", protected=("pool/core",)),
    Case("a protected target may be operated", OPERATE, OPERATE, protected=("guest/100",)),
    Case(
        "unless protected_min_tier is operate",
        OPERATE,
        OPERATE,
        "denied",
        protected=("guest/100",),
        protected_min_tier=OPERATE,
    ),
    Case("other targets may be operated then", OPERATE, OPERATE, protected=("guest/1",), protected_min_tier=OPERATE),
    Case("a protected target may be read", READ, READ, protected=("*",), protected_min_tier=OPERATE),
]
