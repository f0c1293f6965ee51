"""Measurements of the running service beside the servers one would otherwise use, on this machine, in one run.

It starts the servers as a user would, talks to them over sockets like any client and reports what the
server processes spent; it is no test (it judges nothing but loss). People run it, by `python -m bench` for
everything or `python -m bench.fanout` and its siblings for a part; nothing else calls it. Only `bench.filters`
imports of the service, and `bench.layer_ends` is told which channel layer to load.

What is measured: `fanout`, `scale` (with `spread`, `layers` and `layer_ends`), `connections`, `azure`, `slow`,
`rest`, `upstream`, `filters`; `flame` draws where the time goes. All of them, but for the last two, are a
`command.Bench`, which says how one begins and ends. `targets` holds what is asked of the figures.

What they measure with, each standing on those after it: a `crowd` of clients for traffic as fast as it goes, `timed`
messages for traffic at a pace, `servers` that run, `clients` that connect, the `contestants`, the `dialects` that they
speak, `wire` for the frames; and `machine` for cores, limits and processor time, `figures` for sums, tables and files.
"""
