"""The pieces of the command line: one module per branch, the console client, what is printed.

They hold no rule of the service: names, roles and tokens are judged in the rooms below. Commands in
`hubs/management/commands` call them, and nobody else does.
"""
