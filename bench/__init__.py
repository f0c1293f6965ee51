"""Measurements of the running service against the obvious way to build it, on this machine, in one run.

It starts the servers as a user would, talks to them over sockets like any client and reports what the
server process spent; it is no test (it judges nothing but loss). Only `bench.filters` imports of the service, and
`bench.layer_ends` is told which channel layer to load. People run it, by `python -m bench` for everything or
`python -m bench.fanout` and its siblings for a part; nothing else calls it.
"""
