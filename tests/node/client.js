// A program on the official client SDK: does most of what it can with the plain JSON subprotocol, and tells of it.
//
//     node client.js CLIENT-URL GROUP
//
// The URL's roles are for GROUP alone. Each line it prints is one fact, as JSON: what an operation gave, or what
// the client was told. When it has printed {"waiting":true}, it waits to be disconnected by the service.
import { SendMessageError, WebPubSubClient, WebPubSubJsonProtocol } from "@azure/web-pubsub-client";

const [url, group] = process.argv.slice(2);
const say = (fact) => console.log(JSON.stringify(fact));
const readable = (data) => (data instanceof ArrayBuffer ? { bytes: Buffer.from(data).toString("hex") } : data);

const client = new WebPubSubClient({ getClientAccessUrl: async () => url }, { protocol: WebPubSubJsonProtocol() });

const told = (event) => new Promise((resolve) => client.on(event, resolve));

client.on("connected", ({ connectionId, userId }) => say({ told: "connected", connectionId, userId }));
client.on("disconnected", ({ message }) => say({ told: "disconnected", message: message?.message }));
client.on("stopped", () => say({ told: "stopped" }));
client.on("rejoin-group-failed", ({ group, error }) => say({ told: "rejoin-group-failed", group, error: `${error}` }));
client.on("server-message", ({ message }) => say({ told: "server-message", message }));
client.on("group-message", ({ message: { group, fromUserId, dataType, data } }) =>
  say({ told: "group-message", group, fromUserId, dataType, data: readable(data) }),
);

async function attempt(name, operation) {
  try {
    const result = await operation();
    say({ did: name, isDuplicated: result.isDuplicated });
  } catch (error) {
    if (!(error instanceof SendMessageError)) {
      throw error;
    }
    say({ failed: name, ackId: error.ackId, error: error.errorDetail });
  }
}

const bytes = Uint8Array.from([0, 1, 127, 128, 255]).buffer;

await client.start();
await attempt("join", () => client.joinGroup(group));
await attempt("json", () => client.sendToGroup(group, { price: 12.5, tags: ["ü"] }, "json"));
await attempt("text", () => client.sendToGroup(group, "Grüße ✓", "text"));
await attempt("binary", () => client.sendToGroup(group, bytes, "binary"));
await attempt("protobuf", () => client.sendToGroup(group, bytes, "protobuf"));
await attempt("no echo", () => client.sendToGroup(group, "not for myself", "text", { noEcho: true }));
await attempt("no ack", () => client.sendToGroup(group, "unacknowledged", "text", { fireAndForget: true }));
await attempt("first", () => client.sendToGroup(group, "once", "text", { ackId: 1000 }));
await attempt("again", () => client.sendToGroup(group, "once", "text", { ackId: 1000 }));
await attempt("leave", () => client.leaveGroup(group));
await attempt("outside", () => client.sendToGroup(group, "sent from outside", "text"));
await attempt("return", () => client.joinGroup(group));

// The client tries each of these four times, a second apart.
await Promise.all([
  attempt("event", () => client.sendEvent("news", { any: "thing" }, "json")),
  attempt("elsewhere", () => client.joinGroup("elsewhere")),
]);

const connectedAgain = told("connected");
const backInGroup = told("group-message");
say({ waiting: true });
await connectedAgain;
// The client joins its groups again by itself, in its own time: speak until it is heard.
const speaking = setInterval(() => client.sendToGroup(group, "back again", "text", { fireAndForget: true }), 50);
await backInGroup;
clearInterval(speaking);

const stopped = told("stopped");
client.stop();
await stopped;
// The stopped client's timers would keep the process for 40 seconds more.
process.exit();
