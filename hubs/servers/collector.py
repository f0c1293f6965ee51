"""Python's garbage collector, told what kind of process this is.

By default it looks at the youngest objects for every 700 that were made and not freed, and sooner or
later at everything. What a server makes and keeps is connections, and these hold no garbage: all
that goes in circles is taken apart when a connection ends. So looking often only costs, and looking
at everything stops all clients for a while; with ten thousand connections for tens of milliseconds.

What is there when the server has started, most of Django that is, stays for good and is not looked
at again. The rest is looked at rarely, but it is: applications' event handlers run here, too.
"""

from __future__ import annotations

import gc

# Objects made and not freed before the youngest are looked at, and after how many of these times the older ones are.
YOUNG_OBJECTS = 50_000
TIMES = (20, 100)


def settle() -> None:
    """The server has started: leave what there is alone, and look rarely at what comes."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *TIMES)
