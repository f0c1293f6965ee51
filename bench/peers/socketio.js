// Rooms on Socket.IO in one process, with its default adapter. `node socketio.js PORT`.
require("./rooms.js").listen(Number(process.argv[2]));
