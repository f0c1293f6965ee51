"""A program on the official client SDK: does what it can with the plain JSON subprotocol, and tells of it.

    python client.py CLIENT-URL GROUP

The URL's roles are for GROUP alone. Each line it prints is one fact, as JSON: what an operation gave, or what
the client was told. When it has printed {"waiting": true}, it waits to be disconnected by the service.
"""

import json
import logging
import queue
import sys
import threading

from azure.messaging.webpubsubclient import WebPubSubClient
from azure.messaging.webpubsubclient.models import (
    CallbackType,
    SendMessageError,
    WebPubSubDataType,
    WebPubSubProtocolType,
)

url, group = sys.argv[1:]
logging.getLogger("azure").setLevel(logging.ERROR)
printing = threading.Lock()
connections = queue.Queue()
heard_again = threading.Event()
stopped = threading.Event()

client = WebPubSubClient(
    url,
    protocol_type=WebPubSubProtocolType.JSON,
    # What is refused is refused the second time, too.
    message_retry_total=1,
    message_retry_backoff_factor=0.05,
    # The SDK begins to wait for an ack after it has sent, and an ack that was faster it finds at the end of this
    # time only. Longer than the test has patience: that must not happen once.
    ack_timeout=600,
)


def say(fact):
    with printing:  # the SDK calls each callback in a thread of its own
        print(json.dumps(fact))


def on_connected(news):
    say({"told": "connected", "connectionId": news.connection_id, "userId": news.user_id})
    connections.put(news.connection_id)


def on_disconnected(news):
    say({"told": "disconnected", "connectionId": news.connection_id, "message": news.message})


def on_group_message(news):
    data = {"bytes": news.data.hex()} if isinstance(news.data, memoryview) else news.data
    say(
        {
            "told": "message",
            "group": news.group,
            "fromUserId": news.from_user_id,
            "dataType": news.data_type,
            "data": data,
        }
    )
    if data == "back again":
        heard_again.set()


def attempt(name, operation, *arguments, **options):
    try:
        operation(*arguments, **options)
    except SendMessageError as refused:
        detail = refused.error_detail
        say({"failed": name, "error": {"name": detail.name, "message": detail.message}})
    else:
        say({"did": name})


client.subscribe(CallbackType.CONNECTED, on_connected)
client.subscribe(CallbackType.DISCONNECTED, on_disconnected)
client.subscribe(CallbackType.GROUP_MESSAGE, on_group_message)
client.subscribe(CallbackType.STOPPED, stopped.set)

TEXT = WebPubSubDataType.TEXT
DATA = memoryview(bytes([0, 1, 127, 128, 255]))

client.open()
connections.get()
for _ in range(200):
    client.join_group(group)
attempt("join", client.join_group, group, ack_id=1000)
attempt("again", client.send_to_group, group, "never sent", TEXT, ack_id=1000)
attempt("json", client.send_to_group, group, {"price": 12.5, "tags": ["ü"]}, WebPubSubDataType.JSON)
attempt("text", client.send_to_group, group, "Grüße ✓", TEXT)
attempt("binary", client.send_to_group, group, DATA, WebPubSubDataType.BINARY)
attempt("protobuf", client.send_to_group, group, DATA, WebPubSubDataType.PROTOBUF)
attempt("no echo", client.send_to_group, group, "not for myself", TEXT, no_echo=True)
attempt("no ack", client.send_to_group, group, "unacknowledged", TEXT, ack=False)
attempt("leave", client.leave_group, group)
attempt("outside", client.send_to_group, group, "from outside", TEXT)
attempt("return", client.join_group, group)
attempt("event", client.send_event, "news", {"any": "thing"}, WebPubSubDataType.JSON)
attempt("elsewhere", client.join_group, "elsewhere")
attempt("send elsewhere", client.send_to_group, "elsewhere", "text", TEXT)
say({"waiting": True})

# The service disconnects it; it comes back and joins its groups again by itself, in its own time.
connections.get()
while not heard_again.wait(0.05):
    client.send_to_group(group, "back again", TEXT, ack=False)

client.close()
stopped.wait()
say({"told": "stopped"})
