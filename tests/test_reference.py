"""The reference of the tools is that of these tools."""

from __future__ import annotations

import pytest

import reference


def test_the_reference_is_up_to_date() -> None:
    """What the docs say of each tool, and how it is proven, is what the tools and the tests say."""
    if not reference.FILE.exists():
        pytest.fail(f"{reference.FILE} is missing: make docs")

    assert reference.FILE.read_text(encoding="utf-8") == reference.text(), "out of date: make docs"


def test_the_table_of_decisions_is_up_to_date() -> None:
    """What the docs say that the policy decides is what its tests hold it to."""
    assert reference.POLICY.read_text(encoding="utf-8") == reference.decisions(), "out of date: make docs"


def test_every_tool_of_the_service_is_proven_in_some_way() -> None:
    """No tool is known by its schema alone, but for those that the reference names."""
    tests = reference.tested()
    proofs = {name: reference.proof(each, tests.get(name, set())) for name, each in reference.known().items()}

    assert {name for name, each in proofs.items() if each == reference.SCHEMA} == reference.UNSEEN
