"""The two ASGI servers as this service needs them: uvicorn for production, daphne for development.

It holds what the servers lack or have to be told, and nothing about hubs. The commands `serve` and
`runserver` are its only callers.
"""
