// Rooms on Socket.IO, as its documentation teaches them.
const { createServer } = require("node:http");
const { Server } = require("socket.io");

exports.listen = (port, options) => {
  const io = new Server({
    transports: ["websocket"],
    serveClient: false,
    // No heartbeat falls into a measurement. (Compression is off by default.)
    pingInterval: 10 * 60 * 1000,
    ...options,
  });

  io.on("connection", (socket) => {
    socket.on("join", (room, joined) => {
      socket.join(room);
      joined();
    });
    socket.on("publish", (room, text) => io.to(room).emit("message", text));
  });

  const server = createServer();
  io.attach(server);
  server.listen(port, "127.0.0.1");
};
