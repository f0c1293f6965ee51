"""A publisher: sends JSON, text and bytes to a group, and prints how the service took each.

    python publisher.py CLIENT-URL GROUP

It exits with 1 when something was refused.
"""

import asyncio
import base64
import json
import sys

import websockets

MESSAGES = [
    {"dataType": "json", "data": {"price": 12.5, "tags": ["a", "ü"], "sold": None}},
    {"dataType": "text", "data": "Grüße ✓ 🎈"},
    {"dataType": "binary", "data": base64.b64encode(bytes(range(256))).decode()},
]


async def publish(url, group):
    good = True
    async with websockets.connect(url, subprotocols=["json.webpubsub.azure.v1"]) as socket:
        print(await socket.recv())
        for ack_id, message in enumerate(MESSAGES, start=1):
            await socket.send(json.dumps({"type": "sendToGroup", "group": group, "ackId": ack_id} | message))
            ack = await socket.recv()
            print(ack)
            good &= json.loads(ack)["success"]
    return good


sys.exit(0 if asyncio.run(publish(sys.argv[1], sys.argv[2])) else 1)
