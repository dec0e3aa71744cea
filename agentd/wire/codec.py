"""Encode and decode messages as JSON, with size limits.

Errors name the field.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec

from agentd.errors import InvalidMessage

MAX_MESSAGE: Final = 512 * 1024
"""Largest message in bytes that agentd accepts; half of the server's default max_payload of 1 MiB."""


M = TypeVar("M")


_encoder = msgspec.json.Encoder()


_canonical = msgspec.json.Encoder(order="sorted")


_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def encode(message: object) -> bytes:
    """Return `message` as JSON."""
    return _encoder.encode(message)


def digest(value: object) -> str:
    """Return the SHA-256 of `value` as canonical JSON (sorted keys), as 64 hex digits."""
    return hashlib.sha256(_canonical.encode(value)).hexdigest()


def decode(data: bytes, kind: type[M]) -> M:
    """Return `data` as a message of type `kind`.

    Raises InvalidMessage, which names the type, the field and what is wrong.
    """
    check_size(data, kind)
    if answered_by_server(data):
        raise InvalidMessage(f"{kind.__name__}: it is an answer of the NATS server, not a message of a client")
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        return decoder.decode(data)  # type: ignore[no-any-return]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidMessage(fault(error, kind.__name__)) from error
    except RecursionError as error:
        raise InvalidMessage(f"{kind.__name__}: it is nested too deeply") from error


def answered_by_server(data: bytes) -> bool:
    """Return whether the NATS server, not a client, wrote `data` as an answer.

    The server publishes an answer to the reply subject that the requester chose, and does not check whether the
    requester may publish there.  So such an answer can be stored in any stream.
    """
    if not data.startswith((b'{"stream":', b'{"error":', b'{"type":"io.nats.jetstream.api.', b'{"server":')):
        return False
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return "type" in found or found.keys() <= _ANSWERS


_ANSWERS: Final = frozenset(
    {"stream", "seq", "domain", "duplicate", "error", "val", "batch", "count", "server", "data"}
)
"""The fields of the server's acknowledgements, and of its answer to a request for the user's identity."""


def check_size(data: bytes, kind: type[object]) -> None:
    """Raise InvalidMessage if `data` is larger than a message of type `kind` may be."""
    limit = getattr(kind, "MAX_BYTES", MAX_MESSAGE)
    if len(data) > limit:
        raise InvalidMessage(f"{kind.__name__}: {len(data)} bytes; at most {limit} are accepted")


def convert(value: object, kind: type[M]) -> M:
    """Return `value` (dicts, lists, …) as `kind`.

    Raises InvalidMessage as `decode` does.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InvalidMessage(fault(error, getattr(kind, "__name__", str(kind)))) from error


def fault(error: Exception, where: str) -> str:
    """Return msgspec's error text with the field first.

    For example: `WorkflowRequest.priority: expected int, got str`.
    """
    text, _, at = str(error).partition(" - at `$")
    text = text.replace("`", "").replace(" | null", " or nothing").replace(r"\\Z'", "$'")
    text = text if text.startswith("JSON") else text[:1].lower() + text[1:]
    return f"{where}{at.rstrip('`')}: {text}"


def plain(value: object) -> Any:  # noqa: ANN401 - JSON values
    """Return `value` in types that JSON has: dicts, lists, strings, numbers."""
    return msgspec.to_builtins(value)


def now() -> datetime:
    """Return the current time, in UTC."""
    return datetime.now(UTC)
