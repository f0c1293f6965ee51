"""Metadata that travels with a message: a flat map of short texts.

The bounds let every entry become an HTTP header of an event handler's request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

MAX_KEY_BYTES = 256
MAX_VALUE_BYTES = 1024
MAX_TOTAL_BYTES = 8 * 1024

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+")


def is_metadata(pairs: Iterable[tuple[str, Any]]) -> bool:
    """Tell whether key-value pairs are metadata: HTTP tokens to ASCII texts, no key twice, within the bounds."""
    seen: set[str] = set()
    total = 0
    for key, value in pairs:
        if key in seen or len(key) > MAX_KEY_BYTES or not _TOKEN.fullmatch(key):
            return False
        if not isinstance(value, str) or not value.isascii() or len(value) > MAX_VALUE_BYTES:
            return False
        seen.add(key)
        total += len(key) + len(value)
    return total <= MAX_TOTAL_BYTES
