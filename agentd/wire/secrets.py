"""Find secrets in requests and calls before they are stored; redact them; pure.

NATS keeps what agentd receives: requests for days, the audit for ever.  So a call that contains a secret is refused by
the client that sends it and by the agent that receives it.  Of a refused request only names, numbers and the texts of
known fields (OPEN) are kept: any other text may be a secret.  A secret is recognized in three ways: by the path and
name of a parameter of the Proxmox API (SECRETS), by a field name such as that of a password, and by the form of a text:
the private part of a key, a URL with user and password, `password=…`.  A secret in a text without such a form cannot be
recognized.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote

HIDDEN: Final = "***"
SECRETS: Final = (
    (r".*", r".*(?:password|passwd|passphrase)|secret|ticket|vncticket|lock-token|otp|totp|tfa-challenge"),
    (
        r".*",
        r"keyring|encryption-key|client-key|eab-hmac-key|target-endpoint|otel-headers|private[-_]key|api[-_]?token",
    ),
    (r"/cluster/acme/plugins(?:/.*)?", r"data"),
    (r"/cluster/(?:metrics/server|sdn/ipams|notifications/endpoints/gotify)(?:/.*)?", r"token"),
    (r"/cluster/notifications/endpoints/webhook(?:/.*)?", r"header|body"),
    (r"/cluster/sdn/dns(?:/.*)?|/nodes/[^/]+/(?:certificates/custom|subscription)", r"key"),
    (r"/access/users(?:/[^/]+)?", r"keys"),
    (r"/access/domains(?:/[^/]+)?", r"tfa"),
    (r"/access/(?:tfa|openid|ticket|vncticket)(?:/.*)?", r"challenge|value|code|state"),
    (r"/nodes/[^/]+/lxc(?:/.*)?", r"env"),
)
"""Path of the Proxmox API, and the names of its parameters and answer fields that are secret."""
_PATHS: Final = tuple((re.compile(path, re.IGNORECASE), re.compile(names, re.IGNORECASE)) for path, names in SECRETS)
_ANYWHERE: Final = "*"
"""The path of a call that names no path: a name that is secret on any path is then secret."""
_NAME: Final = re.compile(
    r".*(?:password|passwd|passphrase|secret|apikey|keyring)s?"
    r"|(?:.*-)?(?:pwd|pass|token|ticket|cookie|credentials?|authorization|otp|totp|(?:api|access|private|secret|auth)-?key)"
)
_WORDS: Final = (
    r"password|passwd|passphrase|pass|pwd|[a-z_-]*secret|(?:[a-z_-]+[-_])?token"
    r"|(?:api|access|secret|private)[-_]?key"
)
_TEXT: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY(?:.|\n)*?(?:-----END[^\n]*|\Z)"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)|(?:(?<=http://)|(?<=https://)|(?<=ftp://))[^/\s@]+(?=@)"
    r"|PVE(?:API|Auth|Mail)?(?:Token|Cookie|:[^\s:]+:[0-9A-F]{8}::)[^\n]*"
    r"|(?:proxy-)?authorization[\"']?\s{0,9}[=:]\s{0,9}[\"']?\s{0,9}(?:bearer|basic|digest|token)\s[^\n]*"
    rf"|(?:(?<=^)|(?<=[\s,;&?\"'({{\[]))(?:{_WORDS})[\"']?\s*[=:]\s*(?!is a secret\b)[^\s,;][^\n]*",
    re.IGNORECASE | re.MULTILINE,
)
_HINT: Final = re.compile(r"[=:]|-----|[Pp][Vv][Ee]")
"""Every form in _TEXT contains one of these; this search takes a tenth of the time, and most texts contain none."""
_VALUE: Final = re.compile(r"""(["']\s*:\s*)["'](?:[^"'\\]|\\.)*(?:["']|\Z)""", re.DOTALL)
"""A text that is the value of a field in invalid JSON."""
_SIMPLE: Final = re.compile(r"[A-Za-z0-9_.:@/{}+-]{0,128}")
OPEN: Final = frozenset(
    {
        "tool",
        "path",
        "method",
        "name",
        "vmid",
        "node",
        "target",
        "template",
        "storage",
        "pool",
        "guest",
        "tag",
        "of",
        "id",
    }
)
"""Parameters of a refused request whose texts are kept."""
_DEEP: Final = 100
"""Largest nesting depth of lists and objects in a request."""
_SHORT: Final = 64
"""Longest name of a field that is checked only once; the results for 4,096 names are kept."""


def is_secret_of(path: str, name: str) -> bool:
    """Return whether `name` is a secret on this path of the Proxmox API.

    `name` is a parameter, or a field of an answer.
    """
    return any((path == _ANYWHERE or where.fullmatch(path)) and names.fullmatch(name) for where, names in _PATHS)


def is_secret_name(name: str) -> bool:
    """Return whether a field of this name is a secret anywhere.

    For example `adminPassword` and `access_token`.
    """
    return _NAME.fullmatch(_plain(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name)).lower()) is not None


def _judge_name(name: str) -> tuple[bool, bool]:
    """Return whether a field's name has the form of a secret's, and whether it is one."""
    return _judge_short_name(name) if len(name) <= _SHORT else (looks_secret(name), is_secret_name(name))


