"""Group messaging as the Channels documentation teaches it, for comparison.

One consumer, a layer channel per connection, `group_add` and `group_send`. It is honest and plain:
nothing is left out that a reader of the tutorial would write, nothing is added that would slow it
down (no tokens, no sessions, no log of accesses). The bench starts it; nothing imports it.
"""
