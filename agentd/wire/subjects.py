"""Every subject, stream, bucket and consumer name, in one place.

Streams: AI_REQUESTS and AI_INPUT are work queues.  AI_WORKFLOWS is the state of all workflows; only orchestrators
write it.  AI_EFFECTS holds effect records, AI_AUDIT the audit chains, AI_METRICS heartbeats and metrics, which may be
lost.  AI_DEAD holds dead letters with the reason, and the server's advisories.  `agentd provision` creates the streams.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

REQUESTS: Final = "AI_REQUESTS"
INPUT: Final = "AI_INPUT"
WORKFLOWS: Final = "AI_WORKFLOWS"
EFFECTS: Final = "AI_EFFECTS"
AUDIT: Final = "AI_AUDIT"
METRICS: Final = "AI_METRICS"
DEAD: Final = "AI_DEAD"

LIVE: Final = "live"
ALERTS: Final = "alerts"
MONITOR: Final = "monitor"
BUDGET: Final = "budget"
RESULTS: Final = "results"
CONF: Final = "conf"
FREEZE: Final = "freeze"
CHAINS: Final = "audit"

SINGLY: Final = frozenset({REQUESTS, INPUT, WORKFLOWS, f"KV_{LIVE}"})
"""Streams without direct gets: the server sends the answer to a direct get, with its headers, to any reply subject
that the requester names, so a principal that may read here could store a copy of a message in any other stream."""

ORCH_REQUESTS: Final = "orch-req"
ORCH_INPUT: Final = "orch"
ORCH_DUE: Final = "orch-due"
ACK_WAIT: Final = 30.0
"""Seconds without a progress report after which a message is delivered again; a double failover takes 14.6."""
PROGRESS: Final = 10.0
"""Seconds between two progress reports for a message."""

ADMIN: Final = "admin"
"""The NATS user that creates and changes streams and consumers."""
WORKFLOW_REQUEST: Final = "ai.workflows.request"
WORKFLOW_RESPONSE: Final = "ai.workflows.response"
"""Requests on the plain subject are also answered here; core NATS, not stored."""
PLAIN: Final = "plain"
"""The principal of a request on the plain subject: its sender is not proven."""
TASK_COMPLETE: Final = "ai.tasks.complete"
AGENT_REGISTER: Final = "ai.agents.register"
SERVICE_REGISTER: Final = "ai.mcp.register"
AGENT_DISCOVERY: Final = "ai.agents.discovery.request"
SERVICE_DISCOVERY: Final = "ai.mcp.discovery.request"
ALL_EVENTS: Final = "ai.workflows.event.*"
ALL_DUE: Final = "ai.workflows.due.>"
ALL_TIMERS: Final = "ai.workflows.timer.*.*.*"
ALL_CRON: Final = "ai.workflows.timer.*._.cron"
ALL_EFFECTS: Final = "ai.effects.>"
ALL_HEARTBEATS: Final = "ai.heartbeat.>"
ALL_METRICS: Final = "ai.metrics.>"
ALL_ALERTS: Final = "ai.alerts.>"
ALL_DEAD: Final = "ai.dead.>"
ALL_NETWORK: Final = "ai.control.network.*"
ALL_DEAD_MARKS: Final = "ai.dead.mark.*"
ADVISORIES: Final = (
    "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>",
    "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>",
)

ORCHESTRATOR: Final = "orchestrator"
"""The queue of tasks that start a workflow of their own."""

WHOLE_WORKFLOW: Final = "_"
"""The task token of timers that belong to the workflow as a whole; no task may have this name."""

CRON: Final = "cron"
"""The last token of a schedule's timer, where other timers have an attempt; also the prefix of its workflow ids."""


def request(principal: str) -> str:
    """ai.workflows.request.<principal>."""
    return f"ai.workflows.request.{principal}"


def signal(principal: str, workflow: str) -> str:
    """ai.workflows.signal.<principal>.<workflow>."""
    return f"ai.workflows.signal.{principal}.{workflow}"


