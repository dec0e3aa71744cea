"""Control over HTTP: a token is a principal, and without one nothing is changed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

from agentd.errors import Denied
from agentd.safety import tokens
from agentd.wire.messages import WorkflowSignal
from core.web_client import HTML, serving
from core.web_networks import busy_network

if TYPE_CHECKING:
    from core.web_client import Answer, Client

NAME = "web2-7f31"
PATH = f"/api/workflows/{NAME}"


def bearer(token: str) -> str:
    """Return the header of a token."""
    return f"Bearer {token}"


class TestTokens:
    """Tokens, as values."""

    def test_a_token_is_its_principal(self) -> None:
        """What was made for alice is alice, in any case of the scheme; no header is no principal."""
        (first, kept), (second, other) = tokens.new_token(), tokens.new_token()
        known = {"alice": kept, "bob": other}

        assert tokens.principal_of(bearer(first), known) == "alice"
        assert tokens.principal_of(f"bearer  {second} ", known) == "bob"
        assert tokens.principal_of(None, known) is None
        assert first not in kept
        assert first != second

    @pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic YTpi", "agentd_x", bearer("agentd_x")])
    def test_any_other_is_refused(self, header: str) -> None:
        """A client with another header is not treated as anonymous."""
        with pytest.raises(Denied, match=r"agentd token NAME|unknown"):
            tokens.principal_of(header, {"alice": tokens.new_token()[1]})


async def test_a_token_acts_for_its_principal() -> None:
    """Each action is asked for under the name of the token's principal, with what the body says."""
    view, (token, kept) = busy_network(), tokens.new_token()
    async with serving(view, tokens={"bob": kept}) as ask:
        yes = await ask.post(f"{PATH}/approve", b'{"task": "a", "reason": "fine", "digest": "ab12"}', token)
        unseen = await ask.post(f"{PATH}/approve", b'{"task": "a"}', token)
        end = await ask.post(f"{PATH}/cancel", b'{"undo": true}', token)
        plain = [await ask.post(f"{PATH}/{item}", b"", token) for item in ("pause", "resume")]
        described = (await ask("/api/openapi.json")).json()["paths"]["/api/workflows/{id}/{action}"]["post"]

    assert (yes.code, yes.json()) == (200, {"workflow_id": NAME, "done": True})
    assert [end.code, *(item.code for item in plain)] == [200, 200, 200]
    assert unseen.code == 400
    assert f"digest: name the one that was shown: /api/workflows/{NAME}" in unseen.text
    assert view.signals == [
        ("bob", NAME, WorkflowSignal("approve", "fine", "a", "ab12")),
        ("bob", NAME, WorkflowSignal("cancel", undo=True)),
        ("bob", NAME, WorkflowSignal("pause")),
        ("bob", NAME, WorkflowSignal("resume")),
    ]
    assert described["security"] == [{"token": []}]


async def test_without_a_token_nothing_is_changed() -> None:
    """No token, an unknown token and a daemon that knows none are refused, each with its reason; GET is refused."""
    view, (token, kept) = busy_network(), tokens.new_token()
    async with serving(view, tokens={"bob": kept}) as ask:
        none = await ask(f"{PATH}/approve", "POST")
        wrong = await ask.post(f"{PATH}/approve", b"", "agentd_guess")
        got = await ask(f"{PATH}/approve", Authorization=bearer(token))
    async with serving(view) as ask:
        closed = await ask.post(f"{PATH}/approve", b"", token)

    assert [item.code for item in (none, wrong, got, closed)] == [401, 401, 405, 403]
    assert none.headers["www-authenticate"] == 'Bearer realm="agentd"'
    assert "authenticate with" in none.json()["detail"]
    assert "unknown" in wrong.json()["detail"]
    assert "agentd_guess" not in wrong.text
    assert "[web.tokens] is empty" in closed.json()["detail"]
    assert view.signals == []


async def test_bad_requests_name_the_fault() -> None:
    """Unknown actions, workflows and fields, bodies that are no JSON or too large."""
    view, (token, kept) = busy_network(), tokens.new_token()
    cases = {
        (f"{PATH}/destroy", b""): (404, "there are approve, reject, cancel, pause, resume, retry"),
        ("/api/workflows/nope/approve", b""): (404, "there is no workflow 'nope'"),
        (f"{PATH}/approve", b'{"tsak": "a"}'): (400, "tsak"),
        (f"{PATH}/approve", b'{"task": 1}'): (400, "task"),
        (f"{PATH}/approve", b"{"): (400, "ActionDetails"),
        (f"{PATH}/approve", b" " * 20_000): (413, "16384 bytes"),
    }
    async with serving(view, tokens={"bob": kept}) as ask:
        for (path, body), (code, words) in cases.items():
            got = await ask.post(path, body, token)
            assert (got.code, words in got.json()["detail"]) == (code, True), got.text

    assert view.signals == []


