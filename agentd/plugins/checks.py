"""Checks that plugins add to those of the monitor, and their findings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Level(StrEnum):
    """How bad a finding is; `unknown` means that it could not be read, and is never shown as healthy."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"


class Finding(msgspec.Struct, frozen=True):
    """What a check found about one object.

    labels   what it is about: node, guest, storage, …; they identify its alert
    text     a sentence with the present state, or why it is unknown
    advice   what to do; "" for a finding that is ok
    between  the value is between the threshold that raises an alert and the one that clears it
    pending_for  seconds for which this object must be bad before its alert fires; None: as for all objects of the check
    """

    check: str
    labels: dict[str, str]
    level: Level
    text: str
    advice: str = ""
    value: float | None = None
    between: bool = False
    pending_for: float | None = None


@dataclass(frozen=True)
class Check:
    """A check that a plugin adds.

    name             type of its alerts: unique, in the form `certificate_of_proxy`
    about            one line that says what is as it should be
    run              returns a finding for each object; a plain function runs in its own thread
    every            seconds between two runs
    timeout          seconds after which its result is unknown
    pending_for      seconds for which a finding must be bad before its alert fires
    keep_firing_for  seconds for which it must be good before the alert is resolved
    """

    name: str
    about: str
    run: Callable[[], Awaitable[list[Finding]] | list[Finding]]
    every: float = 60.0
    timeout: float = 30.0
    pending_for: float = 0.0
    keep_firing_for: float = 0.0
