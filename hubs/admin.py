"""Django admin: hubs, keys, role grants."""
