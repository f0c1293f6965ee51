"""A program on the official client SDK: does what it is told, line by line, and tells what came of it.

    python reliable_client.py CLIENT-URL

It speaks the SDK's default, the reliable JSON subprotocol. A line to it is a JSON array: an operation, its arguments
and its options, as in ["send", "desk", "text", "hello", {"no_echo": true}]. A line from it is one fact, as JSON: what
an operation gave, or what the client was told. Bytes are hex digits on both ways.
"""

import json
import logging
import sys
import threading

from azure.messaging.webpubsubclient import WebPubSubClient
from azure.messaging.webpubsubclient.models import SendMessageError
from sdk_facts import TOLD, command, content, failure

# To the SDK a line that breaks is worth a warning; here it is what the test is about.
logging.getLogger("azure").setLevel(logging.ERROR)
printing = threading.Lock()
endings = threading.Semaphore(0)

client = WebPubSubClient(
    sys.argv[1],
    message_retry_total=0,
    # The SDK begins to wait for an answer after it has asked, and one that was faster it finds at the end of this
    # time only.
    ack_timeout=5,
    start_timeout=5,
)


def say(fact):
    with printing:  # the SDK calls each callback in a thread of its own
        print(json.dumps(fact))
    if fact.get("told") in ("disconnected", "stopped"):
        endings.release()


def send(group, data_type, data, **options):
    client.send_to_group(group, content(data_type, data), data_type, **options)


def event(name, data_type, data, **options):
    client.send_event(name, content(data_type, data), data_type, **options)


OPERATIONS = {"join": client.join_group, "leave": client.leave_group, "send": send, "event": event}

for kind, told in TOLD.items():
    client.subscribe(kind, lambda *news, told=told: say(told(*news)))

client.open()
for line in iter(sys.stdin.readline, ""):
    operation, arguments, options = command(line)
    if operation == "stop":
        break
    try:
        OPERATIONS[operation](*arguments, **options)
    except SendMessageError as refused:
        say(failure(operation, refused))
    else:
        say({"did": operation})

while endings.acquire(blocking=False):
    pass
client.close()
for _ in ("disconnected", "stopped"):
    endings.acquire()
