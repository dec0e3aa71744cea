"""Renders the HTML pages; templates and static files are read once, at the first request.

There is one renderer.  A page in a browser stays current by fetching itself again after an event and changing in place
what differs (`static/app.js`), so no row is rendered in two languages.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jinja2 import DictLoader, Environment, StrictUndefined, Template

from agentd.printable import printable
from agentd.web import formats, graph, status
from agentd.web.overview import COUNTED, Overview, agent_status, service_status
from agentd.wire.codec import now
from agentd.wire.workflow import TERMINAL

if TYPE_CHECKING:
    from agentd.client.views import Identity, TaskView, WorkflowDetail
    from agentd.wire.announcements import MetricReport

_HERE = Path(__file__).parent
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
STEPS_SHOWN: Final = 24
"""Most tasks that the list shows as one dot each; with more it shows a bar."""


@dataclass(frozen=True)
class Asset:
    """One static file; `etag` is derived from its content."""

    body: bytes
    media_type: str
    etag: str


class Pages:
    """All pages and static files."""

    def __init__(self) -> None:
        self.assets = {path.name: _asset(path) for path in sorted((_HERE / "static").iterdir()) if path.is_file()}
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
            look=status.style_of,
            href={name: f"/static/{name}?v={asset.etag}" for name, asset in self.assets.items()},
            percent=formats.percent,
            span=formats.span,
            exact=formats.exact,
            clock=formats.clock,
            web_address=web_address,
            box=(graph.WIDTH, graph.HEIGHT),
            STEPS_SHOWN=STEPS_SHOWN,
            COUNTED=COUNTED,
        )
        self._compiled: dict[str, Template] = {name: self._env.get_template(name) for name in sources}

    def status(self, picture: Overview, limit: int) -> str:
        """Return the status page with at most `limit` workflows."""
        figures = {report.agent_id: measured(report) for report in picture.metrics or []}
        return self._render(
            "status.html",
            picture.at,
            o=picture,
            me=picture.identity,
            shown=(picture.workflows or [])[:limit],
            agent_status=lambda agent: agent_status(agent, picture.at),
            busy=_by_agent(picture.tasks or []),
            service_status=lambda service: service_status(service, picture.at),
            measured=lambda agent_id: figures.get(agent_id, []),
        )

    def workflow(self, identity: Identity, detail: WorkflowDetail) -> str:
        """Return the page of one workflow."""
        at = now()
        bars = _bars(detail, at)
        return self._render(
            "workflow.html", at, me=identity, w=detail, picture=graph.draw(detail.tasks), bars=bars, over=TERMINAL
        )

    def problem(self, identity: Identity, code: int, title: str, text: str) -> str:
        """Return an error page."""
        return self._render("problem.html", now(), me=identity, code=code, title=title, text=text)

    def _render(self, name: str, at: datetime, **values: Any) -> str:  # noqa: ANN401 - the values of any template
        return self._compiled[name].render(at=at, ago=lambda time: formats.ago(time, at), **values)


def _shown(value: object) -> object:
    """Return a value for a template, without characters that reorder or hide text.

    Our own markup stays.
    """
    return printable(value, lines=True) if type(value) is str else value


def measured(report: MetricReport) -> list[tuple[str, str]]:
    """Return the CPU and memory percentages of an agent's host."""
    keys = {"cpu": "host_cpu_percent", "memory": "host_memory_percent"}
    return [(name, formats.percent(report.metrics[key] / 100)) for name, key in keys.items() if key in report.metrics]


def web_address(url: str) -> str:
    """Return `url` if it is http(s), else "": an agent could send another scheme."""
    return url if url.startswith(("http://", "https://")) else ""


def _asset(path: Path) -> Asset:
    lines = (line.strip() for line in path.read_bytes().splitlines())
    body = b"\n".join(line for line in lines if line and not line.startswith(b"//"))  # comments are not sent
    return Asset(body, _TYPES[path.suffix], hashlib.sha256(body).hexdigest()[:12])


def _by_agent(tasks: list[TaskView]) -> dict[str, list[TaskView]]:
    by_agent: dict[str, list[TaskView]] = {}
    for task in tasks:
        if task.agent:
            by_agent.setdefault(task.agent, []).append(task)
    return by_agent


def _bars(workflow: WorkflowDetail, at: datetime) -> dict[str, tuple[float, float]]:
    """Return start and length of each started task, in percent of the whole time."""
    end = workflow.updated if workflow.status in TERMINAL else at
    duration = max(end - workflow.created, timedelta(milliseconds=1))
    bars = {}
    for task in workflow.tasks:
        if task.started is not None:
            start = 100 * min(1.0, max(0.0, (task.started - workflow.created) / duration))
            length = 100 * max(0.0, ((task.finished or end) - task.started) / duration)
            bars[task.name] = (round(start, 1), round(max(0.8, min(length, 100 - start)), 1))
    return bars
