"""Who is connected here and how processes reach each other: addresses, fan-out, questions.

It delivers and asks; it decides nothing about permissions, payloads or sockets. Operations call it,
connections are its members, and it uses nothing but the channel layer below it.
"""
