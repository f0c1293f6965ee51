// A subscriber: joins a group and prints what arrives there.
//
//     node subscriber.js CLIENT-URL GROUP MESSAGES
//
// It leaves after so many messages.
import { WebSocket } from "ws";

const [url, group, messages] = process.argv.slice(2);
const socket = new WebSocket(url, "json.webpubsub.azure.v1");
let missing = Number(messages);

socket.on("open", () => socket.send(JSON.stringify({ type: "joinGroup", group, ackId: 1 })));
socket.on("message", (data) => {
  const frame = data.toString();
  console.log(frame);
  if (JSON.parse(frame).type === "message" && --missing === 0) {
    socket.close(1000);
  }
});
socket.on("close", (code) => console.log(JSON.stringify({ closed: code })));
