"""The management API: what staff does on the admin's pages, for programs, with the names of Azure's resources.

It reads requests, decides who may ask (staff accounts with Django's own permissions), and calls
one verb of `hubs.administration`; messages and connections are the data plane's and not its own.
The project's URL table is its only caller, through `hubs.urls`; its errors look like the data
plane's, because they are written by the same hand in `hubs.rest`.
"""
