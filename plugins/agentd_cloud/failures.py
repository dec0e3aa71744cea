"""Errors of apache-libcloud and of the network as errors of agentd; pure.

Their texts may contain the access key and a signature: the text of a network error is never used, and every other
text is cleaned first.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from agentd import AgentdError, Denied, NotFound, PermanentError, Rejected, TemporaryError, UnknownOutcome
from agentd.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST: Final = 300
"""Characters of a provider's text in an error."""
_THROTTLED: Final = re.compile(r"RequestLimitExceeded|Throttl|rate.?limit|too many requests|SlowDown", re.IGNORECASE)
_MISSING: Final = re.compile(r"NotFound|does ?n[o']t exist", re.IGNORECASE)
_FORBIDDEN: Final = re.compile(r"UnauthorizedOperation|AccessDenied|OperationNotPermitted")
_NEVER_SENT: Final = frozenset({"NewConnectionError", "ConnectTimeout", "ConnectTimeoutError", "gaierror", "SSLError"})
"""Classes of errors before a request was sent."""
_SIGNATURE: Final = re.compile(r"(?:Signature|Credential|AccessKeyId|Security-Token)=[^&\s,]*", re.IGNORECASE)
_SERVER_ERROR: Final = 500
_BAD_CREDENTIALS: Final = 401


def cleaned(text: str, secrets: Iterable[str]) -> str:
    """Return a provider's text without secrets and signatures, as one short line."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return printable(_SIGNATURE.sub("***", text))[:LONGEST]


def failure(error: BaseException, account: str, secrets: Iterable[str], *, write: bool) -> AgentdError:
    """Return the error of agentd for an error in a request to a provider.

    write  the request changes something, so it may have been carried out if no answer says that it was not
    """
    where = f"account {account}"
    if isinstance(error, AgentdError):
        return error
    if isinstance(error, NotImplementedError):
        return Rejected(f"{where}: the provider does not offer this")
    if isinstance(error, OSError):  # also every error of requests
        return _network(error, where, write=write)
    text = cleaned(str(getattr(error, "value", "") or error), secrets)
    return _refusal(error, text, account) or _unclear(error, f"{where}: {type(error).__name__}: {text}", write=write)


def _refusal(error: BaseException, text: str, account: str) -> AgentdError | None:
    """Return the error for an answer that says that nothing was done; None if it does not say that."""
    where, kind = f"account {account}", type(error).__name__
    code = _code(error)
    if kind == "InvalidCredsError" or code == _BAD_CREDENTIALS:
        return PermanentError(
            f"{where}: the provider refused the credentials; check key and secret_file of [cloud.accounts.{account}]"
        )
    if kind == "RateLimitReachedError" or _THROTTLED.search(text):
        pause = float(getattr(error, "retry_after", 0) or 5.0)
        return TemporaryError(f"{where}: the provider limits the rate of requests", delay=pause)
    if 0 < code < _SERVER_ERROR:
        kinds = ((_FORBIDDEN, Denied), (_MISSING, NotFound))
        return next((made for found, made in kinds if found.search(text)), PermanentError)(f"{where}: {text}")
    return None


def _unclear(error: BaseException, text: str, *, write: bool) -> AgentdError:
    if write:
        return UnknownOutcome(text)
    return TemporaryError(text, delay=2.0) if _code(error) else PermanentError(text)


def _code(error: BaseException) -> int:
    """Return the HTTP status of an error, 0 if it has none."""
    code = getattr(error, "code", None) or getattr(error, "http_code", None)
    return code if isinstance(code, int) else 0


def _network(error: OSError, where: str, *, write: bool) -> AgentdError:
    names = _classes(error)
    if isinstance(error, ConnectionRefusedError) or names & _NEVER_SENT:
        return TemporaryError(f"{where}: the provider cannot be reached ({type(error).__name__})", delay=2.0)
    text = f"{where}: the connection to the provider broke, or no answer came in time ({type(error).__name__})"
    return UnknownOutcome(text) if write else TemporaryError(text, delay=2.0)


def _classes(error: object) -> set[str]:
    """Return the names of the classes of an error and of those that it wraps."""
    found: set[str] = set()
    waiting = [error]
    while waiting:
        inner = waiting.pop()
        found |= {kind.__name__ for kind in type(inner).__mro__}
        waiting += [item for item in (*getattr(inner, "args", ()), getattr(inner, "reason", None)) if _is_error(item)]
    return found


def _is_error(value: object) -> bool:
    return isinstance(value, BaseException)
