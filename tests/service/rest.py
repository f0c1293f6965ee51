"""REST calls as bare HTTP: for what an SDK would not send, or would hide."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from typing import Any, NamedTuple

import jwt

from tests.running import PATIENCE
from tests.service.client import Target


class Answer(NamedTuple):
    """What was answered."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        return self.headers["x-ms-error-code"]


def exchange(target: Target, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    """One request, its path sent as it stands, signed for its own URL."""
    token = jwt.encode({"aud": f"{target.endpoint}{path}", "exp": int(time.time()) + 60}, target.key, "HS256")
    connection = http.client.HTTPConnection(target.host, timeout=PATIENCE)
    try:
        connection.request(method, path, body, {"Authorization": f"Bearer {token}"} | headers)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


async def call(target: Target, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    """As `exchange`, while sockets go on."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return await asyncio.to_thread(exchange, target, method, path, body, **headers)
