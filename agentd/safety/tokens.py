"""Who an HTTP request comes from: a bearer token that stands for a principal; pure.

A token is 256 random bits, so its SHA-256 may lie in the configuration: nobody finds a token by it, and whoever may
read the configuration of a daemon cannot act through it.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Final

from agentd.errors import Denied

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX: Final = "sha256:"


def make() -> tuple[str, str]:
    """Return a new token, and what of it stands in the configuration."""
    token = f"agentd_{secrets.token_urlsafe(32)}"
    return token, digest(token)


def digest(token: str) -> str:
    """Return what of a token stands in the configuration: `sha256:<64 hexadecimal digits>`."""
    return PREFIX + hashlib.sha256(token.encode()).hexdigest()


def principal_of(authorization: str | None, tokens: Mapping[str, str]) -> str | None:
    """Return whose token the header `Authorization` brings, None if it brings none.

    tokens  principal, and the digest of its token

    Raises Denied for any other scheme and for a token that nobody has: who shows one does not mean to be nobody.
    """
    if authorization is None:
        return None
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Denied("Authorization: Bearer TOKEN is understood, nothing else; `agentd token NAME` makes one")
    shown = digest(token.strip())
    for principal, known in tokens.items():
        if secrets.compare_digest(shown, known):
            return principal
    raise Denied("this token is nobody's: it is not in [web.tokens] of this daemon")
