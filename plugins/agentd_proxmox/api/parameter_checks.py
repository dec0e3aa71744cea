"""Check the parameters of a call against the schema, and encode them; pure.

They are encoded as Proxmox reads them. All faults are reported at once, before anything is sent. What cannot be checked
here (a format that only Proxmox knows, a Perl pattern that Python cannot compile, or one that could run for ever) is
left to Proxmox, which checks it.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from agentd import one_line
from agentd.similar import suggestion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agentd_proxmox.api_schema import Endpoint

    Schema = dict[str, Any]

LONGEST: Final = 256 * 1024
"""Characters of all values together; Proxmox accepts 512 KiB of form data, where a character takes up to twelve."""
_BOOLEANS: Final[dict[object, str]] = {
    **dict.fromkeys((True, "1", "on", "yes", "true"), "1"),
    **dict.fromkeys((False, "0", "off", "no", "false"), "0"),
}
"""Spellings that Proxmox accepts, in any case; the numbers 1, 1.0, 0 and 0.0 are the same keys as True and False."""
PATTERN_LIMIT, SHOWN = 4096, 60
_CLUSTER: Final = re.compile(r"\(\?\^([a-z]*):")
_NESTED: Final = re.compile(r"[*]\)\[|\][*]\)[*]")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SEGMENT: Final = re.compile(r"[^\x00-\x20\x7f/?#\\%]+\Z")


def _address(kind: Callable[[str], object]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            kind(text)
        except ValueError:
            return False
        return "%" not in text  # Python accepts a zone (fe80::1%eth0) with any text after its %; Proxmox none

    return check


def _network(text: str) -> object:
    if "/" not in text:
        raise ValueError(text)
    return ipaddress.ip_interface(text)


def _shape(pattern: str) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(pattern, text) is not None


_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
FORMATS: Final[dict[str, tuple[Callable[[str], bool], str]]] = {
    "pve-node": (_shape(_LABEL), "the name of a node"),
    "pve-vmid": (_shape(r"[1-9][0-9]{2,8}"), "a VMID, 100 to 999999999"),
    "pve-storage-id": (_shape(r"[A-Za-z][A-Za-z0-9_.-]*[A-Za-z0-9]"), "the name of a storage"),
    "pve-configid": (_shape(r"[A-Za-z][A-Za-z0-9_-]+"), "a name of letters, digits, _ and -, at least two"),
    "pve-iface": (_shape(r"[A-Za-z][A-Za-z0-9_]{1,20}(?:[:.][0-9]+)?"), "the name of an interface"),
    "pve-userid": (_shape(r"[^\s:/@]+(?:@[^\s:/@]+)*@[A-Za-z][A-Za-z0-9._-]+"), "a user with a realm: name@pve"),
    "mac-addr": (_shape(r"[0-9A-Fa-f][02468ACEace](?::[0-9A-Fa-f]{2}){5}"), "a unicast MAC address"),
    "dns-name": (_shape(rf"{_LABEL}(?:\.{_LABEL})*"), "a DNS name"),
    "ip": (_address(ipaddress.ip_address), "an IP address"),
    "ipv4": (_address(ipaddress.IPv4Address), "an IPv4 address"),
    "ipv6": (_address(ipaddress.IPv6Address), "an IPv6 address"),
    "CIDR": (_address(_network), "a network like 192.0.2.0/24"),
    "urlencoded": (_shape(r"(?:[A-Za-z0-9_.~!*'()-]|%[0-9A-Fa-f]{2})*"), "percent-encoded text"),
}


@lru_cache(maxsize=256)
def compiled(pattern: str) -> re.Pattern[str] | None:
    """Compile a Perl pattern; None if Python cannot read it or it might run for ever."""
    if _NESTED.search(pattern):
        return None
    try:
        return re.compile(_CLUSTER.sub(_group, pattern))
    except re.error:
        return None


def _group(found: re.Match[str]) -> str:
    flags = "i" if "i" in found[1] else ""  # Perl's u is the default in Python
    return f"(?{flags}:"


def check(endpoint: Endpoint, parameters: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return `parameters` as sent to `endpoint`, and all faults in them and the path."""
    faults = [fault for name in endpoint.variables for fault in _variable(endpoint, name)]
    if sum(len(str(value)) for value in parameters.values()) > LONGEST:
        return {}, [*faults, f"the values are longer than {LONGEST} characters together"]
    sent: dict[str, Any] = {}
    for name, value in parameters.items():
        known = endpoint.parameter(name)
        if known is None:
            if not endpoint.info.get("open"):
                faults.append(_unknown(endpoint, name))
            continue
        written, found = encode(known, value)
        faults += [f"{one_line(name)}: {fault}" for fault in found]
        sent[name] = written
    return sent, faults + _missing(endpoint, parameters)


