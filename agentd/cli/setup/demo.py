"""`agentd up`: all roles on one machine. `agentd demo`: with a simulated Proxmox.

Servers start before the event loop and end after it, so that no server is left running after an error.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import uvloop

from agentd import schedules
from agentd.bus.jetstream import Bus
from agentd.bus.setup import provision
from agentd.cli.context import KEYS, default_state
from agentd.cli.output import tables
from agentd.cli.output.console import print_line
from agentd.cli.setup import nats_server
from agentd.client import queries, requests
from agentd.config import load, settings
from agentd.config.policy import Policy
from agentd.daemon.supervisor import Supervisor
from agentd.plugins import bus_users, manager
from agentd.telemetry import logs
from agentd.wire.messages import Tier, WorkflowRequest

if TYPE_CHECKING:
    from agentd.config.load import Config
    from agentd.wire.messages import WorkflowResponse

INSTANCE: Final = "all"
NODE: Final = "pve1"
"""The node of the simulated cluster on which the demo runs."""
DURATIONS: Final = {"default": 1.0, "qmclone": 2.0, "qmstart": 1.5}
"""Seconds that tasks of the simulated Proxmox take: long enough to be visible in the demo."""

DEMO_CONFIG: Final = """\
[node]
name = {node}
state_dir = {state}

[bus]
servers = [{nats}]
nkey_dir = {keys}

[proxmox]
url = {url}
token_id = {token}
token_file = {secret}
ca_file = {ca}

[policy]
default_tier = "destroy"

[web]
port = {port}

[log]
level = "warning"
"""


def up(given: Config, state: Path | None, port: int, binary: nats_server.Binary | None = None) -> int:
    """Run all roles in this process with a nats-server; return the exit code."""
    state = state or default_state("up")
    own = _all_roles(given.model_copy(update={"node": given.node.model_copy(update={"state_dir": state})}))
    keys = state / KEYS
    users = bus_users.with_own_keys(own, (INSTANCE,), keys)
    with nats_server.nats_server(state / "nats", port, binary, users=users) as url:
        max_storage = given.bus.max_storage or nats_server.storage_limit(state / "nats")
        login = settings.Bus(servers=(url,), max_storage=max_storage, nkey_dir=str(keys), queues=given.bus.queues)
        config = own.model_copy(update={"bus": login.model_copy(update={"timeout": given.bus.timeout})})
        if "policy" not in given.model_fields_set:  # a user who may start it on loopback may also use it
            config = config.model_copy(update={"policy": Policy(default_tier=Tier.OPERATE)})
        logs.configure(config.log.level, config.log.format)
        supervisor = Supervisor(config, INSTANCE, reload=lambda: config)
        click.echo(f"NATS  {url}")
        click.echo(f"keys  {keys}")
        return uvloop.run(_up(supervisor))


def _all_roles(config: Config) -> Config:
    """Return the configuration with an instance that has every installed role."""
    instance = settings.InstanceSection(roles=tuple(manager.every_plugin(config).roles()))
    return config.model_copy(update={"instances": {**config.instances, INSTANCE: instance}})


async def _up(supervisor: Supervisor) -> int:
    schedules.check(supervisor.config, supervisor.workflows)
    await _provision(supervisor.config)
    return await supervisor.run()


async def _provision(config: Config) -> None:
    bus = Bus(config.bus, "provision", logs.get_logger())
    await bus.connect(wait=10, login=config.bus.admin_login())
    try:
        services = await asyncio.to_thread(lambda: manager.every_plugin(config).services())
        await provision.provision(bus, services, config.bus.queues)
        await schedules.provision(bus, config.schedules)
    finally:
        await bus.close()


def demo(state: Path | None, *, once: bool) -> int:
    """Run the demo; return 0 if the workflow completed."""
    started = time.monotonic()
    state = state or default_state("demo")
    simulator = state / "proxmox"
    shutil.rmtree(simulator, ignore_errors=True)  # the demo keeps nothing between two runs
    logs.configure("warning", "console")
    planned = load.Config(node=settings.Node(name=NODE, state_dir=state), known_plugins=tuple(manager.installed()))
    users = bus_users.with_own_keys(_all_roles(planned), (INSTANCE,), state / KEYS)
    with (
        nats_server.nats_server(state / "nats", users=users) as nats,
        nats_server.simulated_proxmox(Path.cwd(), simulator, DURATIONS) as pve,
    ):
        secret = simulator / "token"
        secret.touch(mode=0o600)
        secret.write_text(pve.secret)
        file = state / "agentd.toml"
        values = {
            "state": str(state),
            "nats": nats,
            "node": NODE,
            "keys": str(state / KEYS),
            "url": pve.url,
            "token": pve.token_id,
            "secret": str(secret),
            "ca": pve.ca_file,
            "port": 0 if once else nats_server.preferred_port(8080),
        }
        file.write_text(DEMO_CONFIG.format(**{key: json.dumps(value) for key, value in values.items()}))
        config = _all_roles(load.load(file, {}, manager.installed()))
        supervisor = Supervisor(config, INSTANCE, reload=lambda: config)
        return uvloop.run(_demo(supervisor, file, started, once=once))


async def _demo(supervisor: Supervisor, file: Path, started: float, *, once: bool) -> int:
    await _provision(supervisor.config)
    running = asyncio.create_task(supervisor.run())
    workflow = asyncio.create_task(_run_demo(supervisor, file, started, once=once))
    await asyncio.wait([running, workflow], return_when=asyncio.FIRST_COMPLETED)
    if running.done():  # Ctrl-C, or it could not start
        workflow.cancel()
        await asyncio.gather(workflow, return_exceptions=True)
        return running.result()
    supervisor.stop()
    code = await running
    answer = workflow.result()
    return code or (0 if answer.status in {"completed", "completed_with_warnings"} else 1)


async def _run_demo(supervisor: Supervisor, file: Path, started: float, *, once: bool) -> WorkflowResponse:
    """Deploy one VM and show each step; unless `once`, run until Ctrl-C."""
    await supervisor.ready.wait()
    print_line(f"[bold]agentd[/] is up after {time.monotonic() - started:.1f} s: {', '.join(supervisor.roles)}")
    print_line("on an embedded nats-server and a simulated Proxmox VE of three nodes")
    print_line(f"  status page  {supervisor.url}")
    print_line(f"  MCP          {supervisor.url}/mcp")
    print_line(f"  try          agentd --config {file} workflows")
    print_line(f"               agentd --config {file} call delete_guest vmid=101 name=db-01\n")
    name = f"web-{secrets.token_hex(2)}"
    parameters = {"name": name, "template": 9000, "memory": 2048, "disk": 8, "tags": ["demo"]}
    request = WorkflowRequest("vm_deployment", requests.new_id("vm_deployment"), parameters, "demo")
    print_line(f"[bold]agentd submit vm_deployment name={name} template=9000 memory=2048 disk=8[/]")
    principal = supervisor.config.principal
    bus = Bus(supervisor.config.bus, principal, logs.get_logger())
    await bus.connect(wait=5)
    try:
        await requests.submit(bus, principal, request)
        answer = await queries.follow(bus, request.workflow_id, tables.Steps().show, wait=120)
    finally:
        await bus.close()
    tables.answer(answer)
    if not once:
        print_line("\nthe cluster keeps running; Ctrl-C ends it")
        await supervisor.stopping.wait()
    return answer
