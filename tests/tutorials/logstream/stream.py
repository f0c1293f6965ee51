"""The publisher of the log streaming tutorial: every line that is typed goes to the group `stream`.

python stream.py [ADDRESS OF THE WEB SERVER]
"""

import asyncio
import json
import sys
from urllib.request import urlopen

import websockets


async def publish(url):
    async with websockets.connect(url, subprotocols=["json.webpubsub.azure.v1"]) as socket:
        print(json.loads(await socket.recv())["event"])
        ack_id = 0
        while line := await asyncio.to_thread(sys.stdin.readline):
            ack_id += 1
            message = {"type": "sendToGroup", "group": "stream", "dataType": "text", "data": line, "ackId": ack_id}
            await socket.send(json.dumps(message))
            ack = json.loads(await socket.recv())
            print("sent" if ack == {"type": "ack", "ackId": ack_id, "success": True} else f"not sent: {ack}")


address = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8080"
with urlopen(f"{address}/negotiate") as answer:
    asyncio.run(publish(json.load(answer)["url"]))
