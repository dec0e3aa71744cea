"""The audit chain: what it keeps, what it hides, what it notices."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.safety import audit_chain
from agentd.safety.audit_chain import AuditChain, ChainCheck, Problem, hash_of
from agentd.wire.codec import decode, encode
from agentd.wire.messages import Tier
from agentd.wire.records import AuditRecord
from core.chains import verify

START = datetime(2026, 11, 22, 8, 30, tzinfo=UTC)
LENGTH = 6

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def chain(length: int = LENGTH, agent: str = "mcp-bridge-pve1") -> list[AuditRecord]:
    """Return a chain of `length` records."""
    records: list[AuditRecord] = []
    for number in range(length):
        head = records[-1] if records else None
        records.append(
            AuditChain(agent, head).next(
                START + timedelta(seconds=number),
                principal="bob",
                tool="create_vm",
                tier=Tier.OPERATE,
                phase="before" if number % 2 == 0 else "after",
                key=f"wf-{number}.create",
                arguments={"vmid": 100 + number, "name": "web"},
                outcome="completed",
                upid="UPID:pve1:0000A1B2:00C3D4E5:5F000000:qmcreate:100:agentd@pve!full:",
            )
        )
    return records


def forged(record: AuditRecord, **fields: Any) -> AuditRecord:
    """Return `record` with other fields and a hash that fits them."""
    other = msgspec.structs.replace(record, **fields)
    return msgspec.structs.replace(other, hash=hash_of(other))


def test_chain_links_its_records() -> None:
    """Each record has the next number and names the hash of the one before it."""
    records = chain(3)

    assert [record.seq for record in records] == [1, 2, 3]
    assert [record.previous for record in records] == ["", records[0].hash, records[1].hash]
    assert len({record.hash for record in records}) == 3
    assert verify(records) is None
    assert verify([]) is None


@given(st.dictionaries(st.text(max_size=10), json_values, max_size=4))
def test_record_survives_the_wire(arguments: dict[str, Any]) -> None:
    """A chain that was sent and read again is still valid, for any arguments."""
    record = AuditChain("a").next(
        START, principal="p", tool="t", tier=Tier.OPERATE, phase="before", arguments=arguments
    )

    assert verify([decode(encode(record), AuditRecord)]) is None


OTHER = {
    "seq": 77,
    "previous": "0" * 64,
    "timestamp": START - timedelta(days=1),
    "agent_id": "another-agent",
    "principal": "eve",
    "tool": "start_guest",
    "tier": Tier.READ,
    "phase": "during",
    "key": "x.y",
    "digest": "0" * 64,
    "arguments": {"vmid": 666},
    "outcome": "failed",
    "upid": "",
    "approved_by": "eve",
    "process": "ffff",
    "signer": "UD73",
    "hash": "0" * 64,
}


@given(place=st.integers(0, LENGTH - 1), field=st.sampled_from(sorted(OTHER)))
def test_tampering_is_found_at_its_line(place: int, field: str) -> None:
    """Any single field that is changed in any record is found, at the line that was changed."""
    records = chain()
    records[place] = msgspec.structs.replace(records[place], **{field: OTHER[field]})

    assert verify(records) == Problem(
        place + 1, audit_chain.ALTERED, f"line {place + 1} was altered: its hash does not match its content"
    )


@given(place=st.integers(0, LENGTH - 2))
def test_missing_line_is_found(place: int) -> None:
    """A record that was taken out of a chain is found at its place."""
    records = chain()
    del records[place]

    assert verify(records) == Problem(
        place + 1, audit_chain.MISSING, f"line {place + 1} is missing: {place + 2} is in its place"
    )


@given(places=st.lists(st.integers(0, LENGTH - 1), min_size=2, max_size=2, unique=True))
def test_reordered_lines_are_found(places: list[int]) -> None:
    """Two records that changed places are found: the first of the two as missing, and its position."""
    first, second = sorted(places)
    records = chain()
    records[first], records[second] = records[second], records[first]
    check = ChainCheck("mcp-bridge-pve1")
    for record in records:
        check.add(record)

    assert check.problems[0] == Problem(
        first + 1, audit_chain.MISSING, f"line {first + 1} is missing: {second + 1} is in its place"
    )
    assert any(
        problem.reason == audit_chain.REORDERED and f"line {first + 1} is where" in problem.text
        for problem in check.problems
    )


def test_repeated_line_is_found() -> None:
    """A repeated record is found."""
    records = chain(3)

    assert verify([*records[:2], records[1], records[2]]) == Problem(
        3, audit_chain.REORDERED, "line 2 is where line 3 should be"
    )


def test_foreign_line_is_found() -> None:
    """A sound record of another agent in the chain is found."""
    records = chain(3)
    records[1] = chain(3, agent="monitor-pve2")[1]

    assert verify(records) == Problem(
        2, audit_chain.FOREIGN, "line 2 is of monitor-pve2, the chain is of mcp-bridge-pve1"
    )


def test_forged_line_is_found_by_the_next() -> None:
    """A record that was changed together with its hash no longer fits the one after it."""
    records = chain(3)
    records[1] = forged(records[1], principal="eve")

    assert verify(records) == Problem(
        3, audit_chain.ALTERED, "line 3 does not continue line 2: one of them was altered"
    )
    assert verify([forged(records[0], previous="0" * 64)]) == Problem(
        1, audit_chain.ALTERED, "line 1 names a line before it"
    )


def test_expired_start_is_accepted_if_allowed() -> None:
    """A chain whose old records have expired holds if that is allowed, and is found short if not."""
    records = chain()[2:]

    assert verify(records, trimmed=True) is None
    assert verify(records) == Problem(1, audit_chain.MISSING, "line 1 is missing: 3 is in its place")


@pytest.mark.parametrize(
    "name", ["password", "cipassword", "sshkeys", "secret", "token", "api_token", "Authorization", "private_key"]
)
def test_secret_is_not_in_a_record(name: str) -> None:
    """What is named like a secret is hidden at any depth, and its digest does not betray it."""

    def record(secret: str) -> AuditRecord:
        arguments = {name: secret, "config": [{name: secret}], "vmid": 100}
        return AuditChain("a").next(
            START, principal="p", tool="t", tier=Tier.OPERATE, phase="before", arguments=arguments
        )

    assert b"hunter2" not in encode(record("hunter2"))
    assert record("hunter2").arguments == {name: "***", "config": [{name: "***"}], "vmid": 100}
    assert record("hunter2") == record("correct horse")


def test_harmless_names_are_shown() -> None:
    """Names that only look like a secret's are kept: they say what was done."""
    arguments = {"token_file": "/run/x", "key": "wf.create", "monkey": 1, "password": ""}

    assert audit_chain.redact(arguments) == arguments


def test_large_arguments_are_cut_and_still_covered() -> None:
    """A record stays small for any arguments, and its digest differs for different large ones."""

    def record(text: str, times: int) -> AuditRecord:
        arguments = {f"a{number}": text for number in range(times)}
        return AuditChain("a").next(
            START, principal="p", tool="t", tier=Tier.OPERATE, phase="before", arguments=arguments
        )

    one = record("x" * 300, 1)
    assert one.arguments == {"a0": "x" * 256 + "… (44 more)"}
    assert one.digest != record("x" * 299 + "y", 1).digest

    many = record("x" * 300, 100)
    assert many.arguments == {"omitted": "27791 bytes in 100 arguments; the digest covers them"}
    assert len(encode(many)) < 1000
