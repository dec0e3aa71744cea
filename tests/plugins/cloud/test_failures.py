"""Errors of providers: what was certainly not done, what may have been done, and no secret in any text."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from agentd.errors import Denied, NotFound, PermanentError, Rejected, TemporaryError, UnknownOutcome
from agentd_cloud.failures import failure

SECRETS = ("the secret", "AKIDKEY")


class NewConnectionError(OSError):
    """As urllib3's: nothing was sent."""


class Answer(Exception):
    """As libcloud's BaseHTTPError."""

    def __init__(self, code: int, text: str) -> None:
        """Store the status."""
        super().__init__(text)
        self.code = code


CASES: list[tuple[BaseException, type[Exception], type[Exception]]] = [
    (TimeoutError("read"), TemporaryError, UnknownOutcome),
    (ConnectionResetError("AKIDKEY"), TemporaryError, UnknownOutcome),
    (ConnectionRefusedError(), TemporaryError, TemporaryError),
    (OSError(NewConnectionError()), TemporaryError, TemporaryError),
    (ssl.SSLError("certificate verify failed"), TemporaryError, TemporaryError),
    (Answer(500, "InternalError: Signature=x&AKIDKEY"), TemporaryError, UnknownOutcome),
    (Answer(503, "RequestLimitExceeded: the secret"), TemporaryError, TemporaryError),
    (Answer(429, "Rate limit"), TemporaryError, TemporaryError),
    (Answer(400, "InvalidAMIID.NotFound: AKIDKEY"), NotFound, NotFound),
    (Answer(403, "UnauthorizedOperation: x"), Denied, Denied),
    (Answer(401, "AuthFailure: AKIDKEY"), PermanentError, PermanentError),
    (Answer(400, "InvalidParameterValue: the secret"), PermanentError, PermanentError),
    (ValueError("the secret is not XML"), PermanentError, UnknownOutcome),
    (NotImplementedError(), Rejected, Rejected),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{type(case[0]).__name__} {case[0]}"[:40])
@pytest.mark.parametrize("write", [False, True])
def test_failures(case: Any, *, write: bool) -> None:
    """A write is unknown unless an answer says that it was refused, or nothing was sent; a text has no secret."""
    error, read, written = case
    found = failure(error, "lab", SECRETS, write=write)

    assert type(found) is (written if write else read)
    for hidden in (*SECRETS, "Signature=x"):
        assert hidden not in str(found)
