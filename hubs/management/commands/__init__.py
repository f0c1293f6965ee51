"""What `manage.py` finds: one thin module per command.

Each reads its options and calls what does the work: the pieces of the command line in
`hubs/management/cli`, the servers in `hubs/servers`. Django alone imports these modules, by name.
"""
