// The publisher of the log streaming tutorial: every line that is typed goes to the group `stream`.
//
//     node stream.js [ADDRESS OF THE WEB SERVER]
import { createInterface } from "node:readline";

import { WebSocket } from "ws";

const address = process.argv[2] ?? "http://localhost:8080";
const { url } = await (await fetch(`${address}/negotiate`)).json();
const socket = new WebSocket(url, "json.webpubsub.azure.v1");

socket.on("message", (data) => {
  const message = JSON.parse(data);
  if (message.type === "system") {
    console.log(message.event);
  } else if (message.type === "ack") {
    console.log(message.success ? "sent" : `not sent: ${JSON.stringify(message.error)}`);
  }
});

socket.on("open", () => {
  let ackId = 0;
  const typed = createInterface({ input: process.stdin });
  typed.on("line", (line) => {
    ackId += 1;
    socket.send(JSON.stringify({ type: "sendToGroup", group: "stream", dataType: "text", data: `${line}\n`, ackId }));
  });
  typed.on("close", () => socket.close());
});