def _variable(endpoint: Endpoint, name: str) -> list[str]:
    value = endpoint.values.get(name)
    if value is None:
        return [f"{name}: the path needs it"]
    if not all(_SEGMENT.match(part) and part not in {".", ".."} for part in value.split("/")):
        return [f"{name}: {one_line(value)[:60]!r} cannot be part of a path"]
    return [f"{name}: {fault}" for fault in encode(endpoint.info["parameters"].get(name, {}), value)[1]]


def _unknown(endpoint: Endpoint, name: str) -> str:
    if name in endpoint.variables:
        return f"{name}: is in the path already"
    return f"{one_line(name)[:60]}: unknown{suggestion(name, endpoint.parameters)}"


def _missing(endpoint: Endpoint, parameters: dict[str, Any]) -> list[str]:
    faults = []
    for name, known in endpoint.parameters.items():
        if name not in parameters:
            if not known.get("optional") and "[n]" not in name:
                faults.append(f"{name}: is needed")
        elif (needed := known.get("requires")) and needed not in parameters:
            faults.append(f"{name}: can only be given with {needed}")
    return faults


def encode(known: Schema, value: Any) -> tuple[Any, list[str]]:  # noqa: ANN401 - JSON in, a form's value out
    """Return `value` encoded for a form, and its faults."""
    kind = known.get("type", "string")
    if value is None:
        return None, ["null cannot be sent; leave it out"]
    if kind == "array":
        return _array(known, value)
    if isinstance(value, list | dict):
        return _list(known, value) if isinstance(value, list) else _properties(known, value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)  # some clients write 101 as 101.0 in JSON
    if kind == "boolean":
        found = _BOOLEANS.get(value.lower() if isinstance(value, str) else value)
        return found, [] if found is not None else [f"{_shown(value)} is not true or false"]
    if kind in {"integer", "number"}:
        return _number(known, value, kind)
    text = _BOOLEANS[value] if isinstance(value, bool) else str(value)
    return text, _inexact([value]) or _text(known, text)


def _inexact(values: Iterable[Any]) -> list[str]:
    """Return the fault of values that have no exact text.

    These are nested objects and lists, NaN and numbers like 1e300.
    """
    for value in values:
        exact = isinstance(value, bool | int | str) or (
            isinstance(value, float) and re.fullmatch(r"-?[0-9.]+", str(value))
        )
        if not exact:
            return [f"{_shown(value)} cannot be sent as it is: give text, a number, true or false"]
    return []


