"""Steering over HTTP: a token is a principal, and without one nothing is changed."""

from __future__ import annotations

import pytest

from agentd.errors import Denied
from agentd.safety import tokens
from agentd.wire.messages import WorkflowSignal
from core.web_client import serving
from core.web_view import busy_network

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
    """No token, a stranger's and a daemon that knows none are refused, each with its reason; GET is refused."""
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
        (f"{PATH}/destroy", b""): (404, "there are approve, reject, cancel, pause, resume"),
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
