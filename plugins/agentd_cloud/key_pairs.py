"""Tools for key pairs.

A key pair has no tag that every provider shows: agentd imports and deletes only those whose name begins with its tag
and a dash, unless the account allows more.  Private keys never pass through agentd: it creates none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from agentd import Call, Denied, Found, Rejected, Repeat, Target, TaskFailed, Tier, tool
from agentd_cloud import model
from agentd_cloud.model import InAccount, KeyPair, Name, Paged

if TYPE_CHECKING:
    from agentd_cloud.accounts import Account, Accounts


class KeyPairList(msgspec.Struct, frozen=True):
    """A page of key pairs."""

    total: int
    key_pairs: list[KeyPair]
    next: str


class KeyPairSelector(InAccount, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A key pair; its name begins with the tag of the account and a dash, for example agentd-alice."""

    name: Name


class ImportCloudKeyPair(KeyPairSelector, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The name of the new key pair, and the public key as in authorized_keys."""

    public_key: Annotated[str, Meta(pattern=r"^(ssh-|ecdsa-)[^\n\r]{20,8000}\Z")]


class DeletedKeyPair(msgspec.Struct, frozen=True):
    """What was deleted; existed: false if there was no such key pair."""

    name: str
    existed: bool


class KeyPairs:
    """The tools for key pairs."""

    def __init__(self, accounts: Accounts) -> None:
        """Work in these accounts."""
        self.accounts = accounts

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cloud_management")
    async def list_cloud_key_pairs(self, call: Call, p: Paged) -> KeyPairList:
        """List the key pairs of a cloud account that a new node can be given."""
        return KeyPairList(*model.page(await self.accounts.find(p.account).key_pairs(), p, "name"))

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="cloud_management")
    async def import_cloud_key_pair(self, call: Call, p: ImportCloudKeyPair) -> KeyPair:
        """Import a public key into a cloud account, for the login to new nodes."""
        account = self.accounts.find(p.account)
        _check_name(call, account, p.name)

        async def check() -> Found | None:
            if await _find(account, p.name) is None:
                call.inverse("delete_cloud_key_pair", {"account": account.name, "name": p.name})
                return None
            if call.begun is not None:
                return Found()
            raise Rejected(f"name: a key pair {p.name} exists in account {account.name}")

        async def apply() -> None:
            await account.write(lambda cloud, driver: cloud.import_key_pair(driver, p.name, p.public_key))

        await call.ensure(check, apply)
        made = await _find(account, p.name)
        if made is None:
            raise TaskFailed(f"the provider reports success, but there is no key pair {p.name}")
        return made

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="cloud_management")
    async def delete_cloud_key_pair(self, call: Call, p: KeyPairSelector) -> DeletedKeyPair:
        """Delete a key pair of a cloud account; nodes that have it keep the key."""
        account = self.accounts.find(p.account)
        existed = await _find(account, p.name) is not None
        _check_name(call, account, p.name)

        async def check() -> Found | None:
            return Found() if await _find(account, p.name) is None else None

        async def apply() -> None:
            await account.write(lambda cloud, driver: cloud.delete_key_pair(driver, p.name))

        await call.ensure(check, apply)
        return DeletedKeyPair(p.name, existed or call.begun is not None)


async def _find(account: Account, name: str) -> KeyPair | None:
    return next((found for found in await account.key_pairs() if found.name == name), None)


def _check_name(call: Call, account: Account, name: str) -> None:
    """Declare a key pair as the target; raises Denied if agentd may not change it."""
    account.writable()
    prefix = f"{account.settings.tag}-"
    if account.settings.only_tagged and not name.startswith(prefix):
        raise Denied(
            f"name: agentd imports and deletes only key pairs whose name begins with {prefix} "
            f"([cloud.accounts.{account.name}] only_tagged)"
        )
    call.target(Target(f"cloud/{account.name}/{name}", f"key pair {name} of account {account.name}"))
