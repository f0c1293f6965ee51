"""Pages that show the service at work: a chat room, a log stream, the front page.

They are customers: what they know of the service is what any web page knows, negotiate and a
WebSocket, and they import nothing of it. Only the URL table calls them.
"""