def _as_text(value: Any) -> str:  # noqa: ANN401
    """Return a value inside a list or an object as text."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return _BOOLEANS[value] if isinstance(value, bool) else str(value)


def _array(known: Schema, value: Any) -> tuple[Any, list[str]]:  # noqa: ANN401
    if "oneOf" in known:  # Proxmox decides which of them applies
        known = {"items": {"type": "string"}}
    if not isinstance(value, list):
        value = [value]
    if not value:
        return None, ["an empty list cannot be sent; leave it out"]
    pairs = [encode(known.get("items") or {}, item) for item in value]
    return [text for text, _ in pairs], [
        f"[{number}] {fault}" for number, (_, faults) in enumerate(pairs) for fault in faults
    ]


def _list(known: Schema, value: list[Any]) -> tuple[Any, list[str]]:
    """Return a list as the text that its parameter takes.

    Proxmox's own lists are texts with commas.
    """
    kind = known.get("format")
    if known.get("type", "string") != "string" or isinstance(kind, dict):
        return None, ["takes one value, not a list"]
    if odd := _inexact(value):
        return None, odd
    texts = [_as_text(item) for item in value]
    invalid = [text for text in texts if re.search(r"[,;\s]", text) or not text]
    if invalid or not texts:
        return None, [f"{_shown(invalid[0] if invalid else '')} cannot be part of a list"]
    text = (";" if kind == "pve-tag-list" else ",").join(texts)
    return text, _text(known, text)


def _properties(known: Schema, value: dict[str, Any]) -> tuple[Any, list[str]]:
    """Return `key=value,…` for a parameter that is a property string."""
    if known.get("type", "string") != "string":
        return None, ["takes one value, not an object"]
    if odd := _inexact(value.values()):
        return None, odd
    texts = {str(key): _as_text(item) for key, item in value.items()}
    invalid = [key for key, item in texts.items() if "," in item or "," in key or "=" in key]
    if invalid:
        return None, [f"{invalid[0]}: a ',' (or '=' in a name) would end the property"]
    text = ",".join(f"{key}={item}" for key, item in texts.items())
    return text, _text(known, text)


def _number(known: Schema, value: Any, kind: str) -> tuple[Any, list[str]]:  # noqa: ANN401
    text = str(value)
    shape = r"[+-]?[0-9]{1,18}" if kind == "integer" else r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?"
    if isinstance(value, bool) or not re.fullmatch(shape, text):
        return None, [f"{_shown(value)} is not {'an integer' if kind == 'integer' else 'a number'}"]
    number = float(text) if "." in text else int(text)
    return text, _limits(known, number) + _enum(known, text) + _format(known.get("format"), text)


def _limits(known: Schema, number: float) -> list[str]:
    faults = []
    if "minimum" in known and number < float(known["minimum"]):
        faults.append(f"{number} is below {known['minimum']}")
    if "maximum" in known and number > float(known["maximum"]):
        faults.append(f"{number} is above {known['maximum']}")
    return faults


def _enum(known: Schema, text: str) -> list[str]:
    choices = [str(choice) for choice in known.get("enum") or []]
    return [f"{_shown(text)} is none of {', '.join(choices)}"] if choices and text not in choices else []


def _text(known: Schema, text: str) -> list[str]:
    if not text:
        return ["an empty text is not sent; to remove the value, name it in `delete`"]
    if _CONTROL.search(text):
        return ["holds a control character"]
    if "maxLength" in known and len(text) > int(known["maxLength"]):
        return [f"has {len(text)} characters; {known['maxLength']} may be"]
    if "minLength" in known and len(text) < int(known["minLength"]):
        return [f"has {len(text)} characters; {known['minLength']} must be"]
    return _enum(known, text) or _pattern(known, text) or _format(known.get("format"), text)


def _pattern(known: Schema, text: str) -> list[str]:
    pattern = known.get("pattern")
    rule = compiled(pattern) if isinstance(pattern, str) and len(text) <= PATTERN_LIMIT else None
    return [f"{_shown(text)} does not fit the pattern {pattern}"] if rule and not rule.fullmatch(text) else []


def _format(kind: object, text: str) -> list[str]:
    if isinstance(kind, dict):
        return _property_string(kind, text)
    name = str(kind or "")
    if name in FORMATS:
        fits, what = FORMATS[name]
        return [] if fits(text) else [f"{_shown(text)} is not {what}"]
    if name.endswith("-list") and (single := name.removesuffix("-list")) in FORMATS:
        return [fault for part in re.split(r"[,;\s\0]+", text) if part for fault in _format(single, part)]
    return []


def _property_string(known: dict[str, Any], text: str) -> list[str]:
    if '"' in text or "none" in known:  # a quoted value may contain commas: left to Proxmox
        return []
    faults: list[str] = []
    seen: set[str] = set()
    default = next((name for name, spec in known.items() if spec.get("default_key")), "")
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals:
            name, value = default, part
        name = _alias(known, name)
        if name not in known:
            faults.append(f"{_shown(name or part)} is no property{suggestion(name, known)}")
        elif name in seen:
            faults.append(f"{name} is given twice")
        else:
            faults += [f"{name}: {fault}" for fault in _property(known[name], value)]
        seen.add(name)
    return faults


def _property(known: Schema, value: str) -> list[str]:
    if known.get("type") == "boolean":  # in property strings Proxmox also accepts words
        return (
            []
            if value.lower() in {"1", "0", "on", "off", "yes", "no", "true", "false"}
            else [f"{value!r} is no 0 or 1"]
        )
    return encode({key: setting for key, setting in known.items() if key != "optional"}, value)[1] if value else []


def _alias(known: dict[str, Any], name: str) -> str:
    """Return the property that `name` is an alias of.

    In `virtio=MAC`, for example, the name is the model.
    """
    for _ in range(4):
        target = known.get(name, {}).get("alias")
        if not target:
            break
        name = target
    return name


def _shown(value: object) -> str:
    text = one_line(value)
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")
