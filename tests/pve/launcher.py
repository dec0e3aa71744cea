# SPDX-License-Identifier: AGPL-3.0-or-later
"""Start a simulated Proxmox VE cluster for tests and the demo, with a control port for faults.

    PYTHON launcher.py --port 0 --control-port 0 --dir DIR [--cluster demo|small|FILE.json] [--durations JSON]

It prints one line of JSON when it is ready: url, control, ca, tokens, pid. It ends on SIGTERM and SIGINT, and with
the process that started it. Everything that can be switched over the control port is in README.md beside this
file.

It subclasses fakepve (AGPL-3.0-or-later, needs aiohttp), so it runs in an environment of its own, as a process of its
own, and nothing of agentd imports it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import json
import os
import signal
import ssl
import sys
from pathlib import Path

# The directory of this file would make its modules top-level ones; they are the package `pve` of the test tree.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from aiohttp import web  # noqa: E402

from pve import certificates, cluster, versions  # noqa: E402
from pve.control import Control  # noqa: E402
from pve.simulator import Simulator, use_real_booleans  # noqa: E402

USER = "agentd@pve"
# No secrets: they open a simulator on loopback.
SECRETS = {
    "full": "11111111-1111-4111-8111-111111111111",
    "audit": "22222222-2222-4222-8222-222222222222",
    "blind": "33333333-3333-4333-8333-333333333333",
}
PR_SET_PDEATHSIG = 1


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Simulate a Proxmox VE cluster.")
    parser.add_argument("--host", default="127.0.0.1", help="address of the API (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=0, help="of the API; 0 draws a free one")
    parser.add_argument("--control-port", type=int, default=0, help="of the control port; 0 draws a free one")
    parser.add_argument("--dir", type=Path, required=True, help="where ca.pem and the certificate are written")
    parser.add_argument("--cluster", default="small", help="demo, small or a JSON file (default small)")
    parser.add_argument("--durations", type=json.loads, default={}, help='seconds by task type: {"qmcreate": 2}')
    parser.add_argument("--pve-version", default="9.2", choices=sorted(versions.RELEASES), help="default 9.2")
    for name, secret in SECRETS.items():
        parser.add_argument(f"--{name}-secret", default=secret, help=f"of the token {USER}!{name}")
    return parser.parse_args()


def die_with_parent() -> int:
    """Ask the kernel for a signal when the process that started this one is gone, and return its id."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGHUP)
    if os.getppid() != parent:
        sys.exit(0)
    return parent


def make_tokens(pve: Simulator, options: argparse.Namespace) -> dict[str, str]:
    """Create a token with all rights, one that may read, and one without any right."""
    pve.reset_access()
    values = {}
    for name in SECRETS:
        tokenid, secret = f"{USER}!{name}", getattr(options, f"{name}_secret")
        pve.add_token(tokenid, secret, privsep=name != "full")
        values[name] = f"{tokenid}={secret}"
    pve.permit(USER, "/", "Administrator")
    pve.permit(f"{USER}!audit", "/", "PVEAuditor")
    return values


def watch_signals(stop: asyncio.Event, parent: int) -> None:
    """Stop on SIGTERM and SIGINT, and on SIGHUP if the parent is gone.

    The kernel sends its signal when the parent's *thread* ends that started this process: a test that starts the
    simulator from a thread of its own keeps it.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def orphaned() -> None:
        if os.getppid() != parent:
            stop.set()

    loop.add_signal_handler(signal.SIGHUP, orphaned)


async def serve(options: argparse.Namespace, parent: int) -> None:
    """Run both ports until a signal."""
    stop = asyncio.Event()
    watch_signals(stop, parent)
    options.dir.mkdir(parents=True, exist_ok=True)
    ca, cert, key = certificates.make(options.dir)
    use_real_booleans()
    pve = Simulator()
    versions.be(pve, options.pve_version)
    pve.host, pve.port, pve.durations = (
        options.host,
        options.port,
        {name: float(value) for name, value in options.durations.items()},
    )
    tokens = make_tokens(pve, options)
    described = cluster.load(options.cluster)
    cluster.build(pve, described)
    pve.served = ssl.PEM_cert_to_DER_cert(cert.read_text())
    await pve.start(str(cert), str(key))
    runner = web.AppRunner(Control(pve, described, dict(pve.durations)).app(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", options.control_port).start()
    control = f"http://127.0.0.1:{runner.addresses[0][1]}"
    ready = {"url": pve.url, "control": control, "ca": str(ca), "tokens": tokens, "pid": os.getpid()}
    print(json.dumps(ready), flush=True)  # noqa: T201 - the one line that this program says
    await stop.wait()
    await runner.cleanup()
    await pve.stop()


def main() -> None:
    """Start, and end without a traceback."""
    parent = die_with_parent()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(arguments(), parent))


if __name__ == "__main__":
    main()
