"""Maps the bearer token of an HTTP request to a principal; pure.

A token is 256 random bits, so its SHA-256 may be stored in the configuration: the token cannot be guessed from it, and
read access to the configuration of a daemon does not allow acting through the daemon.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Final

from agentd.errors import Denied

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX: Final = "sha256:"


def new_token() -> tuple[str, str]:
    """Return a new token, and its digest for the configuration."""
    token = f"agentd_{secrets.token_urlsafe(32)}"
    return token, token_digest(token)


def token_digest(token: str) -> str:
    """Return the digest of a token for the configuration.

    Its form is `sha256:<64 hexadecimal digits>`.
    """
    return PREFIX + hashlib.sha256(token.encode()).hexdigest()


def principal_of(authorization: str | None, tokens: Mapping[str, str]) -> str | None:
    """Return the principal of the header `Authorization`, None if there is no header.

    tokens  the digest of each principal's token

    Raises Denied for any other scheme and for an unknown token: a client that sends one does not mean to be anonymous.
    """
    if authorization is None:
        return None
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Denied("Authorization: Bearer TOKEN is understood, nothing else; `agentd token NAME` makes one")
    presented = token_digest(token.strip())
    for principal, stored in tokens.items():
        if secrets.compare_digest(presented, stored):
            return principal
    raise Denied("this token is unknown: it is not in [web.tokens] of this daemon")
