"""The classes whose methods are the tools of the service `mcp-filesystem`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from agentd_filesystem.tools.archives import Archives
from agentd_filesystem.tools.listing import Listing
from agentd_filesystem.tools.moving import Moving
from agentd_filesystem.tools.reading import Reading
from agentd_filesystem.tools.trash import TrashTools
from agentd_filesystem.tools.watching import Watching
from agentd_filesystem.tools.writing import Writing

if TYPE_CHECKING:
    from agentd_filesystem.roots import Roots


class Area(Protocol):
    """A class whose methods are tools, over the directories that are served."""

    def __call__(self, roots: Roots) -> object:
        """Return the area, bound to the directories."""
        ...


AREAS: Final[tuple[Area, ...]] = (Reading, Listing, Writing, Moving, TrashTools, Archives, Watching)
