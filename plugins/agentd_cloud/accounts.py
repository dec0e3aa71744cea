"""The configured accounts, and how a blocking driver is used: in a thread, with a time limit.

Each operation has a thread and a driver of its own.  A thread cannot be stopped: if its time is over, the operation has
failed for its caller, and the thread keeps its slot until the provider answers or the socket's own limit ends it.  So a
provider that hangs costs at most SLOTS threads, and never delays the event loop or the end of the process.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from agentd import NotFound, Rejected, Target, TemporaryError, UnknownOutcome, read_secret
from agentd.similar import suggestion
from agentd_cloud import failures, model, providers

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentd_cloud.settings import AccountSettings, CloudSettings

T = TypeVar("T")

SLOTS: Final = 4
"""Operations of one account at the same time."""


class Account:
    """One account; `changing` is held while a change compares the quota and acts."""

    def __init__(self, name: str, settings: AccountSettings) -> None:
        """Use these settings."""
        self.name = name
        self.settings = settings
        self.provider = providers.provider_of(settings.provider)
        self.changing = asyncio.Lock()
        self._slots = asyncio.Semaphore(SLOTS)

    async def nodes(self) -> list[model.Node]:
        """Return the nodes, also those that were deleted a short time ago."""
        return [model.node(item, self.settings.tag) for item in await self.read(self.provider.nodes)]

    async def volumes(self) -> list[model.Volume]:
        """Return the volumes."""
        return [model.volume(item, self.settings.tag) for item in await self.read(self.provider.volumes)]

    async def snapshots(self) -> list[model.Snapshot]:
        """Return the snapshots of volumes."""
        return [model.snapshot(item, self.settings.tag) for item in await self.read(self.provider.snapshots)]

    async def key_pairs(self) -> list[model.KeyPair]:
        """Return the key pairs."""
        return [model.key_pair(item) for item in await self.read(self.provider.key_pairs)]

    def target(self, kind: str, found: model.Node | model.Volume | model.Snapshot) -> Target:
        """Return an existing object as a target; [policy] protected names it cloud/ACCOUNT/ID or cloud/ACCOUNT/NAME."""
        return Target(
            f"cloud/{self.name}/{found.id}",
            f"{kind} {found.name} ({found.id}) of account {self.name}, {found.state}",
            state={"name": found.name, "state": found.state, "mark": found.mark},
            labels=[f"cloud/{self.name}/{found.name}"],
        )

    def new(self, name: str, title: str, **state: object) -> Target:
        """Return an object that is going to be created as a target."""
        return Target(f"cloud/{self.name}/{name}", f"{title} of account {self.name}", state=state)

    async def read(self, work: Callable[[Any], T]) -> T:
        """Return what `work` reads with a driver; it runs in a thread."""
        return await self._run(work, write=False)

    async def write(self, work: Callable[[providers.Ec2, Any], object]) -> None:
        """Send a change with a driver; raises UnknownOutcome if it may have been made."""
        provider = self.writable()
        await self._run(lambda driver: work(provider, driver), write=True)

    def writable(self) -> providers.Ec2:
        """Return the provider; raises Rejected if agentd changes nothing there."""
        if isinstance(self.provider, providers.Ec2):
            return self.provider
        raise Rejected(
            f"account {self.name}: at {self.settings.provider} agentd only reads: it cannot tag what it creates in the "
            f"same request (possible with: {providers.changing()})"
        )

    async def _run(self, work: Callable[[Any], T], *, write: bool) -> T:
        limit = self.settings.timeout
        try:
            async with asyncio.timeout(limit):
                await self._slots.acquire()
        except TimeoutError:
            raise TemporaryError(
                f"account {self.name}: {SLOTS} operations wait for the provider already; nothing was sent"
            ) from None
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def end(value: T | None, error: Exception | None) -> None:
            self._slots.release()
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(value)  # type: ignore[arg-type]

        def run() -> None:
            value, error = self._work(work, write=write)
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(end, value, error)

        threading.Thread(target=run, name=f"cloud-{self.name}", daemon=True).start()
        try:
            async with asyncio.timeout(limit):
                return await answer
        except TimeoutError:
            text = f"account {self.name}: the provider did not answer within {limit:g} s"
            raise (UnknownOutcome(text) if write else TemporaryError(text, delay=2.0)) from None

    def _work(self, work: Callable[[Any], T], *, write: bool) -> tuple[T | None, Exception | None]:
        """Run an operation in this thread; an error is returned without its traceback, which holds the secret."""
        secrets: tuple[str, ...] = (self.settings.key,)
        sent = False
        try:
            secret = self._secret()
            secrets = (secret, self.settings.key)
            driver = self.provider.connect(self.settings, secret)
            sent = write
            return work(driver), None
        except Exception as error:  # noqa: BLE001 - libcloud raises classes of many libraries
            return None, failures.failure(error, self.name, secrets, write=sent)

    def _secret(self) -> str:
        path = self.settings.secret_file
        return read_secret(path, f"cloud.accounts.{self.name}.secret_file") if path else ""


class Accounts:
    """The configured accounts by their alias."""

    def __init__(self, settings: CloudSettings) -> None:
        """Offer the accounts of these settings."""
        self.by_name = {name: Account(name, account) for name, account in settings.accounts.items()}

    def find(self, name: str) -> Account:
        """Return the account of an alias; raises NotFound."""
        if not self.by_name:
            raise NotFound("account: none is configured; add [cloud.accounts.NAME]")
        if name not in self.by_name:
            raise NotFound(f"account: there is no {name!r}{suggestion(name, self.by_name)}")
        return self.by_name[name]
