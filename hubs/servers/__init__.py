"""The two ASGI servers as this service needs them: uvicorn for production, daphne for development.

It holds what the servers lack or have to be told, and nothing about hubs: a WebSocket that does
without ASGI's messages (`direct.py`), workers, who keeps them, and how they come and go (`workers.py`,
`supervising.py`, `stopping.py`).
The commands `serve` and `runserver` are its only callers. What both servers have to do alike is said
once: how a conversation ends in `endings.py`, how a message becomes frames in `hubs.protocols`.

Any other ASGI server, or uvicorn without these classes, serves the same application with less:

- A message goes out as one frame, whatever its size. Java clients take 64 KiB at most.
- What the client does wrong is answered with the server's own words, if with any.
- Where a server cannot tell a lost connection from a close without a code (uvicorn reports 1005 for
  both), or gives no code at all, a reliable client that was cut off may count as one that took leave.
- Where a server closes with another code than 1001 when it stops, clients do the same as for 1001;
  where it only hangs up, they see 1006 and do the same again.
- Where a server has no `websocket.http.response`, every refused handshake is a 403.
"""
