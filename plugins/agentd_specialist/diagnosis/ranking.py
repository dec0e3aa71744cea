"""Apply rules to a situation and rank the causes; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from agentd import Cause, Evidence, Situation

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentd import DiagnosisRule

EVIDENCE: Final = 4
"""Lines of evidence to keep for a cause."""
CAUSES: Final = 8


class Diagnosis(msgspec.Struct, frozen=True, omit_defaults=True):
    """The subject, the verdict in one sentence, the causes, the most likely first, and what was read.

    words  the same in the words of a language model, if one is configured: it may be wrong, and nothing depends on it
    """

    subject: str
    verdict: str
    causes: list[Cause]
    facts: dict[str, str]
    evidence: list[Evidence]
    words: str = ""


def diagnose(situation: Situation, rules: Sequence[DiagnosisRule]) -> Diagnosis:
    """Return the ranked causes that the rules see.

    A rule that raises an exception, which one of a plugin may, is reported as a cause of its own and stops no other.
    """
    found: list[Cause] = []
    for rule in rules:
        try:
            found += list(rule(situation))
        except Exception as error:  # noqa: BLE001 - a foreign rule may raise anything
            name = getattr(rule, "__name__", type(rule).__name__)
            text = f"the rule {name} failed: {type(error).__name__}: {error}"
            found.append(Cause(text, 0.0, [], "correct the plugin that provides the rule"))
    ranked = sorted(_merged(found), key=lambda cause: (-cause.likelihood, cause.text))[:CAUSES]
    likely = [cause for cause in ranked if cause.likelihood > 0]
    verdict = likely[0].text if likely else "no known cause; the evidence lists what was found"
    facts = {name: _short(value) for name, value in sorted(situation.facts.items()) if value not in (None, "", [], {})}
    return Diagnosis(situation.subject, verdict, ranked, facts, situation.evidence[:20])


def _merged(causes: Iterable[Cause]) -> list[Cause]:
    """Return each cause once, with the evidence of all rules that name it."""
    found: dict[str, Cause] = {}
    for cause in causes:
        known = found.get(cause.text, cause)
        lines = list(dict.fromkeys([*known.evidence, *cause.evidence]))[:EVIDENCE]
        best = max(known, cause, key=lambda one: one.likelihood)
        found[cause.text] = msgspec.structs.replace(best, evidence=lines)
    return list(found.values())


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text[:300]