def complete(agent: str, workflow: str, task: str) -> str:
    """ai.tasks.complete.<agent>.<workflow>.<task>."""
    return f"ai.tasks.complete.{agent}.{workflow}.{task}"


def event(workflow: str) -> str:
    """ai.workflows.event.<workflow>."""
    return f"ai.workflows.event.{workflow}"


def timer(workflow: str, task: str, attempt: str) -> str:
    """ai.workflows.timer.<workflow>.<task>.<attempt>."""
    return f"ai.workflows.timer.{workflow}.{task}.{attempt}"


def due(workflow: str, task: str, attempt: str) -> str:
    """ai.workflows.due.<workflow>.<task>.<attempt>: where a timer's message arrives."""
    return f"ai.workflows.due.{workflow}.{task}.{attempt}"


def cron_timer(name: str) -> str:
    """ai.workflows.timer.cron-<name>._.cron: the subject that stores a schedule."""
    return timer(f"{CRON}-{name}", WHOLE_WORKFLOW, CRON)


def cron_due(name: str) -> str:
    """ai.workflows.due.cron-<name>._.cron: the subject that receives its firings."""
    return due(f"{CRON}-{name}", WHOLE_WORKFLOW, CRON)


def cron_workflow(name: str, firing: int | str) -> str:
    """cron-<name>-<firing>: the id of the workflow that a firing starts.

    `firing` is the sequence of the firing's message, or an id of a run that is started by hand.
    """
    return f"{CRON}-{name}-{firing}"


def schedule_of(workflow: str) -> str:
    """Return the schedule that the workflow belongs to; "" for none."""
    start, _, _ = workflow.rpartition("-")
    return start.removeprefix(f"{CRON}-") if start.startswith(f"{CRON}-") else ""


def firing_of(workflow: str) -> str:
    """Return the schedule whose firing started the workflow; "" for none.

    A run that was started by hand has none.
    """
    return schedule_of(workflow) if workflow.rpartition("-")[2].isdecimal() else ""


def schedule_key(name: str) -> str:
    """schedule.<name>: the key of the last run in the bucket `conf`."""
    return f"schedule.{name}"


def assign(queue: str, workflow: str, task: str, attempt: int) -> str:
    """ai.tasks.assign.<queue>.<workflow>.<task>.<attempt>."""
    return f"ai.tasks.assign.{queue}.{workflow}.{task}.{attempt}"


def urgent(service: str) -> str:
    """<service>+urgent: the queue of a service for urgent tasks only."""
    return f"{service}+urgent"


def is_service(queue: str) -> bool:
    """Return whether `queue` is that of a whole service, without node and class."""
    return "@" not in queue and "+" not in queue


def queues_of(service: str, node: str, queues: Iterable[str]) -> list[str]:
    """Return the queues that an agent of `service` on `node` takes tasks from."""
    mine = {service, f"{service}@{node}"}
    return [queue for queue in queues if queue.partition("+")[0] in mine]


def worker_queues(service: str, node: str, queues: Iterable[str]) -> list[str]:
    """Return the queues that a worker of `service` on `node` pulls from."""
    return list(dict.fromkeys([service, urgent(service), *queues_of(service, node, queues)]))


def service_of(queue: str) -> str:
    """Return the service of a queue `<service>[@<node>][+<class>]`."""
    return queue.partition("+")[0].partition("@")[0]


def assigns_of(queue: str) -> str:
    """ai.tasks.assign.<queue>.*.*.*: the filter of the consumer of a queue."""
    return f"ai.tasks.assign.{queue}.*.*.*"


def assign_plain(agent: str) -> str:
    """ai.tasks.assign.<agent>: the subject that an external agent subscribes to."""
    return f"ai.tasks.assign.{agent}"


def response(workflow: str) -> str:
    """ai.workflows.response.<workflow>."""
    return f"ai.workflows.response.{workflow}"


def effect(service: str, key: str) -> str:
    """ai.effects.<service>.<workflow>.<task>[.<step>].

    `key` is the part after the service.

    For a call it is ai.effects.<service>.<principal>=<word>.<word>[.<word>].
    """
    return f"ai.effects.{service}.{key}"


