"""The conversation with one client, from handshake to goodbye.

It turns messages into operations and answers, and keeps what outlives a single socket; it opens no
sockets, and it fans nothing out itself. The consumer is its only caller.
"""
