// An application on the official middleware for Express: takes part in the conversations of one hub.
//
//     node express.js HUB [ALLOWED_ENDPOINT...]
//
// One JSON object a line: {"listening": port}, then {"told": event, ...what the middleware said of it}.
import { WebPubSubEventHandler } from "@azure/web-pubsub-express";
import express from "express";

const [hub, ...allowedEndpoints] = process.argv.slice(2);

const print = (fact) => console.log(JSON.stringify(fact));

function told(event, { context, ...more }) {
  const { connectionId, userId, eventName, origin, states, clientProtocol } = context;
  const data = Buffer.isBuffer(more.data) ? { bytes: more.data.toString("hex") } : more.data;
  print({ told: event, ...more, data, hub: context.hub, connectionId, userId, eventName, origin, states, clientProtocol });
}

const handler = new WebPubSubEventHandler(hub, {
  handleConnect(request, response) {
    told("connect", request);
    const wish = Object.fromEntries(Object.entries(request.queries).map(([name, values]) => [name, values.at(-1)]));
    if (wish.status) {
      response.fail(Number(wish.status), "not today");
      return;
    }
    if (wish.state) {
      response.setState("said", wish.state);
    }
    response.success(wish.answer ? JSON.parse(wish.answer) : undefined);
  },
  handleUserEvent(request, response) {
    told("user event", request);
    const { context, data, dataType } = request;
    switch (context.eventName) {
      case "count":
        response.setState("count", (context.states.count ?? 0) + 1);
        response.success();
        break;
      case "states":
        response.success(JSON.stringify(context.states), "json");
        break;
      case "fail":
        response.fail(400, "not that");
        break;
      default:
        response.success(dataType === "json" ? JSON.stringify(data) : data, dataType);
    }
  },
  onConnected: (request) => told("connected", request),
  onDisconnected: (request) => told("disconnected", request),
  ...(allowedEndpoints.length > 0 ? { allowedEndpoints } : {}),
});

const app = express();
app.use(handler.getMiddleware());
const server = app.listen(0, "localhost", () => print({ listening: server.address().port, path: handler.path }));
