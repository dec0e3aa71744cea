"""Glob patterns for relative paths: `*`, `?`, `[…]`, `{a,b}` and `**`.

Matching takes time proportional to the product of their lengths, whatever the pattern is; a translation to a regular
expression could take exponential time.
"""

from __future__ import annotations

import re
from fnmatch import translate
from functools import lru_cache
from typing import Final

from agentd import Rejected

LONGEST: Final = 256
_ALTERNATIVES: Final = 64
_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_TOKEN: Final = re.compile(r"\[(?:!|\^)?\]?[^\]]*\]|.", re.DOTALL)


class Pattern:
    """One compiled glob pattern; `**` matches any number of directories."""

    def __init__(self, text: str) -> None:
        """Compile a pattern; raises Rejected if it is too long or too complex."""
        if not text or len(text) > LONGEST:
            raise Rejected(f"pattern: it has {len(text)} characters; write 1 to {LONGEST}")
        self._alternatives = [tuple(alternative.split("/")) for alternative in _expanded(text)]

    def matches(self, path: str) -> bool:
        """Return whether the whole relative path matches."""
        parts = path.split("/")
        return any(_matches(alternative, parts) for alternative in self._alternatives)

    def excludes(self, path: str) -> bool:
        """Return whether the path matches, or a part of it if the pattern has no slash."""
        return self.matches(path) or any(
            len(alternative) == 1 and _component(alternative[0], part)
            for alternative in self._alternatives
            for part in path.split("/")
        )


def _expanded(text: str) -> list[str]:
    """Return the alternatives of the braces in a pattern."""
    done: list[str] = []
    found = [text]
    while found:
        if len(found) + len(done) > _ALTERNATIVES:
            raise Rejected(f"pattern: its braces give more than {_ALTERNATIVES} alternatives")
        pattern = found.pop()
        braces = _BRACES.search(pattern)
        if braces is None:
            done.append(pattern)
        else:
            found += [pattern[: braces.start()] + choice + pattern[braces.end() :] for choice in braces[1].split(",")]
    return done


def _matches(pattern: tuple[str, ...], parts: list[str]) -> bool:
    """Match part by part; `reached`: the numbers of pattern parts matched so far."""
    reached = _after_stars(pattern, {0})
    for part in parts:
        following = {at for at in reached if at < len(pattern) and pattern[at] == "**"}
        following |= {
            at + 1 for at in reached if at < len(pattern) and pattern[at] != "**" and _component(pattern[at], part)
        }
        reached = _after_stars(pattern, following)
    return len(pattern) in reached


def _after_stars(pattern: tuple[str, ...], reached: set[int]) -> set[int]:
    """Return `reached` with the places behind each `**`, which may match nothing."""
    found = set(reached)
    for at in sorted(reached):
        while at < len(pattern) and pattern[at] == "**":
            at += 1  # noqa: PLW2901
            found.add(at)
    return found


def _component(pattern: str, name: str) -> bool:
    """Match one part of a path; on a mismatch the last `*` takes one character more."""
    tokens = _tokens(pattern)
    at = position = 0
    star, mark = -1, 0
    while position < len(name):
        if at < len(tokens) and tokens[at] == "*":
            star, mark, at = at, position, at + 1
        elif at < len(tokens) and _one(tokens[at], name[position]):
            at, position = at + 1, position + 1
        elif star >= 0:
            mark += 1
            at, position = star + 1, mark
        else:
            return False
    return set(tokens[at:]) <= {"*"}


@lru_cache(maxsize=512)
def _tokens(pattern: str) -> tuple[str, ...]:
    return tuple(_TOKEN.findall(pattern))


@lru_cache(maxsize=4096)
def _one(part: str, character: str) -> bool:
    """Return whether a character, `?` or `[…]` of a pattern matches a character."""
    if len(part) == 1:
        return part in {"?", character}
    return re.match(translate(part.replace("[^", "[!", 1)), character) is not None
