"""Measurements of the running service against the obvious way to build it, on this machine, in one run.

It starts the servers as a user would, talks to them over sockets like any client and reports what the
server process spent; it is no test (it judges nothing but loss), and only `bench.filters` imports of the
service. People run it, by `python -m bench.fanout`, `bench.rest` or `bench.filters`; nothing else calls it.
"""
