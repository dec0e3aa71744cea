// A plain agent: knows NATS and agentd's messages, nothing else. Its queue: [[bus.queues]] name = ID, external = "pull".
//   node agent.mjs nats://127.0.0.1:4222 ID
import { connect } from "@nats-io/transport-node";
import { jetstream } from "@nats-io/jetstream";

const [servers, id] = process.argv.slice(2);
const nc = await connect({ servers, name: id, maxReconnectAttempts: -1 });
const now = () => new Date().toISOString();
const tell = (subject, message) => nc.publish(subject, JSON.stringify(message));

const tools = {
  count_words: ({ text }) => ({ words: text.split(/\s+/).filter(Boolean).length }),
};

// Register: now, on discovery, and every 30 s.
const register = (status = "available") => {
  tell("ai.agents.register", { agent_id: id, capabilities: Object.keys(tools), load: 0, status });
  const service = { service_id: id, service_type: "text", capabilities: ["text"], tools: Object.keys(tools) };
  tell("ai.mcp.register", { ...service, endpoint: "", status, timestamp: now() });
};
const beat = (status = "available") => tell(`ai.heartbeat.${id}`, { agent_id: id, timestamp: now(), status });
nc.subscribe("ai.agents.discovery.request", { callback: () => register() });
register();
beat();
setInterval(beat, 30_000);
process.once("SIGTERM", async () => (register("offline"), beat("offline"), await nc.drain(), process.exit(0)));

// Take tasks one at a time; complete first, acknowledge then: what we do not acknowledge is delivered again.
const js = jetstream(nc);
const queue = await js.consumers.get("AI_WORKFLOWS", id);
for await (const delivery of await queue.consume({ max_messages: 1 })) {
  const { task_id, task_type, parameters, attempt, deadline } = delivery.json();
  if (new Date(deadline) < new Date()) { delivery.ack(); continue; } // its orchestrator has given it up
  const outcome = { task_id, attempt, service_id: id, timestamp: now() };
  try {
    if (!tools[task_type]) throw new Error(`no tool ${task_type}`);
    Object.assign(outcome, { status: "completed", result: await tools[task_type](parameters) });
  } catch (error) {
    Object.assign(outcome, { status: "failed", error: error.message });
  }
  await js.publish(`ai.tasks.complete.${id}.${task_id}`, JSON.stringify(outcome));
  delivery.ack();
}
