"""What reliable_client.py does, on the SDK's client for asyncio.

python reliable_client_aio.py CLIENT-URL
"""

import asyncio
import json
import logging
import sys

from azure.messaging.webpubsubclient.aio import WebPubSubClient
from azure.messaging.webpubsubclient.models import SendMessageError
from sdk_facts import TOLD, command, content, failure

logging.getLogger("azure").setLevel(logging.ERROR)


def say(fact):
    print(json.dumps(fact))


async def main(url):
    client = WebPubSubClient(url, message_retry_total=0)
    stopped = asyncio.Event()

    def teller(told):
        async def tell(*news):
            fact = told(*news)
            say(fact)
            if fact["told"] == "stopped":
                stopped.set()

        return tell

    async def send(group, data_type, data, **options):
        await client.send_to_group(group, content(data_type, data), data_type, **options)

    async def event(name, data_type, data, **options):
        await client.send_event(name, content(data_type, data), data_type, **options)

    operations = {"join": client.join_group, "leave": client.leave_group, "send": send, "event": event}

    for kind, told in TOLD.items():
        await client.subscribe(kind, teller(told))

    await client.open()
    while line := await asyncio.to_thread(sys.stdin.readline):
        operation, arguments, options = command(line)
        if operation == "stop":
            break
        try:
            await operations[operation](*arguments, **options)
        except SendMessageError as refused:
            say(failure(operation, refused))
        else:
            say({"did": operation})

    await client.close()
    await stopped.wait()


asyncio.run(main(sys.argv[1]))
