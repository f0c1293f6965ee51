// A publisher: sends JSON, text and bytes to a group, and prints how the service took each.
//
//     node publisher.js CLIENT-URL GROUP
//
// It exits with 1 when something was refused.
import { WebSocket } from "ws";

const [url, group] = process.argv.slice(2);
const waiting = [
  { dataType: "json", data: { price: 12.5, tags: ["a", "ü"], sold: null } },
  { dataType: "text", data: "Grüße ✓ 🎈" },
  { dataType: "binary", data: Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)).toString("base64") },
];
const socket = new WebSocket(url, "json.webpubsub.azure.v1");
let ackId = 0;

// One at a time: the next goes when the last one's ack, or the greeting, has come.
socket.on("message", (data) => {
  const frame = JSON.parse(data);
  console.log(data.toString());
  if (frame.type === "ack" && !frame.success) {
    process.exitCode = 1;
  }
  if (waiting.length > 0) {
    ackId += 1;
    socket.send(JSON.stringify({ type: "sendToGroup", group, ackId, ...waiting.shift() }));
  } else {
    socket.close(1000);
  }
});
