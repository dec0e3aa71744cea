"""The queues that the tasks of a plan go to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from agentd import Rejected, subjects

if TYPE_CHECKING:
    from agentd import Bus, TaskSpec

URGENT: Final = 5
"""Priority above which tasks go to the urgent queue of their service."""


class Queues:
    """The queues that exist in the network."""

    def __init__(self, bus: Bus) -> None:
        """Read them when a plan needs one that is not known."""
        self._bus = bus
        self._known: set[str] = set()

    async def chosen(self, plan: list[TaskSpec], priority: int) -> list[TaskSpec]:
        """Return the plan with the queues for this priority.

        Only the queue of a service as a whole has one for urgent tasks; a class and a node keep theirs, and so does an
        external agent.  Raises Rejected for a queue that does not exist: its task would wait for ever.
        """
        wanted = {queue for task in plan for queue in _queues(task)}
        urgent = {queue: subjects.urgent(queue) for queue in wanted if priority > URGENT and subjects.is_service(queue)}
        if not self._known >= wanted | set(urgent.values()):
            self._known = await self._bus.durables(subjects.WORKFLOWS)
        for task in plan:
            for queue in _queues(task):
                if queue not in self._known:
                    hint = "name it under [[bus.queues]] and run `agentd provision`"
                    raise Rejected(f"task {task.name}: there is no queue {queue!r}; {hint}")
        lanes = {queue: lane for queue, lane in urgent.items() if lane in self._known}
        return [_moved(task, lanes) for task in plan]


def _queues(task: TaskSpec) -> list[str]:
    return [task.queue, task.compensation.queue] if task.compensation else [task.queue]


def _moved(task: TaskSpec, lanes: dict[str, str]) -> TaskSpec:
    undo = task.compensation
    if undo is not None:
        undo = replace(undo, queue=lanes.get(undo.queue, undo.queue))
    return replace(task, queue=lanes.get(task.queue, task.queue), compensation=undo)
