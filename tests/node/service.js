// Every method of the official JavaScript service SDK, and what connected clients hear of it.
//
//     node service.js CONNECTION_STRING HUB GROUP
//
// One JSON object a line: {"did": method, ...what came back, "heard": {client: [messages]}}.
import { once } from "node:events";

import { odata, WebPubSubServiceClient } from "@azure/web-pubsub";
import { WebSocket } from "ws";

const [connectionString, hub, groupName] = process.argv.slice(2);
const options = { allowInsecureConnection: true, retryOptions: { maxRetries: 0 } };
const service = new WebPubSubServiceClient(connectionString, hub, options);
const group = service.group(groupName);

class Listener {
  /** A client of the JSON subprotocol, or without one; `heard` gathers what it is told. */
  static async connect(userId, subprotocol = "json.webpubsub.azure.v1", groups = []) {
    const { url } = await service.getClientAccessToken({ userId, groups });
    const listener = new Listener(new WebSocket(url, subprotocol ? [subprotocol] : []));
    await once(listener.socket, "open");
    if (subprotocol) {
      await listener.until(() => listener.heard.length > 0);
      listener.id = listener.heard.shift().connectionId;
    }
    return listener;
  }

  constructor(socket) {
    this.socket = socket;
    this.heard = [];
    this.news = () => {};
    socket.on("message", (data, isBinary) => {
      const text = data.toString(isBinary ? "hex" : "utf8");
      this.heard.push(socket.protocol ? JSON.parse(text) : { [isBinary ? "binary" : "text"]: text });
      this.news();
    });
    socket.on("close", (code, reason) => {
      this.heard.push({ closed: code, reason: reason.toString() });
      this.news();
    });
  }

  async until(true_) {
    while (!true_()) {
      await new Promise((resolve) => (this.news = resolve));
    }
  }
}

const clients = {};

/** Do something, then see what `listeners` (name → number of messages) have heard of it, and the others have not. */
async function step(did, act, listeners = {}) {
  const gave = await act();
  const heard = {};
  for (const [name, client] of Object.entries(clients)) {
    await client.until(() => client.heard.length >= (listeners[name] ?? 0));
    if (client.heard.length > 0) {
      heard[name] = client.heard.splice(0);
    }
  }
  // Methods that only act give nothing, or an empty object.
  const nothing = gave === undefined || JSON.stringify(gave) === "{}";
  console.log(JSON.stringify({ did, ...(nothing ? {} : { gave }), heard }));
}

clients.ann = await Listener.connect("ann");
clients.ben = await Listener.connect("ben");
clients.simple = await Listener.connect("simple", null);
const { ann, ben } = clients;

const all = { ann: 1, ben: 1, simple: 1 };
await step("sendToAll json", () => service.sendToAll({ price: 12.5, name: "ü" }), all);
await step("sendToAll string", () => service.sendToAll("quoted"), all);
await step("sendToAll text", () => service.sendToAll("Grüße", { contentType: "text/plain", messageTtlSeconds: 60 }), all);
await step("sendToAll bytes", () => service.sendToAll(new Uint8Array([0, 255]).buffer), all);
await step("sendToAll view", () => service.sendToAll(new Uint8Array([98, 108, 111, 98])), all);
await step("sendToAll excluded", () => service.sendToAll(1, { excludedConnections: [ann.id, "x"] }), { ben: 1, simple: 1 });
await step("sendToAll filter", () => service.sendToAll(2, { filter: odata`userId eq ${"ann"}` }), { ann: 1 });
await step("sendToUser", () => service.sendToUser("ben", { n: 1 }, { filter: "userId ne null" }), { ben: 1 });
await step("sendToConnection", () => service.sendToConnection(ann.id, "hi", { contentType: "text/plain" }), { ann: 1 });

await step("group.addConnection", () => group.addConnection(ann.id));
await step("group.addUser", () => group.addUser("ben"));
await step("group.sendToAll", () => group.sendToAll({ to: "group" }, { filter: "'none' in groups or true" }), { ann: 1, ben: 1 });
await step("groupExists", async () => [await service.groupExists(groupName), await service.groupExists("nobody")]);
await step("userExists", async () => [await service.userExists("ann"), await service.userExists("nobody")]);
await step("connectionExists", async () => [await service.connectionExists(ann.id), await service.connectionExists("nobody")]);
await step("group.listConnections", async () => {
  const users = [];
  const pages = [];
  for await (const member of await group.listConnections({ maxPageSize: 1 })) {
    users.push([member.connectionId === ann.id || member.connectionId === ben.id, member.userId]);
  }
  for await (const page of (await group.listConnections({ maxPageSize: 1, top: 2 })).byPage()) {
    pages.push(page.length);
  }
  return { users: users.sort(), pages };
});
await step("group.removeConnection", () => group.removeConnection(ann.id));
await step("group.removeUser", () => group.removeUser("ben"));
await step("groupExists after", () => service.groupExists(groupName));

await step("addConnectionsToGroups", () => service.addConnectionsToGroups([groupName, "b"], odata`userId in (${"ann"}, ${"ben"})`));
await step("removeConnectionsFromGroups", () => service.removeConnectionsFromGroups(["b"], "userId eq 'ann'"));
await step("to b", () => service.group("b").sendToAll("b"), { ben: 1 });
await step("removeUserFromAllGroups", () => service.removeUserFromAllGroups("ben"));
await step("removeConnectionFromAllGroups", () => service.removeConnectionFromAllGroups(ann.id));
await step("groups after", async () => [await service.groupExists(groupName), await service.groupExists("b")]);

const permission = { targetName: "p/ü" };
await step("permissions", async () => {
  const found = [await service.hasPermission(ann.id, "joinLeaveGroup", permission)];
  await service.grantPermission(ann.id, "joinLeaveGroup", permission);
  found.push(await service.hasPermission(ann.id, "joinLeaveGroup", permission));
  await service.revokePermission(ann.id, "joinLeaveGroup", permission);
  found.push(await service.hasPermission(ann.id, "joinLeaveGroup", permission));
  return found;
});

await step("errors", async () => {
  const found = [];
  for (const attempt of [
    () => group.addConnection("nobody"),
    () => group.addUser("nobody"),
    () => service.sendToAll("x", { filter: "userId >" }),
    () => service.sendToAll("x", { contentType: "text/plain", messageTtlSeconds: 301 }),
    () => service.grantPermission(ann.id, "sendToGroup"),
    () => new WebPubSubServiceClient(connectionString.replace(/AccessKey=..../, "AccessKey=none"), hub, options).sendToAll("x"),
  ]) {
    try {
      await attempt();
      found.push("nothing");
    } catch (error) {
      found.push([error.statusCode ?? error.message, error.response?.headers.get("x-ms-error-code")]);
    }
  }
  return found;
});

await step("closeConnection", () => service.closeConnection(ann.id, { reason: "you" }), { ann: 2 });
clients.ann = await Listener.connect("ann", undefined, ["room"]);
await step("group.closeAllConnections", () => service.group("room").closeAllConnections({ reason: "room" }), { ann: 2 });
await step("closeUserConnections", () => service.closeUserConnections("ben"), { ben: 2 });
await step("closeAllConnections", () => service.closeAllConnections({ reason: "all" }), { simple: 1 });
process.exit(0);
