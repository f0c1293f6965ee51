// Topics on uWebSockets.js, in the way of its own PubSub example: what a member is sent is the payload and
// nothing else. `node uwebsockets.js PORT`.
const uWS = require("uwebsockets");

const port = Number(process.argv[2]);

const app = uWS.App().ws("/*", {
  compression: uWS.DISABLED,
  idleTimeout: 120,
  // Its default drops what exceeds 64 KiB for a connection, without a word; a server that loses messages has less to do.
  maxBackpressure: 16 * 1024 * 1024,
  maxPayloadLength: 64 * 1024,
  upgrade: (res, req, context) =>
    res.upgrade(
      { group: req.getQuery("group"), publishes: req.getQuery("publish") === "1" },
      ...["sec-websocket-key", "sec-websocket-protocol", "sec-websocket-extensions"].map((name) => req.getHeader(name)),
      context,
    ),
  open: (ws) => {
    const { group, publishes } = ws.getUserData();
    if (!publishes) ws.subscribe(group);
  },
  message: (ws, message, isBinary) => app.publish(ws.getUserData().group, message, isBinary),
});

app.listen("127.0.0.1", port, (listening) => {
  if (!listening) process.exit(1);
});
