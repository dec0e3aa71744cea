"""Fail what is skipped on CI, unless it is listed by name and reason.

A test that is skipped for want of a tool looks like one that passed.  On CI (`CI=true`) each skip must stand in
`allowed_skips.txt`: the test's id, a tab, and the reason in the words of the skip.  The report itself is changed, not
only the exit code, so that pytest's closing line is true.

Switched on in `conftest.py`: `pytest_plugins = ["project.ci_skips"]`.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

LIST = Path(__file__).with_name("allowed_skips.txt")


def parse(text: str) -> frozenset[tuple[str, str]]:
    """Read lines of id, tab and reason; an empty line or one with # says nothing."""
    lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return frozenset((name.strip(), reason.strip()) for name, _, reason in (line.partition("\t") for line in lines))


@cache
def allowed() -> frozenset[tuple[str, str]]:
    """Read the list once."""
    return parse(LIST.read_text(encoding="utf-8"))


def judge(report: Report) -> Report:
    """Turn a skip without leave into a failure; an expected failure is no skip."""
    if os.environ.get("CI") != "true" or not report.skipped or hasattr(report, "wasxfail"):
        return report
    reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if (report.nodeid, reason) not in allowed():
        report.outcome = "failed"
        report.longrepr = f"skipped on CI and not in {LIST.name}:\n{report.nodeid}\t{reason}"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Judge a test, after pytest has worded its reason."""
    return judge((yield))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Judge a file that skips itself as a whole."""
    return judge((yield))
