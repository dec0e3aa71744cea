"""Reads from this node by `pvesh` while its API is unreachable; never writes.

Proxmox's own shell needs no pveproxy and no pvedaemon, so a node whose API is down can still be inspected.  It is not
an alternative to the API: it runs as root@pam, so it shows what a token may not see; it costs 0.7 s of CPU per call;
and a task runs in its foreground, has no token name (which is needed to settle a lost response) and ends with exit code
0 even when it has failed.  So it never writes, and it is used only if the configuration names it.
"""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any, Final

from agentd.errors import AgentdError, ProxmoxUnavailable
from agentd.proxmox.responses import classify, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_HANDLER: Final = "No 'get' handler"


def read(program: str, path: str, params: dict[str, Any], timeout: float) -> dict[str, Any] | AgentdError:
    """Return the result of `pvesh get` in the envelope of the API, or the error.

    It blocks and does not raise.

    params   as for the API: 1 and 0 for booleans, a list for a repeated parameter
    timeout  seconds, after which the program is killed
    """
    command = [program, "get", path, "--output-format", "json", *_arguments(params)]
    try:
        ended = subprocess.run(  # noqa: S603 - a program from the configuration, without a shell
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return ProxmoxUnavailable(f"GET {path}: {program} has not answered within {timeout:.0f} s", delay=10.0)
    except OSError as error:
        return ProxmoxUnavailable(f"GET {path}: proxmox.pvesh: cannot run {program}: {error.strerror}", delay=30.0)
    if ended.returncode:
        return _refused(path, ended.stderr.decode(errors="replace"))
    try:
        return {"data": json.loads(ended.stdout)}  # with a result, stderr holds only warnings
    except ValueError as error:
        return ProxmoxUnavailable(f"GET {path}: {program} has not answered in JSON: {error}", delay=10.0)


def _arguments(params: dict[str, Any]) -> Iterator[str]:
    for name, value in params.items():
        for item in value if isinstance(value, list | tuple) else (value,):
            yield f"--{name}={item}"


def _refused(path: str, message: str) -> AgentdError:
    """Return the error for a message; an HTTP status, if any, is at its beginning."""
    text = one_line(message) or "pvesh failed without a reason"
    if text.startswith(_NO_HANDLER):
        return classify("GET", 501, text, path=path)
    if "please run as root" in text:
        return ProxmoxUnavailable(f"GET {path}: proxmox.pvesh: {text}", delay=30.0)
    return classify("GET", 500, text, path=path)
