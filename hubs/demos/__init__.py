"""Pages that show the service at work: chat rooms, a log stream, the front page.

They are customers: the pages know what any web page knows, negotiate and a WebSocket. What runs in
the service's process, the moderator, knows what any Django app may: `hubs.upstream`, to handle events,
and `hubs.service`, to send.
"""
