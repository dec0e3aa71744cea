"""Ask the node itself by `pvesh`, where its API cannot be reached: reads alone.

Proxmox's own shell needs no pveproxy and no pvedaemon, so a node whose API is down can still be looked at.  It is no
second way in: it runs as root@pam, so what a token may not see is seen; it costs 0.7 s of CPU a call; and a task runs
in its foreground, bears the name of no token (by which a lost answer is settled) and ends with exit code 0 even when it
has failed.  So nothing is ever written by it, and it is used only where the configuration names it.
"""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

from agentd.errors import AgentdError, ProxmoxUnavailable
from agentd.proxmox.responses import classify, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_HANDLER = "No 'get' handler"


def read(program: str, path: str, params: dict[str, Any], timeout: float) -> dict[str, Any] | AgentdError:
    """Return what `pvesh get` answers, in the envelope of the API, or the error (blocks; nothing is raised).

    params   as they would be sent: 1 and 0 for booleans, a list for a repeated one
    timeout  seconds, after which the program is killed
    """
    command = [program, "get", path, "--output-format", "json", *_arguments(params)]
    try:
        ended = subprocess.run(  # noqa: S603 - a program that the configuration names, and no shell
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return ProxmoxUnavailable(f"GET {path}: {program} has not answered within {timeout:.0f} s", delay=10.0)
    except OSError as error:
        return ProxmoxUnavailable(f"GET {path}: proxmox.pvesh: cannot run {program}: {error.strerror}", delay=30.0)
    if ended.returncode:
        return _refused(path, ended.stderr.decode(errors="replace"))
    try:
        return {"data": json.loads(ended.stdout)}  # what it says on stderr beside an answer are warnings
    except ValueError as error:
        return ProxmoxUnavailable(f"GET {path}: {program} has not answered in JSON: {error}", delay=10.0)


def _arguments(params: dict[str, Any]) -> Iterator[str]:
    for name, value in params.items():
        for each in value if isinstance(value, list | tuple) else (value,):
            yield f"--{name}={each}"


def _refused(path: str, said: str) -> AgentdError:
    """Return what an error means: a status stands at its beginning or not at all."""
    text = one_line(said) or "pvesh failed and did not say why"
    if text.startswith(_NO_HANDLER):
        return classify("GET", 501, text, path=path)
    if "please run as root" in text:
        return ProxmoxUnavailable(f"GET {path}: proxmox.pvesh: {text}", delay=30.0)
    return classify("GET", 500, text, path=path)
