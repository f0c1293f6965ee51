"""The service's HTTP door, on Django REST framework: negotiate, and the data plane that servers call.

It reads requests, decides who may ask, and calls one verb of `hubs.operations` or
`hubs.client_urls`; it holds no connections and does no work of theirs. The project's URL table is
its only caller, through `hubs.urls`.
"""
