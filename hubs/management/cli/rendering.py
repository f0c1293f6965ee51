"""What arrives at the console client, put into a line that people can read.

Frames come from others, so nothing is taken for granted: whatever is not what the protocol promises
is shown as it came, control characters are shown by their escapes, and long texts are cut.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from hubs.management.cli.output import printable

MAX_SHOWN_CHARACTERS = 4000


def line_for(text: str) -> str:
    """Put one text message of the JSON subprotocol into a line. Acks are the caller's, who knows what was asked."""
    frame = frame_of(text)
    if frame is None:
        return _shown(text)
    match frame:
        case {"type": "message", "from": "group", "group": str(group)}:
            sender = frame.get("fromUserId")
            return f"[{_shown(group)}] {_shown(sender) if isinstance(sender, str) else 'somebody'}: {_data(frame)}"
        case {"type": "message", "from": "server"}:
            return f"[server] {_data(frame)}"
        case {"type": "system", "event": "connected"}:
            user = frame.get("userId")
            who = f"as {_shown(user)}" if isinstance(user, str) and user else "without a user id"
            return f"Connected {who}; the connection is {_shown(str(frame.get('connectionId')))}."
        case {"type": "system", "event": "disconnected"}:
            return f"The service ends the connection: {_shown(str(frame.get('message') or 'no reason given'))}"
        case {"type": "pong"}:
            return "pong"
    return _shown(text)


def frame_of(text: str) -> Mapping[str, Any] | None:
    """Give the JSON object in a text message; None when there is none."""
    try:
        frame = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return frame if isinstance(frame, dict) else None


def binary_line(data: bytes) -> str:
    """Put a binary message into a line."""
    return f"({len(data):,} bytes) {_shown(base64.b64encode(data).decode())}"


def as_json(message: str | bytes) -> str:
    """Give a message as one line of JSON, for programs."""
    if isinstance(message, bytes):
        return json.dumps({"type": "binary", "data": base64.b64encode(message).decode()})
    try:
        value = json.loads(message)
    except (ValueError, RecursionError):
        value = message
    # ASCII only: no character of a stranger's text can be taken for a line break or an escape sequence.
    return json.dumps(value, separators=(",", ":"))


def _data(frame: Mapping[str, Any]) -> str:
    data = frame.get("data")
    if frame.get("dataType") in ("binary", "protobuf") and isinstance(data, str):
        try:
            size = len(base64.b64decode(data, validate=True))
        except binascii.Error:
            return _shown(data)
        return f"({size:,} bytes) {_shown(data)}"
    return _shown(data if isinstance(data, str) else json.dumps(data, ensure_ascii=False))


def _shown(text: str) -> str:
    if len(text) > MAX_SHOWN_CHARACTERS:
        return f"{printable(text[:MAX_SHOWN_CHARACTERS])}… ({len(text) - MAX_SHOWN_CHARACTERS:,} more characters)"
    return printable(text)
