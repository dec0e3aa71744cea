"""API tokens.

Proxmox shows the secret of a token once. It is written to a file on the agent's host and nowhere else, because results
of calls are stored in NATS for days. The token that agentd itself uses is not changed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from agentd import Call, Rejected, Repeat, Target, Tier, UnsafeFile, files, formats, tool
from agentd_proxmox import area, blind_token, changes, escalation
from agentd_proxmox.access.users import Epoch, UserId, UserSelector, grants_of
from agentd_proxmox.model import convert, fields

if TYPE_CHECKING:
    from pathlib import Path

    Entry = dict[str, Any]


TokenName = formats.TokenName


class Token(msgspec.Struct, frozen=True, omit_defaults=True):
    """An API token.

    separated: it has its own rights, within those of its user
    secret_file: contains the secret of a new token
    """

    id: str
    separated: bool = True
    expire: int = 0
    comment: str = ""
    secret_file: str = ""


class Tokens(msgspec.Struct, frozen=True):
    """The tokens of a user."""

    tokens: list[Token]


class CreateToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The user, and the name and the expiry of the new token.

    separated: the token has its own rights, at first none
    """

    user: UserId
    name: TokenName
    separated: bool = True
    expire: Epoch = 0
    comment: fields.Comment = ""


class TokenSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The token and its user."""

    user: UserId
    name: TokenName


class ApiTokens(area.Area):
    """The tools for API tokens."""

    shown_to: ClassVar[area.ShownTo] = {"list_tokens": blind_token.USERS}
    needs: ClassVar[area.Needs] = {
        "list_tokens": area.with_path("/access/groups", "Sys.Audit"),
        "create_token": area.with_path("/access/groups", "User.Modify") | area.with_path("/access", "Sys.Audit"),
        "delete_token": area.with_path("/access/groups", "User.Modify"),
    }

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="user_management")
    async def list_tokens(self, call: Call, p: UserSelector) -> Tokens:
        """List the API tokens of a user; secrets are never shown."""
        # Listing tokens requires the right to change users; reading the user does not.
        entries: dict[str, Entry] = (await self.proxmox.get(f"/access/users/{formats.path_part(p.id)}")).get(
            "tokens"
        ) or {}
        return Tokens([_token(p.id, name, entries[name]) for name in sorted(entries)])

    @tool(tier=Tier.EXEC, repeat=Repeat.PROBED, capability="user_management")
    async def create_token(self, call: Call, p: CreateToken) -> Token:
        """Create an API token; its secret is written to a file on the agent's host.

        The result has the path of that file. A token with all rights of its user (separated=false) is created only
        where these are no more than agentd has. If the answer of Proxmox is lost, so is the secret: the token that this
        call has created is revoked and created again.
        """
        folder = self.inventory.settings.secrets_dir
        if folder is None:
            raise Rejected("create_token: the secret needs a place: set [mcp-proxmox] secrets_dir")
        token = f"{p.user}!{p.name}"
        file, path = folder / token, f"/access/users/{formats.path_part(p.user)}/token/{p.name}"

        async def plan() -> changes.Planned:
            old = token in {found.id for found in (await self.list_tokens(call, UserSelector(p.user))).tokens}
            if old and call.begun is not None:
                call.warn(
                    f"the answer to an earlier try of this call was lost, and with it the secret of {token}: "
                    "that token was revoked and recreated"
                )
            elif old:
                raise Rejected(f"there is a token {token} already: delete_token, or choose another name")
            await asyncio.to_thread(_writable, file)
            if not p.separated:
                await self._refuse_excess(p.user)
            kind = "with rights of its own" if p.separated else "with all rights of its user"
            call.inverse("delete_token", {"user": p.user, "name": p.name})
            loses = [f"any reader of {file} can log in {kind}"]
            call.target(Target(f"token/{token}", f"token {token}", {"there": False}, loses=loses))
            return lambda: send(old=old)

        async def send(*, old: bool) -> None:
            if old:  # created by this call; its secret is lost
                await self.proxmox.delete(path)
            sent = {"privsep": p.separated, "expire": p.expire or None, "comment": p.comment or None}
            answer = await self.proxmox.post(path, **sent)
            await asyncio.to_thread(files.write_secret, file, f"{answer['value']}\n".encode())

        await changes.change(call, plan)
        return Token(token, p.separated, p.expire, p.comment, secret_file=str(file))

    async def _refuse_excess(self, user: str) -> None:
        """Raise Denied if a user has more rights than agentd's own token."""
        ours = await escalation.token_rights(self.proxmox)
        ours.refuse_ours("create_token", user)
        owner: Entry = await self.proxmox.get(f"/access/users/{formats.path_part(user)}") or {}
        lines = await ours.granted_beyond([user, *(f"@{group}" for group in owner.get("groups") or [])])
        escalation.refuse_excess("create_token", ours.token, lines, f"a token with all rights of {user}")

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="user_management")
    async def delete_token(self, call: Call, p: TokenSelector) -> changes.Deleted:
        """Delete an API token; its clients lose access at once."""
        if f"{p.user}!{p.name}" == self.proxmox.user:
            raise Rejected(f"{self.proxmox.user} is the token that agentd itself uses: nothing was done")

        async def find() -> Token | None:
            found = (await self.list_tokens(call, UserSelector(p.user))).tokens
            return next((token for token in found if token.id == f"{p.user}!{p.name}"), None)

        async def plan(now: Token) -> changes.Send:
            lost = await grants_of(self.proxmox, "token", now.id)
            state = {"expire": now.expire, "separated": now.separated}
            call.target(Target(f"token/{now.id}", f"token {now.id}", state, [f"user/{p.user}"], lost))
            return lambda: self.proxmox.delete(f"/access/users/{formats.path_part(p.user)}/token/{p.name}")

        return await changes.delete(call, changes.Item("token", f"{p.user}!{p.name}", find), plan)


def _writable(file: Path) -> None:
    """Check that the secret can be written, before it is created.

    Proxmox shows the secret only once.
    """
    try:
        files.check_replaceable(file)
    except UnsafeFile as error:
        raise Rejected(f"create_token: {error}") from error


def _token(user: str, name: str, entry: Entry) -> Token:
    return convert.entry(Token, entry, {"separated": "privsep"}, id=f"{user}!{name}", secret_file="")