async def test_a_refusal_of_the_orchestrator_is_a_conflict() -> None:
    """One's own plan cannot be approved over HTTP either; the answer says why."""
    view, (token, kept) = busy_network(), tokens.new_token()
    requester = view.details[NAME].requester
    async with serving(view, tokens={requester: kept}) as ask:
        got = await ask.post(f"{PATH}/approve", b'{"digest": "ab12"}', token)

    assert got.code == 409
    assert got.json()["detail"] == "another principal has to approve it"


FORM = {"Content_Type": "application/x-www-form-urlencoded"}


class TestSessions:
    """The session of a browser: what it needs to act, and what another site cannot do with it."""

    async def log_in(self, ask: Client, token: str, **headers: str) -> Answer:
        """Send the form of the login."""
        return await ask.send("/login", f"token={token}&next=/workflows/{NAME}".encode(), **FORM, **headers)

    async def test_a_form_acts_as_the_principal_of_its_session(self) -> None:
        """A token becomes a cookie that no script reads; the page's form then acts, and shows the result."""
        view, (token, kept) = busy_network(), tokens.new_token()
        async with serving(view, tokens={"bob": kept}) as ask:
            entered = await self.log_in(ask, token)
            cookie = entered.headers["set-cookie"]
            page = await ask(f"/workflows/{NAME}", **HTML, Cookie=cookie.partition(";")[0])
            found = re.search(r'name="csrf" value="([^"]+)"', page.text)
            assert found is not None
            body = f"csrf={found[1]}&reason=enough&undo=1".encode()
            done = await ask.send(f"/workflows/{NAME}/cancel", body, **FORM, Cookie=cookie.partition(";")[0])
            left = await ask.send("/logout", body, **FORM, Cookie=cookie.partition(";")[0])
            after = await ask.send(f"/workflows/{NAME}/cancel", body, **FORM, Cookie=cookie.partition(";")[0])

        assert (entered.code, entered.headers["location"]) == (303, f"/workflows/{NAME}")
        assert {"HttpOnly", "SameSite=strict"} <= set(cookie.split("; "))
        assert (done.code, done.headers["location"]) == (303, f"/workflows/{NAME}")
        assert view.signals == [("bob", NAME, WorkflowSignal("cancel", "enough", undo=True))]
        assert (left.code, after.code) == (303, 401)

    @pytest.mark.parametrize(
        ("headers", "csrf"),
        [
            ({"Origin": "http://evil.example"}, True),
            ({"Origin": "null"}, True),
            ({"Sec_Fetch_Site": "cross-site"}, True),
            ({"Sec_Fetch_Site": "same-site"}, True),
            ({}, False),
        ],
    )
    async def test_another_site_cannot_use_it(self, headers: dict[str, str], csrf: bool) -> None:  # noqa: FBT001
        """A request from another page, or without the secret of the session's own pages, changes nothing."""
        view, (token, kept) = busy_network(), tokens.new_token()
        async with serving(view, tokens={"bob": kept}) as ask:
            cookie = (await self.log_in(ask, token)).headers["set-cookie"].partition(";")[0]
            page = await ask(f"/workflows/{NAME}", **HTML, Cookie=cookie)
            found = re.search(r'name="csrf" value="([^"]+)"', page.text)
            assert found is not None
            body = f"csrf={found[1] if csrf else 'guess'}".encode()
            form = await ask.send(f"/workflows/{NAME}/cancel", body, **FORM, **headers, Cookie=cookie)
            secret = {"X_CSRF_Token": found[1]} if csrf else {}
            api = await ask.send(f"{PATH}/cancel", b"{}", **headers, **secret, Cookie=cookie)
            entered = await self.log_in(ask, token, **headers) if headers else form

        assert (form.code, api.code, entered.code) == (403, 403, 403)
        assert view.signals == []

    async def test_the_login_leads_to_this_server_only(self) -> None:
        """An unknown token is refused with the reason; `next` never leads to another site."""
        view, (token, kept) = busy_network(), tokens.new_token()
        async with serving(view, tokens={"bob": kept}) as ask:
            wrong = await ask.send("/login", b"token=agentd_guess", **FORM)
            bodies = [f"token={token}&next={target}".encode() for target in ("//evil.example", "http://evil.example")]
            led = [(await ask.send("/login", body, **FORM)).headers["location"] for body in bodies]

        assert (wrong.code, "unknown" in wrong.json()["detail"]) == (401, True)
        assert led == ["/overview"] * 2

    async def test_a_remote_address_needs_a_principal_to_read(self) -> None:
        """Beyond loopback only health, readiness, metrics and the login are open; a browser is led to the login."""
        view, (token, kept) = busy_network(), tokens.new_token()
        async with serving(view, tokens={"bob": kept}, host="0.0.0.0") as ask:  # noqa: S104 - that is the point
            paths = ("/", "/guests", "/api/agents", "/events", "/api/openapi.json")
            codes = {path: (await ask(path)).code for path in paths}
            open_ = [(await ask(path)).code for path in ("/healthz", "/metrics", "/login", "/static/base.css")]
            page = await ask.page("/guests?q=web")
            wrong = await ask("/api/agents", Authorization=bearer("agentd_guess"))
            known = await ask("/api/agents", Authorization=bearer(token))

        assert set(codes.values()) == {401}
        assert open_ == [200] * 4
        assert (page.code, page.headers["location"]) == (303, "/login?next=%2Fguests%3Fq%3Dweb")
        assert (wrong.code, known.code) == (401, 200)


