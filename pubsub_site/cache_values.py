"""How values stand in Redis: as JSON, so that whoever can write there cannot have us run code, as pickles do."""

from __future__ import annotations

import json
from typing import Any


class JsonSerializer:
    """A serializer for Django's Redis cache. Raises TypeError for what JSON has no word for."""

    def dumps(self, value: Any) -> Any:
        # Redis itself counts up numbers, so they stand there bare; so do they in JSON.
        return value if type(value) is int else json.dumps(value, separators=(",", ":")).encode()

    def loads(self, data: bytes) -> Any:
        return json.loads(data)
