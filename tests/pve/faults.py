# SPDX-License-Identifier: AGPL-3.0-or-later
"""Rules that make the simulated API misbehave, and the log of every request.

A rule names requests by method and path and says what goes wrong with them. The log is the ground truth a test
compares with what a client believes: what arrived, what was answered, and whether it was really done.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

# A benchmark sends many requests; the oldest entries go beyond this.
LOG_LIMIT = 100_000

EFFECTS = {"status", "reason", "errors", "body", "empty", "cut_after", "lost_before", "delay", "task_exit", "hold"} | {
    "text",
    "endless",
}


@dataclass
class Entry:
    """One request as it arrived and as it was answered."""

    n: int
    method: str
    path: str
    token: str | None = None
    t: float = field(default_factory=time.time)
    params: dict[str, Any] = field(default_factory=dict)
    status: int | None = None
    reason: str | None = None
    upid: str | None = None
    performed: bool = False
    task_exit: str | None = None

    def view(self) -> dict[str, Any]:
        """Return the entry as the control port shows it."""
        shown = ("n", "t", "method", "path", "params", "token", "status", "reason", "performed")
        data = {name: getattr(self, name) for name in shown}
        if self.upid:
            data["upid"] = self.upid
        return data


# The request being answered; a task that it starts notes its UPID there and takes its exit status from there.
CURRENT: ContextVar[Entry | None] = ContextVar("current", default=None)


class RequestLog:
    """Keep the last requests in the order of their arrival."""

    def __init__(self) -> None:
        """Start with an empty log."""
        self.entries: deque[Entry] = deque(maxlen=LOG_LIMIT)
        self.count = 0

    def open(self, method: str, path: str, token: str | None) -> Entry:
        """Note a request that has just arrived."""
        self.count += 1
        entry = Entry(self.count, method, path, token)
        self.entries.append(entry)
        return entry

    def clear(self) -> None:
        """Forget every request; numbering goes on."""
        self.entries.clear()

    def select(self, method: str | None = None, path: str | None = None, since: int = 0) -> list[dict[str, Any]]:
        """List entries after number `since` by method and by a regular expression on the path."""
        wanted = re.compile(path) if path else None
        return [
            entry.view()
            for entry in self.entries
            if entry.n > since and method in (None, entry.method) and (wanted is None or wanted.search(entry.path))
        ]


@dataclass
class Rule:
    """Something that goes wrong with the requests it matches."""

    number: int
    method: str | None
    path: re.Pattern[str]
    effect: dict[str, Any]
    count: int | None = None
    after: int = 0
    hits: int = 0
    applied: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def parse(cls, number: int, data: dict[str, Any]) -> Rule:
        """Read a rule as POST /rules takes it; raise ValueError for what is not one."""
        extra = set(data) - {"method", "path", "effect", "count", "after"}
        effect = data.get("effect")
        if extra or not isinstance(effect, dict) or not effect or set(effect) - EFFECTS:
            message = f"not a rule: {data!r}; effects are {sorted(EFFECTS)}"
            raise ValueError(message)
        method = data.get("method")
        pattern = re.compile(str(data.get("path", "")))
        return cls(
            number,
            None if method in (None, "*") else str(method).upper(),
            pattern,
            effect,
            data.get("count"),
            int(data.get("after") or 0),
        )

    def takes(self, method: str, path: str) -> bool:
        """Count the request if it matches, and say whether the effect applies to it."""
        if self.method not in (None, method) or not self.path.search(path):
            return False
        self.hits += 1
        if self.hits <= self.after or (self.count is not None and self.applied >= self.count):
            return False
        self.applied += 1
        return True

    def view(self) -> dict[str, Any]:
        """Return the rule with its counts as GET /rules shows it."""
        return {
            "id": self.number,
            "method": self.method or "*",
            "path": self.path.pattern,
            "effect": self.effect,
            "count": self.count,
            "after": self.after,
            "hits": self.hits,
            "applied": self.applied,
        }


class Rules:
    """The rules in the order in which they were made; the first that takes a request has it."""

    def __init__(self) -> None:
        """Start without rules."""
        self.rules: list[Rule] = []
        self.made = 0

    def add(self, data: dict[str, Any]) -> Rule:
        """Add a rule, or raise ValueError."""
        rule = Rule.parse(self.made + 1, data)
        self.made += 1
        self.rules.append(rule)
        return rule

    def match(self, method: str, path: str) -> Rule | None:
        """Return the rule whose effect this request gets."""
        return next((rule for rule in self.rules if rule.takes(method, path)), None)

    def clear(self, number: int | None = None) -> int:
        """Drop one rule or all, let go the requests they held, and say how many were dropped."""
        dropped = [rule for rule in self.rules if number in (None, rule.number)]
        self.rules = [rule for rule in self.rules if rule not in dropped]
        for rule in dropped:
            rule.released.set()
        return len(dropped)
