"""Where the API of the node is down, reads go through its own shell, and nothing else does.

The program in pvesh's place answers as the real one was measured to (proxmox.md, pvesh): bare data with sorted keys,
errors on standard error, their status at most at the beginning of the text, warnings beside a good answer.  What it
answers is what the simulator says.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from agentd import errors
from agentd.proxmox.client import Proxmox
from proxmox_access import AsyncPve, access, connect
from tool_bench import Bench

if TYPE_CHECKING:
    from pathlib import Path

    from pve.client import FakePve

PROGRAM = """#!{python}
import json, ssl, sys, time, urllib.error, urllib.parse, urllib.request
verb, path, *options = sys.argv[1:]
open({log!r}, "a").write(" ".join(sys.argv[1:]) + "\\n")
assert options[:2] == ["--output-format", "json"], options
assert verb == "get"
if path == "/version" and {slow}:
    time.sleep(60)
if {reply!r}:
    print({reply!r}, file=sys.stderr)
    sys.exit(255)
query = urllib.parse.urlencode([tuple(option[2:].split("=", 1)) for option in options[2:]])
request = urllib.request.Request({url!r} + "/api2/json" + path + "?" + query, headers={headers!r})
try:
    answer = urllib.request.urlopen(request, context=ssl.create_default_context(cafile={ca!r}))
except urllib.error.HTTPError as error:
    if error.code == 501:
        print(f"No 'get' handler defined for '{{path}}'", file=sys.stderr)
        sys.exit(1)
    print(("400 " if error.code == 400 else "") + error.reason, file=sys.stderr)
    sys.exit(2)
print("warning: something is deprecated", file=sys.stderr)
print(json.dumps(json.load(answer)["data"], sort_keys=True))
"""


def shell(pve: FakePve, folder: Path, *, reply: str = "", slow: bool = False) -> tuple[str, Path]:
    """Return the program that replaces pvesh, and the file of what it was asked."""
    program, log = folder / "pvesh", folder / "asked"
    headers = {"Authorization": f"PVEAPIToken={pve.tokens['full']}"}
    text = PROGRAM.format(
        python=sys.executable, log=str(log), reply=reply, slow=slow, url=pve.url, headers=headers, ca=str(pve.ca)
    )
    program.write_text(text)
    program.chmod(0o755)
    return str(program), log


def down(pve: FakePve, program: str | None, **changes: Any) -> Proxmox:
    """Return the client of a node whose API is down."""
    return Proxmox(access(pve, url="https://127.0.0.1:1", pvesh=program, **changes))


async def test_reads_go_on_while_the_api_is_down(pve: FakePve, tmp_path: Path) -> None:
    """Reading tools answer as before, with their filters, and report that pvesh was used."""
    program, log = shell(pve, tmp_path)
    proxmox, straight = down(pve, program), connect(pve)
    here, there = Bench(proxmox), Bench(straight)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("list_nodes", {}),
        ("list_guests", {"limit": 5}),
        ("get_guest", {"vmid": 100}),
    ]
    for tool, parameters in calls:
        answers = [msgspec.json.encode(await bench(tool, **parameters)) for bench in (here, there)]
        same = {re.sub(rb'"uptime":\d+', b"", answer) for answer in answers}  # a second may have passed
        assert len(same) == 1, tool

    assert proxmox.local
    assert not straight.local
    assert "get /cluster/resources --output-format json --type=vm" in log.read_text().splitlines()
    await proxmox.close()
    await straight.close()


async def test_pvesh_writes_nothing(pve: FakePve, tmp_path: Path) -> None:
    """A write is unavailable, as without pvesh, and pvesh is not even run for it."""
    program, log = shell(pve, tmp_path)
    proxmox = down(pve, program)
    for send in (proxmox.post, proxmox.put, proxmox.delete):
        with pytest.raises(errors.ProxmoxUnavailable, match="not reachable"):
            await send("/nodes/pve1/qemu/100/config", description="x")

    assert not log.exists()
    assert not proxmox.local
    await proxmox.close()


async def test_while_the_api_answers_it_is_not_asked(pve: FakePve, tmp_path: Path) -> None:
    """An answer of the API is never overruled, a refusal neither: it runs as root and would see more."""
    program, log = shell(pve, tmp_path)
    proxmox = Proxmox(access(pve, "blind", pvesh=program))
    await AsyncPve(pve).rule("GET", "/version$", {"status": 595, "reason": "No route to host"}, 1)
    with pytest.raises(errors.ProxmoxUnavailable, match="595"):
        await proxmox.get("/version")
    with pytest.raises(errors.Denied):
        await proxmox.get("/nodes/pve1/qemu/100/config")

    assert not log.exists()
    await proxmox.close()


@pytest.mark.parametrize(
    ("path", "reply", "kind", "words"),
    [
        ("/nodes/pve1/qemu/999/config", "", errors.NotFound, "does not exist"),
        ("/nope", "", errors.PermanentError, "does not offer this"),
        ("/nodes/pve1/tasks", "400 Parameter verification failed.\nlimit: type check", errors.Rejected, "limit: type"),
        ("/version", "please run as root\n", errors.ProxmoxUnavailable, "proxmox.pvesh: please run as root"),
        ("/version", "ipcc_send_rec[1] failed: Connection refused", errors.PermanentError, "ipcc_send_rec"),
    ],
)
async def test_its_errors_are_the_api_s(
    pve: FakePve, tmp_path: Path, path: str, reply: str, kind: type[errors.AgentdError], words: str
) -> None:
    """What pvesh says on standard error becomes the same error as the API's answer."""
    program, _ = shell(pve, tmp_path, reply=reply)
    proxmox = down(pve, program)
    with pytest.raises(kind, match=words) as caught:
        await proxmox.get(path)

    assert type(caught.value) is kind
    await proxmox.close()


async def test_one_that_hangs_or_is_not_there(pve: FakePve, tmp_path: Path) -> None:
    """A program that does not answer is ended, a missing one is named by the setting."""
    program, _ = shell(pve, tmp_path, slow=True)
    slow, missing = down(pve, program, timeout=1.0), down(pve, "/nowhere/pvesh")
    with pytest.raises(errors.ProxmoxUnavailable, match="has not answered within 1 s"):
        await slow.get("/version")
    with pytest.raises(errors.ProxmoxUnavailable, match="cannot run /nowhere/pvesh: No such file"):
        await missing.get("/version")
    await slow.close()
    await missing.close()
