"""Dry runs: during one, the Proxmox client refuses every request that writes."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from agentd.errors import PermanentError

if TYPE_CHECKING:
    from collections.abc import Iterator


_looking: ContextVar[bool] = ContextVar("looking", default=False)


@contextmanager
def looking() -> Iterator[None]:
    """Run the block as a dry run: nothing may be written in this context."""
    before = _looking.set(True)
    try:
        yield
    finally:
        _looking.reset(before)


def is_looking() -> bool:
    """Return whether this is a dry run."""
    return _looking.get()


def no_writing(what: str) -> None:
    """Raise PermanentError in a dry run: `what` would write, so the tool has a bug."""
    if _looking.get():
        raise PermanentError(f"{what} writes, and this is a dry run: nothing was sent")