def effect_key(workflow: str, task: str, step: str | None = None) -> str:
    """<workflow>.<task>[.<step>]: the key of an effect.

    The effect leaves this key as a mark on a guest.
    """
    return f"{workflow}.{task}" if step is None else f"{workflow}.{task}.{step}"


def call_key(principal: str, key: str) -> str:
    """<principal>=<key>: the effect key of a call.

    No id contains a `=`, so it cannot be the key of another principal or of a task.
    """
    return f"{principal}={key}"


def conflict(workflow: str, digest: str) -> str:
    """<workflow>-conflict-<digest>: the id of a refused request.

    The request was refused because another request has the id `workflow`.
    """
    return f"{workflow}-conflict-{digest[:8]}"


def audit(agent: str) -> str:
    """ai.audit.<agent>."""
    return f"ai.audit.{agent}"


def tool_call(principal: str, service: str, tool: str) -> str:
    """ai.tools.call.<principal>.<service>.<tool>.

    NATS lets a principal publish only under its own name.
    """
    return f"ai.tools.call.{principal}.{service}.{tool}"


def tool_step(agent: str, service: str, tool: str) -> str:
    """ai.tools.step.<agent>.<service>.<tool>: a call by an agent inside a task.

    Principals may not publish here.
    """
    return f"ai.tools.step.{agent}.{service}.{tool}"


def stop(service: str) -> str:
    """ai.tasks.stop.<service>."""
    return f"ai.tasks.stop.{service}"


def heartbeat(agent: str) -> str:
    """ai.heartbeat.<agent>."""
    return f"ai.heartbeat.{agent}"


def metrics(agent: str) -> str:
    """ai.metrics.<agent>."""
    return f"ai.metrics.{agent}"


def alert(kind: str) -> str:
    """ai.alerts.<type>."""
    return f"ai.alerts.{kind}"


def critical_error(service: str) -> str:
    """ai.critical_errors.<service>."""
    return f"ai.critical_errors.{service}"


def dead(why: str, consumer: str, key: str) -> str:
    """ai.dead.<why>.<consumer>.<key>: a dead letter.

    `why` is given-up, poisoned or broken.
    """
    return f"ai.dead.{why}.{consumer}.{key}"


def dead_mark(letter: int | str) -> str:
    """ai.dead.mark.<letter>: what was done with the dead letter of that sequence."""
    return f"ai.dead.mark.{letter}"


def control(agent: str) -> str:
    """ai.control.<agent>."""
    return f"ai.control.{agent}"


def accept(principal: str, agent: str) -> str:
    """ai.control.accept.<principal>.<agent>.

    Here a principal acknowledges the alarm of an agent's audit chain.
    """
    return f"ai.control.accept.{principal}.{agent}"


def result_key(agent: str, key: str) -> str:
    """<agent>.<key>: the key of a large result in the bucket `results`.

    NATS lets an agent write only under its own id.
    """
    return f"{agent}.{key}"


def begun_key(consumer: str, sequence: int | str) -> str:
    """begun.<consumer>.<sequence>: key of a message's number of starts in `results`."""
    return f"begun.{consumer}.{sequence}"


def audit_key(agent: str) -> str:
    """key.<agent>: the key of a chain's pinned public keys in the bucket `audit`."""
    return f"key.{agent}"


def audit_head(agent: str) -> str:
    """head.<agent>: the key of a chain's last line in the bucket `audit`."""
    return f"head.{agent}"


def control_by(principal: str, agent: str) -> str:
    """ai.control.agent.<principal>.<agent>: a principal asks an agent to drain or reload; the agent decides."""
    return f"ai.control.agent.{principal}.{agent}"


def network(principal: str) -> str:
    """ai.control.network.<principal>: requests to freeze or thaw the network."""
    return f"ai.control.network.{principal}"


def agent_id(instance: str, node: str) -> str:
    """<instance>-<node>, without the domain of a host name: it must be one token."""
    return f"{instance}-{node.partition('.')[0]}"
