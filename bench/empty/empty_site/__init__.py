"""A Django project whose views do nothing: what a request costs before any work is done."""
