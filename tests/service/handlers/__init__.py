"""A Django app with event handlers, as an application would write them; the tests' servers load it."""
