"""Dry runs: during one, the Proxmox client refuses every request that writes."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from agentd.errors import PermanentError

if TYPE_CHECKING:
    from collections.abc import Iterator


_is_dry_run: ContextVar[bool] = ContextVar("dry_run", default=False)


@contextmanager
def dry_run_context() -> Iterator[None]:
    """Run the block as a dry run: nothing may be written in this context."""
    before = _is_dry_run.set(True)
    try:
        yield
    finally:
        _is_dry_run.reset(before)


def is_dry_run() -> bool:
    """Return whether this is a dry run."""
    return _is_dry_run.get()


def refuse_write(what: str) -> None:
    """Raise PermanentError in a dry run: `what` would write, so the tool has a bug."""
    if _is_dry_run.get():
        raise PermanentError(f"{what} writes, and this is a dry run: nothing was sent")
