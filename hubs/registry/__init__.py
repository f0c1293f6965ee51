"""Who is connected to this process, whom an audience means, and how all of them are written to at once.

It knows connections and sockets of this process alone: no layer, no log, no other process.
"""
