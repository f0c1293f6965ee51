// A program on the official client SDK: does what it is told, line by line, and tells what came of it.
//
//     node reliable.js CLIENT-URL [OPTIONS]
//
// It speaks the reliable JSON subprotocol; OPTIONS are the SDK's, as JSON, with "protocol":"plain" for the plain one.
// A line to it is a JSON array: an operation, its arguments and its options, as in
// ["send","desk","text","hello",{"no_echo":true}]. A line from it is one fact, as JSON: what an operation gave, or what
// the client was told. Bytes are hex digits on both ways.
import { createInterface } from "node:readline";

import { AzureLogger, setLogLevel } from "@azure/logger";
import {
  InvocationError,
  SendMessageError,
  WebPubSubClient,
  WebPubSubJsonProtocol,
  WebPubSubJsonReliableProtocol,
} from "@azure/web-pubsub-client";

const [url, given = "{}"] = process.argv.slice(2);
const { protocol = "reliable", ...options } = JSON.parse(given);
const say = (fact) => console.log(JSON.stringify(fact));
const readable = (data) => (data instanceof ArrayBuffer ? Buffer.from(data).toString("hex") : data);
const content = (dataType, data) =>
  ["binary", "protobuf"].includes(dataType) ? Uint8Array.from(Buffer.from(data, "hex")).buffer : data;

// The one thing that the client notices and tells nobody but its log.
setLogLevel("warning");
AzureLogger.log = (...line) => line.join(" ").includes("Closing. The keep alive timeout") && say({ told: "silence" });

const client = new WebPubSubClient(url, {
  protocol: protocol === "plain" ? WebPubSubJsonProtocol() : WebPubSubJsonReliableProtocol(),
  messageRetryOptions: { maxRetries: 0 },
  ...options,
});

client.on("connected", ({ connectionId, userId }) => say({ told: "connected", connectionId, userId }));
client.on("disconnected", ({ connectionId, message }) =>
  say({ told: "disconnected", connectionId, message: message?.message }),
);
client.on("rejoin-group-failed", ({ group, error }) => say({ told: "rejoin failed", group, error: `${error}` }));
client.on("group-message", ({ message: { group, fromUserId, dataType, data, sequenceId } }) =>
  say({ told: "group message", group, fromUserId, dataType, data: readable(data), sequenceId }),
);
client.on("server-message", ({ message: { dataType, data, sequenceId } }) =>
  say({ told: "server message", dataType, data: readable(data), sequenceId }),
);
client.on("stopped", () => {
  say({ told: "stopped" });
  // The stopped client's timers would keep the process for 40 seconds more.
  process.exit();
});

const named = ({ ack = true, ack_id: ackId, no_echo: noEcho }) => ({ fireAndForget: !ack, ackId, noEcho });
const withdrawals = new Map();

const OPERATIONS = {
  join: (group, options) => client.joinGroup(group, named(options)),
  leave: (group, options) => client.leaveGroup(group, named(options)),
  send: (group, dataType, data, options) => client.sendToGroup(group, content(dataType, data), dataType, named(options)),
  event: (name, dataType, data, options) => client.sendEvent(name, content(dataType, data), dataType, named(options)),
  invoke: (invocationId, name, dataType, data) => {
    withdrawals.set(invocationId, new AbortController());
    const { signal: abortSignal } = withdrawals.get(invocationId);
    return client.invokeEvent(name, content(dataType, data), dataType, { invocationId, abortSignal });
  },
  withdraw: async (invocationId) => withdrawals.get(invocationId).abort(),
  stop: async () => client.stop(),
};

async function attempt(operation, details) {
  try {
    const { isDuplicated, invocationId, dataType, data } = (await OPERATIONS[operation](...details)) ?? {};
    if (operation !== "stop") {
      say({ did: operation, isDuplicated: isDuplicated || undefined, invocationId, dataType, data: readable(data) });
    }
  } catch (error) {
    if (error instanceof InvocationError) {
      const { invocationId, message, errorDetail } = error;
      say({ failed: operation, invocationId, message, error: errorDetail });
    } else if (error instanceof SendMessageError) {
      say({ failed: operation, error: error.errorDetail });
    } else {
      throw error;
    }
  }
}

await client.start();
// Nothing is waited for: who types waits for the outcome, or does not.
createInterface({ input: process.stdin }).on("line", (line) => {
  const [operation, ...details] = JSON.parse(line);
  attempt(operation, details);
});
