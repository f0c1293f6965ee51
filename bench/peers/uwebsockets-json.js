// The same server as uwebsockets.js, but with Hubwire's JSON frames: as many bytes travel, and a message is parsed
// and written once. `node uwebsockets-json.js PORT`.
const uWS = require("uwebsockets");

const port = Number(process.argv[2]);

const app = uWS.App().ws("/*", {
  compression: uWS.DISABLED,
  idleTimeout: 120,
  maxBackpressure: 16 * 1024 * 1024,
  maxPayloadLength: 64 * 1024,
  upgrade: (res, req, context) =>
    res.upgrade(
      { user: req.getQuery("user") },
      ...["sec-websocket-key", "sec-websocket-protocol", "sec-websocket-extensions"].map((name) => req.getHeader(name)),
      context,
    ),
  message: (ws, message) => {
    const { type, group, dataType, data, ackId } = JSON.parse(Buffer.from(message));
    if (type === "joinGroup") {
      ws.subscribe(group);
    } else if (type === "sendToGroup") {
      const fromUserId = ws.getUserData().user;
      app.publish(group, JSON.stringify({ type: "message", from: "group", group, fromUserId, dataType, data }));
    }
    if (ackId !== undefined) ws.send(JSON.stringify({ type: "ack", ackId, success: true }));
  },
});

app.listen("127.0.0.1", port, (listening) => {
  if (!listening) process.exit(1);
});
