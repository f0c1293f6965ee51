// The web server of the log streaming tutorial: the page, and /negotiate, which lets the page in.
//
//     node server.js CONNECTION_STRING [PORT]
//
// Run in the folder that has public/ in it.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";

import { WebPubSubServiceClient } from "@azure/web-pubsub";

const service = new WebPubSubServiceClient(process.argv[2], "stream");

const server = createServer(async (request, response) => {
  if (request.url === "/") {
    response.setHeader("Content-Type", "text/html; charset=utf-8");
    response.end(await readFile("public/index.html"));
  } else if (request.url === "/negotiate") {
    const token = await service.getClientAccessToken({
      roles: ["webpubsub.sendToGroup.stream", "webpubsub.joinLeaveGroup.stream"],
    });
    response.setHeader("Content-Type", "application/json");
    response.end(JSON.stringify({ url: token.url }));
  } else {
    response.statusCode = 404;
    response.end();
  }
});

server.listen(Number(process.argv[3] ?? 8080), "localhost", () => {
  console.log(`http://localhost:${server.address().port}`);
});
