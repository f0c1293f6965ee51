"""`manage.py bootstrap`: make an empty installation usable, and say how to use it."""

from __future__ import annotations

import os
from typing import Any

from django.core.management.base import BaseCommand

from hubs import conf
from hubs.management.cli import first_setup
from hubs.management.cli.trouble import explained
from hubs.rules import tokens

PAGES = (
    ("/", "start page"),
    ("/demos/chat/", "chat room"),
    ("/demos/logstream/", "log stream"),
    ("/demos/moderated/", "moderated chat"),
    ("/admin/", "hubs, keys, role grants, client URLs"),
)

SDK_INSTALL = "python3 -m venv sdk && sdk/bin/pip install azure-messaging-webpubsubservice websockets"

# Tried word for word by the tests: what is printed is what is run.
SDK_SNIPPET = """\
import json
from azure.messaging.webpubsubservice import WebPubSubServiceClient
from websockets.sync.client import connect

service = WebPubSubServiceClient.from_connection_string("{connection_string}", hub="{hub}")
roles = ["webpubsub.joinLeaveGroup", "webpubsub.sendToGroup"]
url = service.get_client_access_token(user_id="me", roles=roles)["url"]
with connect(url, subprotocols=["json.webpubsub.azure.v1"]) as ws:
    ws.send(json.dumps({{"type": "joinGroup", "group": "hello", "ackId": 1}}))
    ws.send(json.dumps({{"type": "sendToGroup", "group": "hello", "data": "It works!", "ackId": 2}}))
    for _ in range(4):  # connected, ack 1, the message itself, ack 2
        print(ws.recv())
"""


class Command(BaseCommand):
    help = (
        "Make an empty installation usable: access keys, the hubs of the demos, an administrator. Run it again at any "
        "time: nothing is lost or doubled. ADMIN_USERNAME and ADMIN_PASSWORD in the environment choose the "
        "administrator (else: admin, with a password shown once)."
    )
    requires_system_checks = ["hubs"]

    def handle(self, *args: Any, **options: Any) -> None:
        username = os.environ.get("ADMIN_USERNAME", "").strip() or "admin"
        with explained():
            done = first_setup.set_up(username, os.environ.get("ADMIN_PASSWORD", ""))
        endpoint = conf.settings.PUBLIC_ENDPOINTS[0].rstrip("/")
        connection_string = tokens.connection_string(endpoint, done.primary_key)
        width = max(len(path) for path, _ in PAGES) + len(endpoint) + 2
        heading = self.style.MIGRATE_HEADING
        lines = [
            "Hubwire is set up." if done.first else "Hubwire was set up before; nothing is lost or doubled.",
            "",
            heading("Connection string (it opens every hub: keep it to yourself)"),
            connection_string,
            "",
            heading("Pages"),
            *(f"  {endpoint + path:<{width}}{what}" for path, what in PAGES),
            "",
        ]
        if done.administrator and done.administrator.created:
            lines += [heading("Administrator"), *_about(done.administrator), ""]
        lines += [
            heading("A first message, with the official Python SDK, in a second terminal"),
            SDK_INSTALL,
            "",
            "# Save as first.py, then: sdk/bin/python first.py",
            SDK_SNIPPET.format(connection_string=connection_string, hub=first_setup.CHAT_HUB),
        ]
        self.stdout.write("\n".join(lines))
        if done.administrator and done.administrator.warning:
            self.stderr.write(f"Warning: {done.administrator.warning}")


def _about(admin: first_setup.Administrator) -> list[str]:
    password = f"{admin.password} (shown this once)" if admin.password else "as ADMIN_PASSWORD says"
    return [
        f"  user name  {admin.username}",
        f"  password   {password}",
        f"  change it  manage.py changepassword {admin.username}",
    ]
