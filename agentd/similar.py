"""Names similar to a wrong one: the end of every error about an unknown name.

One function for settings, tools, workflows, parameters, tasks, filters and objects of Proxmox, so that all errors offer
the same: up to three similar names, or a short list of what exists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST: Final = 3
"""Largest number of similar names that are offered."""
SHOWN: Final = 20
"""Largest number of known names that are listed if none is similar."""
_CLOSE: Final = 0.1
"""A name is offered only if its similarity is at most this much below that of the best one."""
_SAME: Final = {"vm": "guest", "container": "guest", "ct": "guest", "lxc": "guest", "qemu": "guest"}
"""Words of the same meaning: tools for both kinds of guests have the word `guest` in their names."""


def _words(name: str) -> list[str]:
    """Return the words of a name in the singular, with one word for each meaning."""
    singular = [word.rstrip("s") for word in name.lower().split("_")]
    return [_SAME.get(word, word) for word in singular]


def nearest(wrong: str, known: Iterable[str], *, most: int = MOST, cutoff: float = 0.6) -> list[str]:
    """Return the known names similar to `wrong` in any case, the most similar first.

    Names with the same words come first: `list_guests` for `list_vm`.
    """
    names: dict[str, list[str]] = {}
    for name in known:
        names.setdefault(name.lower(), []).append(name)
    wanted = wrong[:200].lower()
    if same := [name for lower in names if _words(lower) == _words(wanted) for name in names[lower]]:
        return sorted(same, key=lambda name: name.lower() != wanted)[:most]
    from difflib import SequenceMatcher, get_close_matches  # only errors need it

    found = get_close_matches(wanted, list(names), n=most, cutoff=cutoff)
    if not found:
        return []

    def ratio(name: str) -> float:
        return SequenceMatcher(None, name, wanted).ratio()

    best = ratio(found[0])
    return [name for lower in found if best - ratio(lower) <= _CLOSE for name in names[lower]][:most]


def suggestion(wrong: str, known: Iterable[str], *, listed: str = "", shown: int = SHOWN) -> str:
    """Return the end of an error's text: the similar names, else the known ones.

    listed  what to say if no name is similar and more than `shown` are known: a command that lists them
    """
    names = list(dict.fromkeys(known))
    similar = nearest(wrong, names)
    if similar:
        return f"; did you mean {either(similar)}?"
    if len(names) <= shown:
        return f"; there are {', '.join(names) or 'none'}"
    return f"; {listed}" if listed else f"; there are {', '.join(names[:shown])} and {len(names) - shown} more"


def either(names: list[str]) -> str:
    """Return the names as `a, b or c`."""
    return " or ".join([*([", ".join(names[:-1])] if names[1:] else []), names[-1]])
