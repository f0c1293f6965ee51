"""A subscriber: joins a group and prints what arrives there.

    python subscriber.py CLIENT-URL GROUP MESSAGES

It leaves after so many messages.
"""

import asyncio
import json
import sys

import websockets


async def subscribe(url, group, messages):
    async with websockets.connect(url, subprotocols=["json.webpubsub.azure.v1"]) as socket:
        await socket.send(json.dumps({"type": "joinGroup", "group": group, "ackId": 1}))
        while messages:
            frame = await socket.recv()
            print(frame)
            messages -= json.loads(frame)["type"] == "message"
    print(json.dumps({"closed": socket.close_code}))


asyncio.run(subscribe(sys.argv[1], sys.argv[2], int(sys.argv[3])))
