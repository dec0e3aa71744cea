"""Loads the pages at the first request, and frames each with the state of the daemon and the session of the browser."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from agentd.web.responses import html_response

if TYPE_CHECKING:
    from datetime import datetime

    from starlette.requests import Request
    from starlette.responses import Response

    from agentd.client.views import View
    from agentd.web.page import Frame, Pages
    from agentd.web.serving.sessions import Sessions


class Renderer:
    """Renders pages for requests."""

    def __init__(self, view: View, sessions: Sessions) -> None:
        """Frame pages with what `view` knows of this daemon."""
        self._view = view
        self._sessions = sessions
        self._pages: Pages | None = None
        self._loading = asyncio.Lock()

    async def pages(self) -> Pages:
        """Return the pages, loaded at the first request.

        A daemon whose page is never opened saves 6 MB and 0.2 s.
        """
        async with self._loading:
            if self._pages is None:
                self._pages = await asyncio.to_thread(_load_pages)
            return self._pages

    def frame(self, request: Request) -> Frame:
        """Return what a page shows around its content; `pages` has to be loaded before."""
        from agentd.web.page import Frame

        return Frame(self._view.identity(), self._sessions.session(request), self._sessions.has_tokens)

    async def page(
        self,
        request: Request,
        template: str,
        at: datetime,
        code: int = 200,
        **values: Any,  # noqa: ANN401 - of any template
    ) -> Response:
        """Respond with a page."""
        pages = await self.pages()
        return html_response(request, pages.render(template, self.frame(request), at, **values), code)


def _load_pages() -> Pages:
    from agentd.web.page import Pages

    return Pages()
