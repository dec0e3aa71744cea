"""The classes whose methods are the tools of the service `mcp-cloud`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from agentd_cloud.catalogue import Catalogue
from agentd_cloud.key_pairs import KeyPairs
from agentd_cloud.nodes import Nodes
from agentd_cloud.volumes import Volumes

if TYPE_CHECKING:
    from agentd_cloud.accounts import Accounts


class Area(Protocol):
    """A class whose methods are tools, over the accounts."""

    def __call__(self, accounts: Accounts) -> object:
        """Return the area, bound to the accounts."""
        ...


AREAS: Final[tuple[Area, ...]] = (Catalogue, Nodes, Volumes, KeyPairs)
