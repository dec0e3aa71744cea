"""The messages on the wire: an old and a new daemon, and any other NATS client, understand each other."""

from __future__ import annotations

import json
from datetime import UTC
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples_settings
from hypothesis import strategies as st

from agentd.errors import InvalidMessage
from agentd.wire import announcements, codec, messages, records, workflow
from agentd.wire.announcements import CriticalError
from agentd.wire.codec import MAX_MESSAGE
from agentd.wire.messages import MAX_REQUEST, Tier, ToolCall, WorkflowRequest

EXAMPLES = Path(__file__).parents[1] / "examples"
KINDS: dict[str, type[Any]] = {
    name: kind
    for module in (messages, records, announcements)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ == module.__name__
} | {"Workflow": workflow.Workflow}

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def _values(kind: Any) -> st.SearchStrategy[Any]:
    """Return values of a message's field, down to the messages within it."""
    info = msgspec.inspect.type_info(kind)
    return _of(info)


def _struct(info: msgspec.inspect.StructType) -> st.SearchStrategy[Any]:
    required = {field.name: _of(field.type) for field in info.fields if field.required}
    optional = {field.name: _of(field.type) for field in info.fields if not field.required}
    return st.fixed_dictionaries(required, optional=optional).map(lambda fields: info.cls(**fields))


def _of(info: Any) -> st.SearchStrategy[Any]:  # noqa: PLR0911 - one line a type
    match info:
        case msgspec.inspect.StructType():
            return _struct(info)
        case msgspec.inspect.EnumType():
            return st.sampled_from(info.cls)
        case msgspec.inspect.UnionType():
            return st.one_of([_of(type_) for type_ in info.types])
        case msgspec.inspect.ListType():
            return st.lists(_of(info.item_type), max_size=3)
        case msgspec.inspect.DictType():
            return st.dictionaries(st.text(max_size=8), _of(info.value_type), max_size=3)
        case msgspec.inspect.DateTimeType():
            return st.datetimes(timezones=st.just(UTC))
        case _:
            return _plain(info)


def _plain(info: Any) -> st.SearchStrategy[Any]:
    found: st.SearchStrategy[Any] = {
        msgspec.inspect.AnyType: _JSON,
        msgspec.inspect.NoneType: st.none(),
        msgspec.inspect.BoolType: st.booleans(),
        msgspec.inspect.IntType: st.integers(-(2**53), 2**53),
        msgspec.inspect.FloatType: st.floats(allow_nan=False, allow_infinity=False),
        msgspec.inspect.StrType: st.text(max_size=20),
    }[type(info)]
    return found


@pytest.mark.parametrize("name", sorted(KINDS))
@examples_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_round_trip(name: str, data: st.DataObject) -> None:
    """Any message is read as it was written."""
    message = data.draw(_values(KINDS[name]))

    assert codec.decode(codec.encode(message), KINDS[name]) == message


@pytest.mark.parametrize("name", sorted(KINDS))
def test_stored_example(name: str) -> None:
    """A message that an earlier version wrote still decodes to the same: this file is the contract of the wire."""
    raw = (EXAMPLES / f"{name}.json").read_bytes()
    message = codec.decode(raw, KINDS[name])

    assert {field.name for field in msgspec.structs.fields(KINDS[name])} == set(json.loads(raw)), "every field is shown"
    assert json.loads(codec.encode(message)) == _without_defaults(json.loads(raw), KINDS[name])


def _without_defaults(raw: dict[str, Any], kind: type[Any]) -> dict[str, Any]:
    """Return `raw` without what is the default: such fields are not written."""
    again: dict[str, Any] = json.loads(codec.encode(codec.convert(raw, kind)))
    kept = set(again)
    defaults = {field.name: field.default for field in msgspec.structs.fields(kind) if not field.required}
    for key in set(raw) - kept:
        assert raw[key] == defaults[key], f"{key} was lost"
    return {key: again[key] if isinstance(raw[key], (dict, list)) else raw[key] for key in raw if key in kept}