async def test_a_workflow_is_submitted_from_a_form_and_over_the_api() -> None:
    """The form of a workflow's schema and the API request the same; what is rejected is a conflict with its reason."""
    view, (token, kept) = busy_network(), tokens.new_token()
    async with serving(view, tokens={"bob": kept}) as ask:
        cookie = (await TestSessions().log_in(ask, token)).headers["set-cookie"].partition(";")[0]
        page = await ask("/submit/vm_deployment", **HTML, Cookie=cookie)
        found = re.search(r'name="csrf" value="([^"]+)"', page.text)
        assert found is not None
        fields = {"p.name": "web9", "p.memory": "4096", "p.tags": "a\nb", "p.start": "", "p.options": '{"x": 1}'}
        body = urlencode({"csrf": found[1], **fields}).encode()
        form = await ask.send("/submit/vm_deployment", body, **FORM, Cookie=cookie)
        wrong = urlencode({"csrf": found[1], "p.name": "web9", "p.memory": "many"}).encode()
        unreadable = await ask.send("/submit/vm_deployment", wrong, **FORM, Cookie=cookie)
        wanted = b'{"workflow_type": "vm_deployment", "parameters": {"name": "web9"}, "workflow_id": "w9"}'
        api = await ask.post("/api/workflows", wanted, token)
        rejected = await ask.post("/api/workflows", b'{"workflow_type": "vm_deployment"}', token)
        again = await ask.post("/api/workflows/cache-41be/retry", b"", token)

    assert form.code == 303
    assert form.headers["location"].startswith("/workflows/vm_deployment-")
    assert unreadable.code == 400
    assert "memory: 'many' is not a number" in unreadable.json()["detail"]
    assert (api.code, api.json()) == (202, {"workflow_id": "w9", "url": "/workflows/w9"})
    assert (rejected.code, rejected.json()["detail"]) == (409, "parameters: missing")
    assert again.code == 200
    first, second, _, retried = [request for _, request in view.requested]
    expected = {"name": "web9", "memory": 4096, "tags": ["a", "b"], "start": False, "options": {"x": 1}}
    assert (first.workflow_type, first.parameters) == ("vm_deployment", expected)
    assert (second.workflow_id, second.parameters) == ("w9", {"name": "web9"})
    assert retried.retry_of == "cache-41be"
    assert {principal for principal, _ in view.requested} == {"bob"}


async def test_an_agent_is_drained_by_who_may() -> None:
    """The agent decides; its refusal is a conflict with the reason."""
    view, (token, kept), (other, kept_other) = busy_network(), tokens.new_token(), tokens.new_token()
    async with serving(view, tokens={"bob": kept, "rita": kept_other}) as ask:
        done = await ask.post("/api/agents/monitor-pve2/drain", b"", token)
        refused = await ask.post("/api/agents/monitor-pve2/drain", b"", other)
        unknown = await ask.post("/api/agents/monitor-pve2/explode", b"", token)

    assert (done.code, done.json()["done"]) == (200, True)
    assert (refused.code, refused.json()["detail"]) == (409, "rita may read")
    assert (unknown.code, "drain, restart, reload" in unknown.json()["detail"]) == (404, True)
    assert view.controlled == [("bob", "monitor-pve2", "drain"), ("rita", "monitor-pve2", "drain")]


async def test_an_alert_is_acknowledged_and_silenced_by_a_tool() -> None:
    """The forms of an alert request calls of the monitor's tools, which the policy and the audit see as any other."""
    view, (token, kept) = busy_network(), tokens.new_token()
    async with serving(view, tokens={"bob": kept}) as ask:
        cookie = (await TestSessions().log_in(ask, token)).headers["set-cookie"].partition(";")[0]
        page = await ask("/alerts", **HTML, Cookie=cookie)
        found = re.search(r'name="csrf" value="([^"]+)"', page.text)
        assert found is not None
        fields = {
            "csrf": found[1],
            "id": "ab12cd",
            "hours": "3",
            "matchers": "alertname=high_cpu\r\nnode=pve3",
            "reason": "x",
        }
        done = [
            await ask.send(f"/alerts/{action}", urlencode(fields).encode(), **FORM, Cookie=cookie)
            for action in ("acknowledge", "silence")
        ]

    assert [answer.code for answer in done] == [303, 303]
    assert done[0].headers["location"].startswith("/workflows/acknowledge_alert-")
    assert [(principal, request.workflow_type, request.parameters) for principal, request in view.requested] == [
        ("bob", "tool_call", {"tool": "acknowledge_alert", "parameters": {"id": "ab12cd", "hours": 3.0}}),
        (
            "bob",
            "tool_call",
            {
                "tool": "silence_alerts",
                "parameters": {"matchers": ["alertname=high_cpu", "node=pve3"], "hours": 3.0, "comment": "x"},
            },
        ),
    ]
