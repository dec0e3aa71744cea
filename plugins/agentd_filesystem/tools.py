"""The classes whose methods are the tools of the service `mcp-filesystem`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from agentd_filesystem.archives import Archives
from agentd_filesystem.listing import Listing
from agentd_filesystem.moving import Moving
from agentd_filesystem.reading import Reading
from agentd_filesystem.trash import TrashTools
from agentd_filesystem.watching import Watching
from agentd_filesystem.writing import Writing

if TYPE_CHECKING:
    from agentd_filesystem.roots import Roots


class Area(Protocol):
    """A class whose methods are tools, over the directories that are served."""

    def __call__(self, roots: Roots) -> object:
        """Return the area, bound to the directories."""
        ...


AREAS: Final[tuple[Area, ...]] = (Reading, Listing, Writing, Moving, TrashTools, Archives, Watching)
