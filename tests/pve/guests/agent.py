# SPDX-License-Identifier: AGPL-3.0-or-later
"""The guest agent of simulated VMs: files that are kept, commands that take their time.

fakepve answers each call and keeps nothing of it.  A VM that runs and whose configuration has the agent on has one;
real PVE says "No QEMU guest agent configured" where it is off.
"""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING

from fakepve import FakePve
from fakepve.routing import die

if TYPE_CHECKING:
    from pve.foreign import Data, Values


class Agent(FakePve):  # type: ignore[misc] # untyped
    """Mixin of the simulator: /nodes/{node}/qemu/{vmid}/agent."""

    async def _agent_call(self, match: Data, values: Values) -> Data:
        vm = self.find(values["node"], values["vmid"])
        if vm.status == "running" and "1" not in str(vm.config.get("agent", "0")).split(",")[0]:
            raise die("No QEMU guest agent configured")
        if vm.agent is None:
            vm.agent = {}
        command = match.template.rsplit("/", 1)[1]
        if command in (vm.agent.get("lacks") or ()):
            # Real PVE: what an old agent does not know is a result of its own, in an answer of 200.
            reply = {"class": "CommandNotFound", "desc": f"The command guest-{command} has not been found"}
            return {"result": {"error": reply}}
        answer = await super()._agent_call(match, values)
        if command == "file-write":
            content = values["content"]
            text = content if values.get("encode", 1) else base64.b64decode(content).decode("latin-1")
            vm.agent.setdefault("files", {})[values["file"]] = text
        if command == "file-read":
            return self._agent_file(vm.agent, values)
        if command == "exec":
            vm.agent.setdefault("started", {})[answer["pid"]] = time.time()
        if command == "exec-status":
            return self._agent_exit(vm, values["pid"], answer)
        return answer

    @staticmethod
    def _agent_file(agent: Values, values: Values) -> Values:
        """Answer a part of a file and whether there is more; bytes are Latin-1, as real PVE writes them into JSON."""
        files = agent.get("files") or {}
        if values["file"] not in files:
            raise die(f"agent error: Can't open file '{values['file']}': No such file or directory")
        start, count = int(values.get("offset", 0)), int(values.get("count", 16_777_216))
        rest = files[values["file"]][start:]
        part = rest[:count]
        if not values.get("decode", 1):
            part = base64.b64encode(part.encode("latin-1")).decode()
        return {"content": part, **({"truncated": 1} if len(rest) > count else {})}

    @staticmethod
    def _agent_exit(vm: Data, pid: int, answer: Values) -> Values:
        """Report that a command runs for its `seconds`; real PVE forgets a command whose end it has returned."""
        if pid not in vm.agent_execs:
            raise die(f"Agent error: Invalid parameter 'pid': PID {pid} does not exist")
        seconds = answer.pop("seconds", 0)
        if time.time() - vm.agent["started"][pid] < seconds:
            return {"exited": 0}
        del vm.agent_execs[pid]
        return answer | {"exited": 1}
