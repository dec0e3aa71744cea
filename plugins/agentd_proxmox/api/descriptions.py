"""Describe an API method: parameters, permissions, and what it returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd import Tier, one_line
from agentd_proxmox.api_tiers import refusal_reason, tier_of

if TYPE_CHECKING:
    from agentd_proxmox import api_schema

TOOLS: Final = {Tier.READ: "api_get", Tier.OPERATE: "api_call", Tier.DESTROY: "api_destroy", Tier.EXEC: "api_exec"}


class Description(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a method takes, needs and returns.

    A parameter with ? is optional; `net[n]` means net0, net1 and so on.
    tool: the tool that calls it; some parameters need one of a higher tier
    """

    method: str
    description: str
    tool: str
    why: str
    parameters: dict[str, str]
    permissions: str
    returns: str
    task: bool = False
    note: str = ""


def describe(endpoint: api_schema.Endpoint, match: str = "") -> Description:
    """Return the description of a method."""
    info = endpoint.info
    tier, why = tier_of(endpoint, {})
    refusal = refusal_reason(endpoint, {})
    permissions = info["permissions"]
    returns = info["returns"]
    shown = {name: spec for name, spec in info["parameters"].items() if match.lower() in name.lower()}
    return Description(
        method=endpoint.key,
        description=one_line(info["description"])[:400],
        tool="none" if refusal else TOOLS[tier],
        why=refusal or why,
        parameters={name: parameter_line(spec) for name, spec in shown.items()},
        permissions=permission_text(permissions.get("check")) or str(permissions.get("user") or "root@pam only"),
        returns=returns["type"] + (f" with {', '.join(returns['fields'])}" if returns["fields"] else ""),
        task=endpoint.answers_task,
        note=one_line(permissions.get("description") or permissions.get("note") or "")[:300]
        + ("" if info["token"] else " (not with an API token)"),
    )


def parameter_line(known: api_schema.Method) -> str:
    """Return a parameter in one line: type, bounds, choices, default, description."""
    kind = known.get("format")
    parts = [str(known.get("type", "string")) + ("?" if known.get("optional") else "")]
    if "minimum" in known or "maximum" in known:
        parts.append(f"{known.get('minimum', '')}..{known.get('maximum', '')}")
    parts += ["|".join(map(str, known["enum"]))] if known.get("enum") else []
    parts += (
        [f"{{{','.join(name for name, spec in kind.items() if 'alias' not in spec)}}}"]
        if isinstance(kind, dict)
        else []
    )
    parts += [kind] if isinstance(kind, str) else []
    parts += [f"at most {known['maxLength']} characters"] if "maxLength" in known else []
    parts += [f"default {known['default']}"] if "default" in known else []
    parts += [f"with {known['requires']}"] if "requires" in known else []
    parts += [one_line(known["description"])[:80]] if known.get("description") else []
    return " ".join(parts)


def permission_text(check: Any) -> str:  # noqa: ANN401 - nested lists of the schema
    """Return a permission check of the schema in readable form."""
    if not isinstance(check, list) or not check:
        return ""
    if check[0] in {"or", "and"}:
        return "(" + f" {check[0]} ".join(permission_text(part) for part in check[1:]) + ")"
    if check[0] == "perm":
        joiner = " or " if "any" in check else " and "
        return f"{joiner.join(check[2])} on {check[1]}"
    return " ".join(str(part) for part in check)
