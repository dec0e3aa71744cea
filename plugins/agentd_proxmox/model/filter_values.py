"""Refuse a filter value that does not exist; pure.

Without this check, an empty list would look like a valid answer.  A value that users choose freely, such as a tag, is
not an error: a tool warns about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentd import NotFound, known_names, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable


def check_exists(field: str, value: object, there: Iterable[object], what: str = "") -> None:
    """Raise NotFound if a filter is given and its value does not exist.

    The error names existing values.
    """
    names = {str(name) for name in there}
    if value in (None, "") or str(value) in names:
        return
    raise NotFound(f"{field}: there is no {what or field} {one_line(value)!r}; {known_names(str(value), names)}")
