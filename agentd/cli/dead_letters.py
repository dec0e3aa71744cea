"""`agentd dead`: list and show the messages that could not be handled, and replay or close them."""

from __future__ import annotations

import base64
import sys
from typing import TYPE_CHECKING, Any

import click

from agentd.cli.context import App, passes, run_async
from agentd.errors import AgentdError, NotFound, UsageError
from agentd.printable import printable
from agentd.wire.codec import plain

if TYPE_CHECKING:
    from agentd.bus.dead_letters import Letter

SHOWN = 10_000
"""Characters of a message that are printed at most; --json prints all of it."""


@click.group(invoke_without_command=True)
@click.option("--all", "everything", is_flag=True, help="Those that were replayed or dropped too.")
@click.option("--stream", default="", help="Only those of this stream, such as AI_INPUT.")
@click.pass_context
def dead(context: click.Context, stream: str, *, everything: bool) -> None:
    """List dead letters: messages that could not be handled.

    Each line shows when, on which stream and subject, why, and by which agent the message was given up.
    """
    if context.invoked_subcommand is not None:
        return
    app: App = context.find_object(App) or App(None, as_json=False)

    async def work() -> list[Letter]:
        from agentd.bus.dead_letters import letters

        async with app.bus() as (bus, _):
            return await letters(bus)

    found = run_async(work())
    app.show([letter for letter in found if (everything or letter.open) and stream in {"", letter.stream}], "dead")


@dead.command()
@click.argument("number", type=int)
@passes
def show(app: App, number: int) -> None:
    """Show one dead letter with its message."""

    async def work() -> dict[str, Any]:
        from agentd.bus import dead_letters as letters

        async with app.bus() as (bus, _):
            letter = await letters.find(bus, number)
            view = {"letter": plain(letter), "headers": {}, "body": "", "note": ""}
            try:
                found = await letters.body(bus, letter)
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

    app.show(run_async(work()), "letter")


@dead.command()
@click.argument("numbers", type=int, nargs=-1, metavar="[NUMBER]...")
@click.option("--all", "everything", is_flag=True, help="Every open letter that can be, but for replays that failed.")
@passes
def replay(app: App, numbers: tuple[int, ...], *, everything: bool) -> None:
    """Publish the messages of dead letters again, once.

    Each message is published on its original subject, with the credentials of [bus.admin]. A message that fails again
    becomes a new dead letter that names the first one.
    """
    if bool(numbers) == everything:
        message = "name the letters to replay, or --all; `agentd dead` lists them"
        raise UsageError(message)

    async def work() -> tuple[list[dict[str, Any]], bool]:
        from agentd.bus import dead_letters as letters

        async with app.bus(admin=True) as (bus, config):
            known = {letter.number: letter for letter in await letters.letters(bus)}
            chosen = numbers or [letter.number for letter in known.values() if letter.open and _may(letter)]
            done: list[dict[str, Any]] = []
            failed = False
            for number in dict.fromkeys(chosen):
                try:
                    if number not in known:
                        await letters.find(bus, number)  # raises NotFound for an unknown letter
                    sequence = await letters.replay(bus, known[number], config.principal)
                except AgentdError as error:
                    failed = True
                    done.append({"letter": number, "error": str(error)})
                else:
                    done.append({"letter": number, "subject": known[number].subject, "sequence": sequence})
            return done, failed

    done, failed = run_async(work())
    lines = [
        f"letter {outcome['letter']}: published again as {outcome['sequence']} on {outcome['subject']}"
        if "sequence" in outcome
        else outcome["error"]
        for outcome in done
    ]
    app.show(done if app.as_json else lines or ["nothing to replay"], "lines")
    if failed:
        sys.exit(1)


def _may(letter: Letter) -> bool:
    return not letter.fixed and not letter.replay_of


@dead.command()
@click.argument("numbers", type=int, nargs=-1, required=True, metavar="NUMBER...")
@click.option("--yes", is_flag=True, help="Do not ask.")
@passes
def drop(app: App, numbers: tuple[int, ...], *, yes: bool) -> None:
    """Close dead letters without replaying them.

    Dropped letters no longer count as open. Uses the credentials of [bus.admin].
    """

    async def look() -> list[Letter]:
        from agentd.bus import dead_letters as letters

        async with app.bus(admin=True) as (bus, _):
            return [await letters.find(bus, number) for number in numbers]

    async def work(found: list[Letter]) -> None:
        from agentd.bus import dead_letters as letters

        async with app.bus(admin=True) as (bus, config):
            for letter in found:
                await letters.drop(bus, letter, config.principal)

    found = run_async(look())
    if not yes:
        for letter in found:
            click.echo(
                printable(f"letter {letter.number}: {letter.subject or letter.stream}: {letter.reason}"), err=True
            )
        click.confirm("drop it without replaying?" if len(found) == 1 else "drop them without replaying?", abort=True)
    run_async(work(found))
    lines = [f"letter {letter.number} dropped" for letter in found]
    app.show([{"letter": letter.number, "dropped": True} for letter in found] if app.as_json else lines, "lines")
