"""The text shown to an approver, and the digests that bind an approval to it.

Pure functions.

Everything is shown, or the task cannot be approved: the tool, its complete parameters without secrets, every target
with its losses and risks, and how the change would be undone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd import Rejected, Workflow, digest, encode
from agentd.safety.audit_chain import redact
from agentd.wire.workflow import PREVIEW
from agentd_orchestrator.state_machine import outgoing

if TYPE_CHECKING:
    from agentd import Inverse, Preview, Target

LARGEST: Final = 64 * 1024
"""Maximum bytes of the text shown to the approver; a longer text is rejected."""
BRIEF: Final = 300
"""Characters of the text that the timeline repeats."""
GAP: Final = ";\n  "


def full_text(state: Workflow, name: str) -> str:
    """Return the text of everything that approving the task `name` would do now.

    Raises Rejected if it is too large.
    """
    given = str(outgoing.resolve(state.spec(name).approval, state, name))
    previews = outgoing.previews_of(state, name)
    parts = [given] if given else []
    if previews:
        parts.append(_first(previews))
        parts += [f"mind: {target.title}: {', '.join(target.risks)}" for target in _targets(previews) if target.risks]
        parts += [
            f"can be undone by {_undo(preview.undo)}"
            for preview in previews
            if preview.undo is not None and not preview.already
        ]
    spec = state.spec(name)
    what = f"{spec.tool or spec.workflow} with"
    parts += [f"{what} {_json(parameters)}" for parameters in _parameters(state, name)]
    text = GAP.join(parts)
    size = len(text.encode())
    if size > LARGEST:
        raise Rejected(
            f"what {name} would do takes {size} bytes to show, at most {LARGEST} can be approved at once: split it "
            "into several calls"
        )
    return text


def shorten(text: str) -> str:
    """Return the beginning of `text`, for the timeline; the approval has all of it."""
    first, more, _ = text.partition(GAP)
    return f"{first[:BRIEF]} …" if more or len(first) > BRIEF else first


def approval_digest(state: Workflow, name: str, text: str) -> str:
    """Return the digest of what approving the task `name` does now, and of `text`."""
    spec = state.spec(name)
    what: list[Any] = [spec.tool or spec.workflow]
    if spec.for_each is None:
        what.append(outgoing.parameters(state, name))
    else:
        what += [outgoing.resolve(spec.for_each, state, name), spec.parameters]
    previews = [state.result(PREVIEW + name)] if outgoing.has_preview(state, name) else []
    return digest([*what, *previews, text])


def call_digests(state: Workflow, name: str) -> list[str]:
    """Return a digest of tool and parameters for each approved call (one per item)."""
    spec = state.spec(name)
    if spec.for_each is not None and not outgoing.has_preview(state, name):
        return []
    return [digest([spec.tool or spec.workflow, parameters]) for parameters in _raw(state, name)]


def _raw(state: Workflow, name: str) -> list[Any]:
    spec = state.spec(name)
    if spec.for_each is None:
        return [outgoing.parameters(state, name)]
    if outgoing.has_preview(state, name):
        return [outgoing.parameters(state, item) for item in state.items(PREVIEW + name)]
    return [{"for_each": outgoing.resolve(spec.for_each, state, name), "with": spec.parameters}]


def _parameters(state: Workflow, name: str) -> list[Any]:
    raw = _raw(state, name)
    if _has_reference(raw):
        raise Rejected(
            f"{name}: a large result of an earlier task is among its parameters and cannot be shown: split it"
        )
    return [redact(parameters) for parameters in raw]


def _has_reference(value: Any) -> bool:  # noqa: ANN401 - JSON
    """Return whether `value` contains a reference to a stored value."""
    if isinstance(value, dict):
        return "$stored" in value or any(_has_reference(inner) for inner in value.values())
    return isinstance(value, list) and any(_has_reference(inner) for inner in value)


def _first(previews: list[Preview]) -> str:
    """Return the line that names every target and what is lost with it."""
    lines = [_line(target) for target in _targets(previews)]
    text = f"{previews[0].tool}: {'; '.join(lines) or 'nothing'}"
    if any(preview.undo is None and not preview.already for preview in previews):
        text += "; cannot be undone"
    return text


def _targets(previews: list[Preview]) -> list[Target]:
    return [target for preview in previews for target in preview.targets]


def _line(target: Target) -> str:
    return f"{target.title} ({', '.join(target.loses)})" if target.loses else target.title


def _undo(undo: Inverse) -> str:
    return f"{undo.tool} with {_json(redact(undo.parameters))}"


def _json(value: Any) -> str:  # noqa: ANN401 - JSON
    return encode(msgspec.to_builtins(value)).decode()
