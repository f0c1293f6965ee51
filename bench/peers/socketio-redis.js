// The rooms of socketio.js in one of several processes, which hear of each other's messages by way of Redis: the
// adapter and the set-up of Socket.IO's own documentation. `node socketio-redis.js PORT REDIS_URL`.
const { createClient } = require("@redis/client");
const { createAdapter } = require("@socket.io/redis-adapter");
const rooms = require("./rooms.js");

async function start(port, url) {
  const publishing = createClient({ url });
  const subscribed = publishing.duplicate();
  await Promise.all([publishing.connect(), subscribed.connect()]);
  rooms.listen(Number(port), { adapter: createAdapter(publishing, subscribed) });
}

start(...process.argv.slice(2)).catch((problem) => {
  console.error(problem);
  process.exit(1);
});
