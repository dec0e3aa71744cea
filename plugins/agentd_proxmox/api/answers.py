"""Hide secrets in API answers, and in what the audit stores of a call; pure.

An answer is stored with the workflow that requested it. Only fields that the reviewed table lists are shown: for a
stored object the fields of the methods that write it, for other reads the fields of the schema, and numbers. In answers
of a method that was not reviewed, texts are hidden. A value whose name or form is that of a secret is hidden
everywhere. The audit stores a digest of each text instead of the text; calls with secrets are refused earlier, so no
digest is that of a secret.
"""

from __future__ import annotations

import re
from typing import Any, Final

from agentd import digest, one_line, secrets
from agentd.similar import either, nearest
from agentd_proxmox.api_schema import VARIABLE, match
from agentd_proxmox.api_tiers import TABLE, class_of, reviewed_parameters

OPEN: Final = frozenset(
    {"vmid", "vms", "newid", "node", "target", "storage", "pool", "poolid", "snapname", "delete", "disk"}
)
"""Parameters whose values the audit stores as they are."""
SHORT: Final = 16
COMMON: Final = frozenset(
    {"id", "name", "type", "node", "vmid", "digest", "status", "state", "subdir", "path", "comment", "description"}
    | {"tags", "storage", "pool", "health", "wearout", "bridge_stp", "bridge_fd"}
)
"""Fields of answers that the schema omits for some methods."""


def redact(key: str, answer: Any) -> Any:  # noqa: ANN401 - JSON
    """Return the answer of a method, with *** for values that must not be shown."""
    row = TABLE.get(key, {"fields": []})
    path = key.partition(" ")[2]
    if "shown" in row:
        answer = _listed(answer, frozenset(row["shown"]))
    elif "fields" in row:
        answer = _known(answer, COMMON.union(row["fields"]))
    return _keyed(secrets.hidden(answer, path), path)


def _listed(answer: Any, allowed: frozenset[str]) -> Any:  # noqa: ANN401
    if isinstance(answer, list):
        return [_listed(entry, allowed) for entry in answer]
    if not isinstance(answer, dict):
        return answer
    return {
        name: value if name in allowed or re.sub(r"\d+\Z", "[n]", name) in allowed else secrets.HIDDEN
        for name, value in answer.items()
    }


def _known(answer: Any, fields: frozenset[str]) -> Any:  # noqa: ANN401
    """Hide the texts of an answer that were not reviewed; a number is not a secret."""
    if isinstance(answer, list):
        return [_known(entry, fields) for entry in answer]
    if not isinstance(answer, dict):
        return answer if answer is None or isinstance(answer, bool | int | float) else secrets.HIDDEN
    return {
        name: value
        if name in fields or re.sub(r"\d+\Z", "[n]", name) in fields or isinstance(value, bool | int | float)
        else _known(value, COMMON)
        for name, value in answer.items()
    }


def _keyed(answer: Any, path: str) -> Any:  # noqa: ANN401
    """Hide secret values in entries like {"key": "cipassword", "value": …}.

    Lists of pending changes have this form.
    """
    if isinstance(answer, list):
        return [_keyed(entry, path) for entry in answer]
    if not isinstance(answer, dict):
        return answer
    name = answer.get("key")
    if isinstance(name, str) and secrets.found({name: "x"}, path):
        return {field: secrets.HIDDEN if field in {"value", "pending"} else value for field, value in answer.items()}
    return {field: _keyed(value, path) for field, value in answer.items()}


def unreviewed(call: dict[str, Any]) -> str:
    """Return why a text among the parameters of a call may be a secret, or "".

    A plan stores the parameters for days, so a text is accepted only if the reviewed table lists the parameter for this
    method and does not mark it as a secret.
    """
    path, verb, given = call.get("path"), call.get("method"), call.get("parameters")
    if not isinstance(path, str) or not isinstance(given, dict):
        return ""  # the call is invalid without both
    texts = [
        str(name) for name, value in given.items() if value is not None and not isinstance(value, bool | int | float)
    ]
    keys = [known for known in TABLE if known.startswith(f"{verb} ") and match(known.partition(" ")[2], path)]
    if texts and not keys:
        return (
            f"{one_line(path)[:200]!r} with {verb} is no method that was reviewed, so what {texts[0][:60]!r} holds may "
            "be a secret; api_find searches the methods"
        )
    known = {name for key in keys for name in VARIABLE.findall(key)}
    unknown = [name for name in texts if name not in known and not any(class_of(key, name) for key in keys)]
    if not unknown:
        return ""
    similar = nearest(unknown[0], {name for key in keys for name in reviewed_parameters(key)})
    hint = f"; did you mean {either(similar)}?" if similar else "; api_describe lists the known ones"
    return f"{unknown[0][:60]!r} is no parameter that was reviewed for {keys[0]}, so it may be a secret{hint}"


def audited(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call as the audit stores them."""
    given = secrets.hidden(parameters)
    inner = given.get("parameters")
    if not isinstance(inner, dict):
        return dict(given)
    return {**given, "parameters": {name: _audited_value(name, value) for name, value in inner.items()}}


def _audited_value(name: str, value: Any) -> Any:  # noqa: ANN401
    if name in OPEN or isinstance(value, bool | int | float) or value in {None, secrets.HIDDEN}:
        return value
    return f"sha256:{digest(value)[:SHORT]}"
