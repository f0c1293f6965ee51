"""`manage.py bootstrap`: make an empty installation usable, and say how to use it."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management.base import BaseCommand

from hubs import addresses, conf
from hubs.management.cli import first_setup
from hubs.management.cli.errors import explained
from hubs.rules import tokens

PAGES = (
    ("/", "start page"),
    ("/demos/chat/", "chat room"),
    ("/demos/logstream/", "log stream"),
    ("/demos/moderated/", "moderated chat"),
    ("/admin/", "hubs, keys, role grants, client URLs"),
)

# In the place of a key.
MASK = "********"

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
        "administrator (else: admin, with a password shown once). Where others can reach the service (an "
        "endpoint or HOST is not loopback) and the output does not go to a terminal, the key is masked, and the "
        "administrator gets no password until you set one."
    )
    requires_system_checks = ["hubs"]

    def handle(self, *args: Any, **options: Any) -> None:
        endpoint = conf.settings.PUBLIC_ENDPOINTS[0]
        tells = self._tells_secrets()
        username = os.environ.get("ADMIN_USERNAME", "").strip() or "admin"
        with explained():
            done = first_setup.set_up(username, os.environ.get("ADMIN_PASSWORD", ""), may_make_up=tells)
        heading = self.style.MIGRATE_HEADING
        width = max(len(path) for path, _ in PAGES) + len(endpoint) + 2
        lines = [
            "Hubwire is set up." if done.first else "Hubwire was set up before; nothing is lost or doubled.",
            "",
            heading("Connection string (it opens every hub: keep it to yourself)"),
            tokens.connection_string(endpoint, done.primary_key if tells else MASK),
            *([] if tells else ["  shown by  manage.py webpubsub key show"]),
            "",
            heading("Pages"),
            *(f"  {endpoint + path:<{width}}{what}" for path, what in PAGES),
            "",
        ]
        if done.administrator and done.administrator.created:
            lines += [heading("Administrator"), *_about(done.administrator), ""]
        if tells:
            lines += [
                heading("A first message, with the official Python SDK, in a second terminal"),
                SDK_INSTALL,
                "",
                "# Save as first.py, then: sdk/bin/python first.py",
                SDK_SNIPPET.format(
                    connection_string=tokens.connection_string(endpoint, done.primary_key), hub=first_setup.CHAT_HUB
                ),
            ]
        self.stdout.write("\n".join(lines))
        if done.administrator and done.administrator.warning:
            self.stderr.write(f"Warning: {done.administrator.warning}")

    def _tells_secrets(self) -> bool:
        """Logs are kept and read by others, to whom a secret is of no use if only this machine reaches the service."""
        hosts = {urlsplit(endpoint).hostname for endpoint in conf.settings.PUBLIC_ENDPOINTS}
        # A project with settings of its own may have no HOST.
        hosts.add(getattr(settings, "HOST", "localhost"))
        return hosts <= addresses.LOOPBACK_NAMES or self.stdout.isatty()


def _about(admin: first_setup.Administrator) -> list[str]:
    change = f"manage.py changepassword {admin.username}"
    if not admin.can_sign_in:
        return [f"  user name  {admin.username}", f"  password   none yet; set one: {change}"]
    password = f"{admin.password} (shown this once)" if admin.password else "as ADMIN_PASSWORD says"
    return [f"  user name  {admin.username}", f"  password   {password}", f"  change it  {change}"]
