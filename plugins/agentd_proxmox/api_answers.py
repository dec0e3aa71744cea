"""Show of an answer of the API what may be shown, and keep of a call what the audit may keep; pure.

An answer is stored with the workflow that asked for it.  Of an object that a write has stored only the fields are shown
that the reviewed table lists; what is named like a secret or looks like one is hidden everywhere.  The audit keeps a
digest of each text instead of the text; calls with secrets are refused before, so no digest is one of a secret.
"""

from __future__ import annotations

import re
from typing import Any, Final

from agentd import secrecy
from agentd.messages import digest
from agentd_proxmox.tiers import TABLE

OPEN: Final = frozenset(
    {"vmid", "vms", "newid", "node", "target", "storage", "pool", "poolid", "snapname", "delete", "disk"}
)
"""Parameters whose values the audit keeps."""
SHORT: Final = 16


def shown(key: str, answer: Any) -> Any:  # noqa: ANN401 - JSON
    """Return the answer of a method with what may not be shown replaced by ***."""
    allowed = TABLE.get(key, {}).get("shown")
    path = key.partition(" ")[2]
    if allowed is not None:
        answer = _listed(answer, frozenset(allowed))
    return _keyed(secrecy.hidden(answer, path), path)


def _listed(answer: Any, allowed: frozenset[str]) -> Any:  # noqa: ANN401
    if isinstance(answer, list):
        return [_listed(entry, allowed) for entry in answer]
    if not isinstance(answer, dict):
        return answer
    return {
        name: value if name in allowed or re.sub(r"\d+\Z", "[n]", name) in allowed else secrecy.HIDDEN
        for name, value in answer.items()
    }


def _keyed(answer: Any, path: str) -> Any:  # noqa: ANN401
    """Hide the values of entries like {"key": "cipassword", "value": …}, as lists of pending changes have them."""
    if isinstance(answer, list):
        return [_keyed(entry, path) for entry in answer]
    if not isinstance(answer, dict):
        return answer
    name = answer.get("key")
    if isinstance(name, str) and secrecy.found({name: "x"}, path):
        return {each: secrecy.HIDDEN if each in {"value", "pending"} else value for each, value in answer.items()}
    return {each: _keyed(value, path) for each, value in answer.items()}


def audited(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call as the audit keeps them."""
    given = secrecy.hidden(parameters)
    inner = given.get("parameters")
    if not isinstance(inner, dict):
        return dict(given)
    return {**given, "parameters": {name: _kept(name, value) for name, value in inner.items()}}


def _kept(name: str, value: Any) -> Any:  # noqa: ANN401
    if name in OPEN or isinstance(value, bool | int | float) or value in {None, secrecy.HIDDEN}:
        return value
    return f"sha256:{digest(value)[:SHORT]}"
