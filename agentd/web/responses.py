"""Responses and query parameters that all routes share.

Errors are problem details (RFC 9457), JSON has an ETag of its content, and a list that is longer than its page has a
Link to the next page (RFC 8288).
"""

from __future__ import annotations

import hashlib
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlencode

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from agentd.printable import escaped_bytes
from agentd.wire.codec import encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.datastructures import QueryParams
    from starlette.requests import Request

T = TypeVar("T")

FRESH: Final = {"cache-control": "no-cache", "vary": "accept, cookie"}
FORMATS: Final = ("html", "json", "text")
FURTHEST: Final = 1_000_000
"""Largest offset of a page."""


class Problem(msgspec.Struct, frozen=True):
    """Why a request is wrong, or why it cannot be answered now (RFC 9457); `detail` says what to do."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"


def problem_response(code: int, text: str, **more: Any) -> Response:  # noqa: ANN401 - JSON
    """Return the response for an error, with further members."""
    body = msgspec.to_builtins(Problem(HTTPStatus(code).phrase, code, text)) | more
    headers = {**FRESH, "content-type": "application/problem+json"}
    return Response(escaped_bytes(encode(body)), code, headers)


def json_response(request: Request, value: object, code: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return `value` as JSON; 304 if the client has it already."""
    body = escaped_bytes(encode(value))
    tag = f'W/"{hashlib.sha256(body).hexdigest()[:16]}"'
    headers = {**FRESH, "etag": tag, **(headers or {})}
    if code == HTTPStatus.OK and tag in request.headers.get("if-none-match", ""):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(body, code, headers | {"content-type": "application/json"})


def html_response(request: Request, page: str, code: int = 200) -> Response:
    """Return a page; 304 if the client has it already."""
    tag = f'W/"{hashlib.sha256(page.encode()).hexdigest()[:16]}"'
    if code == HTTPStatus.OK and tag in request.headers.get("if-none-match", ""):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers={**FRESH, "etag": tag})
    return Response(page, code, {**FRESH, "etag": tag, "content-type": "text/html; charset=utf-8"})


def text_response(text: str, code: int = 200) -> Response:
    """Return plain text."""
    return PlainTextResponse(text, code, FRESH)


def page_response(request: Request, found: Sequence[T], limit: int, most: int) -> Response:
    """Return the page of a list that `limit` and `offset` select.

    The header X-Total-Count counts all entries.
    """
    query = request.query_params
    limit, offset = number(query, "limit", limit, most), number(query, "offset", 0, FURTHEST, least=0)
    headers = {"x-total-count": str(len(found))}
    if offset + limit < len(found):
        following = urlencode({**query, "limit": limit, "offset": offset + limit})
        headers["link"] = f'<{request.url.path}?{following}>; rel="next"'
    return json_response(request, list(found[offset : offset + limit]), headers=headers)


def check_parameters(request: Request, *names: str) -> None:
    """Raise a 400 for a query parameter that the route does not know."""
    for name in request.query_params:
        if name not in names:
            allowed = f"there are {', '.join(names)}" if names else "none is taken here"
            raise HTTPException(400, f"unknown query parameter {name!r}; {allowed}")


def number(query: QueryParams, name: str, default: int, most: int, *, least: int = 1) -> int:
    """Return a parameter that is a number; raises a 400 if it is none."""
    given = query.get(name, str(default))
    if not (given.isascii() and given.isdigit() and len(given) <= len(str(most)) and least <= int(given) <= most):
        raise HTTPException(400, f"{name}: {given[:40]!r} is not a number from {least} to {most}")
    return int(given)


def wanted_format(request: Request) -> str:
    """Return the form that the client asked for: html, json or text."""
    given = request.query_params.get("format")
    if given is not None:
        if given not in FORMATS:
            raise HTTPException(400, f"format: {given[:40]!r} is not one of {', '.join(FORMATS)}")
        return given
    accept = request.headers.get("accept", "")
    if "text/html" in accept:
        return "html"
    return "json" if "application/json" in accept else "text"