def test_every_example_is_a_message() -> None:
    """No example stays behind for a message that is gone."""
    assert {path.stem for path in EXAMPLES.glob("*.json")} == set(KINDS)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_unknown_fields_are_ignored(name: str) -> None:
    """A field that a newer version has added does not disturb."""
    raw = json.loads((EXAMPLES / f"{name}.json").read_bytes())

    newer = codec.decode(json.dumps(raw | {"added_in_2031": {"a": [1]}}).encode(), KINDS[name])

    assert newer == codec.decode(json.dumps(raw).encode(), KINDS[name])


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_missing_field_is_named(name: str) -> None:
    """A message without a field that must be there is refused, naming type and field."""
    raw = json.loads((EXAMPLES / f"{name}.json").read_bytes())
    for field in msgspec.structs.fields(KINDS[name]):
        if field.required:
            without = {key: value for key, value in raw.items() if key != field.name}
            with pytest.raises(InvalidMessage, match=rf"(?s){name}.*{field.name}"):
                codec.decode(json.dumps(without).encode(), KINDS[name])


def test_a_wrong_type_is_named() -> None:
    """A field of the wrong type is refused, naming type, field and what was expected."""
    with pytest.raises(
        InvalidMessage, match=r"WorkflowRequest.*priority.*int.*str|WorkflowRequest.*int.*str.*priority"
    ):
        codec.decode(b'{"workflow_type": "x", "priority": "high"}', WorkflowRequest)


@pytest.mark.parametrize("raw", [b"", b"{", b"nonsense", b"\xff\xfe", b"[]", b"null"])
def test_no_json(raw: bytes) -> None:
    """What is no JSON object is refused like any other message, naming the type."""
    with pytest.raises(InvalidMessage, match="WorkflowRequest"):
        codec.decode(raw, WorkflowRequest)


def test_size_limit() -> None:
    """A message above the limit of its kind is refused before it is read; one below is not."""
    request = b'{"workflow_type": "%s"}'
    error = b'{"service_id": "s", "timestamp": "2026-01-01T00:00:00Z", "error": "%s"}'
    with pytest.raises(InvalidMessage, match=f"at most {MAX_REQUEST}"):
        codec.decode(request % (b"x" * MAX_REQUEST), WorkflowRequest)
    with pytest.raises(InvalidMessage, match=f"at most {MAX_MESSAGE}"):
        codec.decode(error % (b"x" * MAX_MESSAGE), CriticalError)

    assert len(codec.decode(request % (b"x" * (MAX_REQUEST - 100)), WorkflowRequest).workflow_type) > 130_000
    assert len(codec.decode(error % (b"x" * (MAX_MESSAGE - 100)), CriticalError).error) > 500_000


def test_too_deep() -> None:
    """A message that would exhaust the parser's stack is refused like any other that cannot be read."""
    with pytest.raises(InvalidMessage, match="WorkflowRequest: it is nested too deeply"):
        codec.decode(b'{"workflow_type": "x", "parameters": {"a": ' + b"[" * 100_000, WorkflowRequest)


def test_a_deadline_has_a_zone() -> None:
    """A time used in calculations must have a zone: guessing it could be hours wrong."""
    with pytest.raises(InvalidMessage, match=r"ToolCall\.deadline: expected datetime with a timezone component"):
        codec.decode(b'{"parameters": {}, "deadline": "2026-01-01T00:00:00"}', ToolCall)


def test_times_have_a_zone() -> None:
    """Times are written in UTC with a zone, so that no reader has to guess."""
    assert codec.encode(announcements.Heartbeat("a", codec.now())).split(b'"')[7].endswith(b"Z")


def test_digest_does_not_depend_on_order() -> None:
    """The digest of a value is of its content, not of the order of its keys."""
    assert codec.digest({"a": 1, "b": [1, 2]}) == codec.digest({"b": [1, 2], "a": 1})
    assert codec.digest({"a": [1, 2]}) != codec.digest({"a": [2, 1]})
    assert len(codec.digest(None)) == 64


def test_tiers_rise() -> None:
    """A tier includes the lower tiers."""
    assert [item.rank for item in (Tier.READ, Tier.OPERATE, Tier.DESTROY, Tier.EXEC)] == [0, 1, 2, 3]
    assert Tier.OPERATE.covers(Tier.READ)
    assert Tier.OPERATE.covers(Tier.OPERATE)
    assert not Tier.OPERATE.covers(Tier.DESTROY)
