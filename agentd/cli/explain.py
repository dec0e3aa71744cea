"""`agentd explain`: the meaning of error and exit codes, causes, what to do."""

from __future__ import annotations

import inspect
from typing import Final

import click
import msgspec

from agentd.cli import completion
from agentd.cli.context import App, passes
from agentd.cli.output import tool_tables
from agentd.errors import ALL, AgentdError, UsageError
from agentd.similar import suggestion

EXITS: Final = {
    0: ("done", "The command, or the workflow that it waited for, has succeeded.", "Nothing."),
    1: ("failed", "The workflow or the check has failed.", "Read the error; `agentd show ID` has the details."),
    2: ("wrong usage", "An argument or a name is wrong.", "Read the error, or the help: `agentd COMMAND --help`."),
    3: ("cancelled", "The workflow was cancelled.", "Nothing; `agentd retry ID` continues it."),
    65: ("rejected", "The request or a file is not valid.", "Correct what the error names; nothing was done."),
    69: ("NATS is not reachable", "There is no answer from NATS, or it refused.", "Run `agentd doctor`."),
    75: ("not finished yet", "It goes on, waits for an approval, or needs a restart.", "Wait, approve, or repeat it."),
    77: ("not allowed", "A permission is missing.", "Read which one in the error; see [policy]."),
    78: ("wrong configuration", "A setting or a plugin is wrong.", "Correct the named setting."),
    130: ("interrupted", "Ctrl-C ended the command.", "Nothing; a submitted workflow goes on."),
}
"""Exit codes: name, meaning, what to do."""


class Explanation(msgspec.Struct, frozen=True, omit_defaults=True):
    """The explanation of a code; `retried`: tasks with this error are retried."""

    code: str
    meaning: str
    causes: str
    advice: str
    exit_code: int
    kind_of: str = ""
    retried: bool = False


@click.command()
@click.argument("code", required=False, shell_complete=completion.codes)
@passes
def explain(app: App, code: str | None) -> None:
    """Explain an error code or an exit code.

    Without CODE, list the codes. Error codes are in results with --json, in the timeline of a workflow, and in
    messages.
    """
    found = explanations()
    if code is None:
        app.show(list(found.values()), tool_tables.explanations)
        return
    if code not in found:
        raise UsageError(f"there is no code {code!r}{suggestion(code, found, listed='`agentd explain` lists them')}")
    app.show(found[code], tool_tables.explanation)


def explanations() -> dict[str, Explanation]:
    """Return the explanation of every error code and exit code by its code."""
    from agentd.errors import TemporaryError

    found = {
        kind.code: Explanation(
            kind.code,
            inspect.getdoc(kind) or "",
            kind.causes,
            kind.advice,
            kind.exit_code,
            _base(kind),
            issubclass(kind, TemporaryError),
        )
        for kind in ALL
    }
    found[AgentdError.code] = msgspec.structs.replace(found[AgentdError.code], meaning="An error with no other code.")
    for number, (name, meaning, advice) in EXITS.items():
        kinds = ", ".join(kind.code for kind in ALL if kind.exit_code == number)
        causes = f"Errors with this exit code: {kinds}." if kinds else ""
        found[str(number)] = Explanation(str(number), f"Exit code {number}, {name}. {meaning}", causes, advice, number)
    return found


def _base(kind: type[AgentdError]) -> str:
    base = kind.__mro__[1]
    return base.code if issubclass(base, AgentdError) and base is not AgentdError else ""
