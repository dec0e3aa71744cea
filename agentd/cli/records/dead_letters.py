"""`agentd dead-letters`: list, show, replay and close unhandled messages."""

from __future__ import annotations

import base64
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from agentd.cli.context import App, Group, passes, run_async
from agentd.cli.output import tables
from agentd.errors import AgentdError, NotFound, UsageError
from agentd.printable import printable
from agentd.wire.codec import plain

if TYPE_CHECKING:
    from agentd.bus.delivery.dead_letters import Letter

SHOWN: Final = 10_000
"""Characters of a message that are printed at most; --json prints all of it."""


@click.group(cls=Group, name="dead-letters", invoke_without_command=True)
@click.pass_context
def dead_letters(context: click.Context) -> None:
    """List, show, replay or close dead letters.

    A dead letter is a message that an agent or NATS gave up handling. Without a subcommand, the open ones are listed.
    """
    if context.invoked_subcommand is None:
        context.invoke(list_letters)


@dead_letters.command(name="list")
@click.option("--all", "everything", is_flag=True, help="Also list letters that were replayed or closed.")
@click.option("--stream", default="", help="Only list letters from this stream, such as AI_INPUT.")
@passes
def list_letters(app: App, stream: str, *, everything: bool) -> None:
    """List open dead letters.

    For each letter: when, on which stream and subject, by which agent and why the message was given up.
    """

    async def work() -> list[Letter]:
        from agentd.bus.delivery.dead_letters import letters

        async with app.bus() as (bus, _):
            return await letters(bus)

    found = run_async(work())
    app.show(
        [letter for letter in found if (everything or letter.open) and stream in {"", letter.stream}],
        tables.dead_letters,
    )


@dead_letters.command()
@click.argument("number", type=int)
@passes
def show(app: App, number: int) -> None:
    """Show a dead letter and its message."""

    async def work() -> dict[str, Any]:
        from agentd.bus.delivery import dead_letters as letters

        async with app.bus() as (bus, _):
            letter = await letters.find(bus, number)
            view = {"letter": plain(letter), "headers": {}, "body": "", "note": ""}
            try:
                found = await letters.read_body(bus, letter)
            except NotFound as error:
                return view | {"note": str(error)}
            if found.text is None:
                encoded = base64.b64encode(found.data).decode()
                return view | {
                    "headers": found.headers,
                    "body": encoded,
                    "note": f"(no text, base64) {encoded[:SHOWN]}",
                }
            note = "" if app.as_json or len(found.text) <= SHOWN else f"{found.text[:SHOWN]}… (--json has all of it)"
            return view | {"headers": found.headers, "body": found.text, "note": note}

    app.show(run_async(work()), tables.letter)


@dead_letters.command()
@click.argument("numbers", type=int, nargs=-1, metavar="[NUMBER]...")
@click.option("--all", "everything", is_flag=True, help="Replay all open letters, except replays that failed again.")
@passes
def replay(app: App, numbers: tuple[int, ...], *, everything: bool) -> None:
    """Publish dead letters again, once.

    Each message is published on its original subject, with the credentials of [bus.admin]. A message that fails again
    becomes a new dead letter that names the first one.
    """
    if bool(numbers) == everything:
        raise UsageError("name the letters to replay, or --all; `agentd dead-letters` lists them")
    done = run_async(_replay(app, numbers))
    lines = [
        f"letter {outcome['letter']}: published again as {outcome['sequence']} on {outcome['subject']}"
        if "sequence" in outcome
        else outcome["error"]
        for outcome in done
    ]
    app.show(lines or ["nothing to replay"], tables.lines, done)
    if any("error" in outcome for outcome in done):
        sys.exit(1)


async def _replay(app: App, numbers: tuple[int, ...]) -> list[dict[str, Any]]:
    """Replay the letters, or all open ones; return the outcome of each."""
    from agentd.bus.delivery import dead_letters as letters

    done: list[dict[str, Any]] = []
    async with app.bus(admin=True) as (bus, config):
        known = {letter.number: letter for letter in await letters.letters(bus)}
        chosen = numbers or [letter.number for letter in known.values() if letter.open and _check_replayable(letter)]
        for number in dict.fromkeys(chosen):
            try:
                if number not in known:
                    await letters.find(bus, number)  # raises NotFound for an unknown letter
                sequence = await letters.replay(bus, known[number], config.principal)
            except AgentdError as error:
                done.append({"letter": number, "error": str(error)})
            else:
                done.append({"letter": number, "subject": known[number].subject, "sequence": sequence})
    return done


def _check_replayable(letter: Letter) -> bool:
    return not letter.fixed and not letter.replay_of


@dead_letters.command()
@click.argument("numbers", type=int, nargs=-1, required=True, metavar="NUMBER...")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@passes
def close(app: App, numbers: tuple[int, ...], *, yes: bool) -> None:
    """Close dead letters without replaying them.

    Closed letters no longer count as open. Uses the credentials of [bus.admin].
    """

    async def find_open() -> list[Letter]:
        from agentd.bus.delivery import dead_letters as letters

        async with app.bus(admin=True) as (bus, _):
            return [await letters.find(bus, number) for number in numbers]

    async def work(found: list[Letter]) -> None:
        from agentd.bus.delivery import dead_letters as letters

        async with app.bus(admin=True) as (bus, config):
            for letter in found:
                await letters.close(bus, letter, config.principal)

    found = run_async(find_open())
    if not yes:
        for letter in found:
            click.echo(
                printable(f"letter {letter.number}: {letter.subject or letter.stream}: {letter.reason}"), err=True
            )
        click.confirm("close it without replaying?" if len(found) == 1 else "close them without replaying?", abort=True)
    run_async(work(found))
    lines = [f"letter {letter.number} closed" for letter in found]
    app.show(lines, tables.lines, [{"letter": letter.number, "closed": True} for letter in found])
