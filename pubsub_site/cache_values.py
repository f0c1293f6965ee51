"""How values stand in Redis: as JSON, so that whoever can write there cannot have us run code, as pickles do."""

from __future__ import annotations

import json
from dataclasses import asdict, is_dataclass
from typing import Any


class JsonSerializer:
    """A serializer for Django's Redis cache. Raises TypeError for what JSON has no word for.

    Dataclasses come back as dictionaries, which templates read alike: the theme keeps what its search found.
    """

    def dumps(self, value: Any) -> Any:
        # Redis itself counts up numbers, so they stand there bare; so do they in JSON.
        return value if type(value) is int else json.dumps(value, separators=(",", ":"), default=_plain).encode()

    def loads(self, data: bytes) -> Any:
        return json.loads(data)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
