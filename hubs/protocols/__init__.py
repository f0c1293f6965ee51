"""The subprotocols as pure translation: WebSocket messages to frames, frames to WebSocket messages.

No socket, loop or permission is known here; a codec is a value that can be fed with test vectors.
The conversation rooms above call it; a new subprotocol is one codec module and one row in `codec.CODECS`.
"""
