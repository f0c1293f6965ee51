"""What `manage.py` finds: one module per command, thin; the pieces are in `hubs/management/cli`."""