@lru_cache(4096)
def _judge_short_name(name: str) -> tuple[bool, bool]:
    return looks_secret(name), is_secret_name(name)


def _plain(name: str) -> str:
    """Return `name` with dashes between its words, without a number at its end."""
    return re.sub(r"[_.\s]+", "-", re.sub(r"(?:\d+|\[n\])\Z", "", name.strip()[:200]))


def looks_secret(text: str) -> bool:
    """Return whether a text has the form of a secret."""
    return _HINT.search(text) is not None and _TEXT.search(text) is not None


def redacted(text: str) -> str:
    """Return `text` with everything that has the form of a secret replaced by ***.

    Where the end of the secret is not known, the rest of the line is replaced.
    """
    return _TEXT.sub(HIDDEN, text) if _HINT.search(text) else text


def found(value: Any, path: str = "", name: str = "", depth: int = 0) -> list[str]:  # noqa: ANN401 - JSON values
    """Return the names of the fields of `value` that are secrets.

    `path` is the path of the surrounding API call.
    """
    if isinstance(value, str):
        if looks_secret(value):
            return [name or "a value"]
        inside = _inside(value)
        return [] if inside is None else found(inside, path, name, depth + 1)
    if not isinstance(value, (dict, list, tuple)):
        return []
    if depth > _DEEP:
        return ["what is nested deeper than 100 levels"]
    if isinstance(value, dict):
        inner = _path(value) or path
        return [at for key, item in value.items() for at in _field(str(key), item, inner, depth)]
    return [at for item in value for at in found(item, path, name, depth + 1)]


def _field(key: str, value: Any, path: str, depth: int) -> list[str]:  # noqa: ANN401
    is_form, is_name = _judge_name(key)
    if is_form:
        return ["the name of a field"]
    secret = (is_name or _is_named_by(path, key)) and value not in (None, "")
    return [key[:60]] if secret else found(value, path, key[:60], depth + 1)


def hidden(value: Any, path: str = "", depth: int = 0) -> Any:  # noqa: ANN401 - JSON values
    """Return `value` with each secret in it replaced by ***.

    Secret fields are replaced completely; in other texts every part that looks like a secret is replaced.
    """
    if depth > _DEEP:
        return HIDDEN
    if isinstance(value, dict):
        inner = _path(value) or path
        return {
            redacted(key) if isinstance(key, str) else key: _hide(str(key), item, inner, depth)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [hidden(item, path, depth + 1) for item in value]
    if not isinstance(value, str):
        return value
    inside = None if looks_secret(value) else _inside(value)
    return redacted(value) if inside is None or not found(inside, path) else HIDDEN


def _hide(key: str, value: Any, path: str, depth: int) -> Any:  # noqa: ANN401
    secret = value not in (None, "") and (_judge_name(key)[1] or _is_named_by(path, key))
    return HIDDEN if secret else hidden(value, path, depth + 1)


def _is_named_by(path: str, key: str) -> bool:
    return bool(path and (is_secret_of(path, key) or is_secret_of(path, _plain(key))))


def _inside(text: str) -> Any:  # noqa: ANN401
    """Return the list or object that `text` encodes as JSON, else None."""
    if text[:1] not in "{[" or len(text) < len('{"":1}'):
        return None
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict | list) else None


def _path(value: dict[Any, Any]) -> str:
    """Return the path that a call of the Proxmox API names.

    "*" for a call without a path, "" if `value` is no call.
    """
    if "parameters" not in value or not {"path", "method"} & value.keys():
        return ""
    path = value.get("path")
    if not isinstance(path, str):
        return _ANYWHERE
    parts = [part for part in unquote(path).split("/") if part]
    return "/" + "/".join(parts[2:] if parts[:1] == ["api2"] else parts)


def withheld(value: Any, name: str = "", depth: int = 0) -> Any:  # noqa: ANN401 - JSON values
    """Return the parameters of a refused request as they are kept.

    Names, numbers, and the texts of the fields in OPEN are kept.

    A refused request was not understood, so it is not known which of its texts are secrets.
    """
    if depth > _DEEP:
        return HIDDEN
    if isinstance(value, dict):
        return {redacted(str(key)): withheld(item, str(key), depth + 1) for key, item in hidden(value).items()}
    if isinstance(value, list | tuple):
        return [withheld(item, name, depth + 1) for item in value]
    if not isinstance(value, str):
        return value
    return value if name in OPEN and _SIMPLE.fullmatch(value) and not looks_secret(value) else HIDDEN


def of_message(data: bytes) -> bytes:
    """Return a message that could not be handled, with its secrets redacted.

    The same bytes are returned if it holds no secret.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        text = data.decode("utf-8", "replace")
        kept = _VALUE.sub(rf"\1{HIDDEN}", text) if _VALUE.search(text) else redacted(text)
        return data if kept == text else kept.encode()
    return json.dumps(hidden(value)).encode() if found(value) else data


def refusal(parameters: Any) -> str:  # noqa: ANN401
    """Return why a call or a request with these parameters is refused.

    "" if they hold no secret.
    """
    names = sorted(set(found(parameters)))
    return (
        f"{', '.join(repr(name) for name in names[:5])}: is a secret, and what agentd receives is kept for days; "
        "nothing was done: set it with pveum or on the page of Proxmox VE"
        if names
        else ""
    )
