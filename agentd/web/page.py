"""Renders the HTML pages; templates and static files are read once, at the first request.

There is one renderer.  A page in a browser stays current by fetching itself again after an event and changing in place
what differs (`static/live.js`), so no row is rendered in two languages.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jinja2 import DictLoader, Environment, StrictUndefined, Template

from agentd.printable import printable
from agentd.web import formats, graph, status
from agentd.web.dashboard import timescale
from agentd.web.overview import COUNTED, Overview, agent_status, service_status
from agentd.wire.codec import now
from agentd.wire.workflow import TERMINAL

if TYPE_CHECKING:
    from datetime import datetime

    from agentd.client.views import Identity, TaskView, WorkflowDetail
    from agentd.web.serving.sessions import Session
    from agentd.wire.announcements import MetricReport

_HERE: Final = Path(__file__).parent
_TYPES: Final = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_SPACES: Final = re.compile(rb"\s*([{};,])\s*|(?<=:) ")
"""Spaces that a style sheet does not need."""
STEPS_SHOWN: Final = 24
"""Most tasks that the list shows as one dot each; with more it shows a bar."""
NAVIGATION: Final = (
    ("overview", "Overview"),
    ("guests", "Guests"),
    ("agents", "Agents"),
    ("workflows", "Workflows"),
    ("rebalance", "Rebalance"),
    ("alerts", "Alerts"),
    ("tools", "Tools"),
    ("audit", "Audit"),
)
"""The pages of the dashboard; static/dashboard.js has the key that opens each, in the same order."""


@dataclass(frozen=True)
class Asset:
    """One static file; `etag` is derived from its content."""

    body: bytes
    media_type: str
    etag: str


@dataclass(frozen=True)
class Frame:
    """What every page shows around its content.

    session  of the browser; None without one
    acts     whether any principal may act here
    """

    identity: Identity
    session: Session | None = None
    acts: bool = False


class Pages:
    """All pages and static files."""

    def __init__(self) -> None:
        self.assets = {path.name: _asset(path) for path in sorted((_HERE / "static").iterdir()) if path.is_file()}
        # One style sheet for each page: a second one would cost a connection before anything is painted.
        self.assets["dashboard.css"] = _asset(_HERE / "static" / "base.css", _HERE / "static" / "dashboard.css")
        sources = {path.name: path.read_text("utf-8") for path in sorted((_HERE / "templates").glob("*.html"))}
        self._env = Environment(
            loader=DictLoader(sources),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
            finalize=_shown,
        )
        self._env.globals.update(
            W=status.WORKFLOW,
            T=status.TASK,
            A=status.AGENT,
            P=status.PLUGIN,
            R=status.ROLE,
            L=status.LEVEL,
            S=status.SEVERITY,
            look=status.style_of,
            href={name: f"/static/{name}?v={asset.etag}" for name, asset in self.assets.items()},
            percent=formats.percent,
            span=formats.span,
            exact=formats.exact,
            clock=formats.clock,
            web_address=formats.web_address,
            box=(graph.WIDTH, graph.HEIGHT),
            STEPS_SHOWN=STEPS_SHOWN,
            COUNTED=COUNTED,
            NAVIGATION=NAVIGATION,
        )
        self._compiled: dict[str, Template] = {name: self._env.get_template(name) for name in sources}

    def status(self, frame: Frame, picture: Overview) -> str:
        """Return the page of this daemon."""
        own = [task for task in picture.tasks or [] if task.agent == picture.identity.agent_id]
        return self.render("status.html", frame, picture.at, o=picture, running=own)

    def overview(self, frame: Frame, picture: Overview, limit: int, **more: Any) -> str:  # noqa: ANN401
        """Return the overview of the network with at most `limit` workflows."""
        figures = {report.agent_id: measured(report) for report in picture.metrics or []}
        return self.render(
            "overview.html",
            frame,
            picture.at,
            o=picture,
            shown=(picture.workflows or [])[:limit],
            agent_status=lambda agent: agent_status(agent, picture.at),
            busy=_by_agent(picture.tasks or []),
            service_status=lambda service: service_status(service, picture.at),
            measured=lambda agent_id: figures.get(agent_id, []),
            **more,
        )

    def workflow(self, frame: Frame, detail: WorkflowDetail, q: str = "") -> str:
        """Return the page of one workflow; its history is filtered by `q`."""
        at = now()
        bars, gaps = timescale.bars(detail, at)
        words = q.lower().split()
        history = [entry for entry in detail.timeline if all(word in _words(entry) for word in words)]
        return self.render(
            "workflow.html",
            frame,
            at,
            w=detail,
            picture=graph.draw(detail.tasks),
            bars=bars,
            gaps=gaps,
            over=TERMINAL,
            q=q,
            history=history,
        )

    def problem(self, frame: Frame, code: int, title: str, text: str, *, soon: bool = False) -> str:
        """Return an error page; `soon`: what is missing may exist soon, so the page is fetched again."""
        return self.render("problem.html", frame, now(), code=code, title=title, text=text, soon=soon)

    def render(self, name: str, frame: Frame, at: datetime, **values: Any) -> str:  # noqa: ANN401 - the values of any template
        """Return a page from its template."""
        return self._compiled[name].render(
            at=at,
            ago=lambda time: formats.ago(time, at),
            me=frame.identity,
            session=frame.session,
            acts=frame.acts,
            **values,
        )


def _shown(value: object) -> object:
    """Return a value for a template, without characters that reorder or hide text.

    Our own markup stays.
    """
    return printable(value, lines=True) if type(value) is str else value


def _words(entry: Any) -> str:  # noqa: ANN401 - a TimelineEntry
    return f"{entry.task} {entry.what} {entry.agent}".lower()


def measured(report: MetricReport) -> list[tuple[str, str]]:
    """Return the CPU and memory percentages of an agent's host."""
    keys = {"cpu": "host_cpu_percent", "memory": "host_memory_percent"}
    return [(name, formats.percent(report.metrics[key] / 100)) for name, key in keys.items() if key in report.metrics]


def _asset(*paths: Path) -> Asset:
    path = paths[0]
    lines = (line.strip() for path in paths for line in path.read_bytes().splitlines())
    body = b"\n".join(line for line in lines if line and not line.startswith(b"//"))  # comments are not sent
    if path.suffix == ".css":
        body = _SPACES.sub(rb"\1", body)
    return Asset(body, _TYPES[path.suffix], hashlib.sha256(body).hexdigest()[:12])


def _by_agent(tasks: list[TaskView]) -> dict[str, list[TaskView]]:
    by_agent: dict[str, list[TaskView]] = {}
    for task in tasks:
        if task.agent:
            by_agent.setdefault(task.agent, []).append(task)
    return by_agent
