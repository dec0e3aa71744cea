"""Find secrets in the parameters of a request or a call before anything is stored, and hide them where they are; pure.

NATS keeps what agentd receives: requests for days, the audit for ever.  So a call that carries a secret is refused by
who sends it and by who receives it, and what is kept of a refused request has the secret left out.  Three things give a
secret away: a parameter of the Proxmox API that is one (SECRETS, by method and name), a field that has the name of a
password, and a text that has the form of one: the private part of a key, a URL with user and password.
"""

from __future__ import annotations

import re
from typing import Any, Final

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
"""Path of the Proxmox API, and names of parameters and of fields in answers that are secret there."""
_PATHS: Final = tuple((re.compile(path), re.compile(names, re.IGNORECASE)) for path, names in SECRETS)
_NAME: Final = re.compile(
    r"(?:.*[-_]|ci|root)?(?:password|passwd|passphrase)|(?:client|shared)[-_]secret", re.IGNORECASE
)
_TEXT: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@]*:[^/\s@]+@|PVEAPIToken=|PVEAuthCookie|PVE:[^\s:]+:[0-9A-F]{8}::"
    r"|(?:^|[\s,;&?\"'])(?:password|passwd|secret|api_?key|token|access_key)\s*[=:]\s*[^\s,;]",
    re.IGNORECASE,
)


def is_secret_of(path: str, name: str) -> bool:
    """Return whether the parameter or the field `name` of a method of this path of the Proxmox API is a secret."""
    return any(where.fullmatch(path) and names.fullmatch(name) for where, names in _PATHS)


def looks_secret(text: str) -> bool:
    """Return whether a text has the form of a secret."""
    return _TEXT.search(text) is not None


def found(value: Any, path: str = "", name: str = "") -> list[str]:  # noqa: ANN401 - JSON values
    """Return the names of the fields of `value` that are secrets; `path` is that of the API call around them."""
    if isinstance(value, dict):
        inner = _path(value) or path
        return [at for key, item in value.items() for at in _field(str(key), item, inner)]
    if isinstance(value, list | tuple):
        return [at for item in value for at in found(item, path, name)]
    return [name or "a value"] if isinstance(value, str) and looks_secret(value) else []


def _field(key: str, value: Any, path: str) -> list[str]:  # noqa: ANN401
    return [key[:60]] if value not in (None, "") and _named(key, path) else found(value, path, key[:60])


def hidden(value: Any, path: str = "") -> Any:  # noqa: ANN401 - JSON values
    """Return `value` with each secret in it replaced by ***."""
    if isinstance(value, dict):
        inner = _path(value) or path
        return {key: _hide(str(key), item, inner) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [hidden(item, path) for item in value]
    return HIDDEN if isinstance(value, str) and looks_secret(value) else value


def _hide(key: str, value: Any, path: str) -> Any:  # noqa: ANN401
    return HIDDEN if value not in (None, "") and _named(key, path) else hidden(value, path)


def _named(key: str, path: str) -> bool:
    return _NAME.fullmatch(key) is not None or bool(path and is_secret_of(path, key))


def _path(value: dict[Any, Any]) -> str:
    """Return the path that a call of the Proxmox API names, "" if `value` is none."""
    path = value.get("path")
    return "/" + path.strip("/") if isinstance(path, str) and path.startswith("/") and "parameters" in value else ""


def refusal(parameters: Any) -> str:  # noqa: ANN401
    """Return why a call or a request with these parameters is refused, "" if it holds no secret."""
    names = sorted(set(found(parameters)))
    return (
        f"{', '.join(repr(name) for name in names[:5])}: is a secret, and what agentd receives is kept for days; "
        "nothing was done: set it with pveum or on the page of Proxmox VE"
        if names
        else ""
    )
