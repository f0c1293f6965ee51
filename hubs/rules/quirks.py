"""Official clients that need something from the service that the protocol does not ask for.

They cannot be changed by those who use them, so the service makes allowance. A row goes when nobody
uses the versions it is about.
"""

import re

# Some client libraries send a frame first and only then begin to wait for its ack. An ack that is
# faster than that wakes nobody, and the call hangs for its whole time limit (30 s by default) before
# it notices that the ack is there. Over a network this is rare; on the same machine every seventh
# join of the Python client hung. A pause of 1 ms cured it where it was measured; 5 ms is for busier machines.
ACK_PAUSE_SECS = 0.005

_MISSES_FAST_ACKS = re.compile(
    r"azsdk-(?:python-webpubsub-client|java-azure-messaging-webpubsub-client)/", re.IGNORECASE
)


def ack_pause_secs(user_agent: str) -> float:
    """How long acks to a client that calls itself `user_agent` are held back."""
    return ACK_PAUSE_SECS if _MISSES_FAST_ACKS.search(user_agent) else 0
