"""The application's part in the conversation: event handlers, and how they are called.

`handlers` is what an application writes against, `dispatch` chooses and calls; neither knows
sockets or connections. Connections call the dispatch, applications import the names below.
"""

from hubs.upstream.events import ConnectAnswer, ConnectRequest, EventContext, Rejected, Reply, UserEventRequest
from hubs.upstream.handlers import hub

__all__ = ["ConnectAnswer", "ConnectRequest", "EventContext", "Rejected", "Reply", "UserEventRequest", "hub"]
