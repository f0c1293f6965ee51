"""The service's rules as plain functions and values: names, tokens, roles, duplicate memory.

Nothing here knows Django, Channels, sockets or the time; what a rule needs comes in as arguments,
so each can be tested with rows. Every room above may call it, and it calls none of them.
"""
