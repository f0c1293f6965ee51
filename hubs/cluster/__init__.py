"""How the processes of the service meet: the ordered log, who lives, calls between processes, and records in Redis.

It knows entries and processes, and nothing of connections, sockets or permissions.
"""
