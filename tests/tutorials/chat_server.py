"""The web server of the chat tutorial: /negotiate gives a client URL, /eventhandler is told what clients do.

    python chat_server.py CONNECTION_STRING HUB [PORT]

Clients are WebSockets without a subprotocol: what they send is the event `message`, and everybody hears it.
"""

import hashlib
import hmac
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from azure.messaging.webpubsubservice import WebPubSubServiceClient

connection_string, hub = sys.argv[1:3]
service = WebPubSubServiceClient.from_connection_string(connection_string, hub=hub)
settings = dict(part.split("=", 1) for part in connection_string.split(";") if part)
service_host = urlsplit(settings["Endpoint"]).hostname


def is_signed(connection_id, signatures):
    """Whether the request comes from somebody who has our access key."""
    digest = hmac.new(settings["AccessKey"].encode(), connection_id.encode(), hashlib.sha256).hexdigest()
    return any(hmac.compare_digest(f"sha256={digest}", signature) for signature in signatures.split(","))


def say(sender, message):
    service.send_to_all({"from": sender, "message": message}, content_type="application/json")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        url = urlsplit(self.path)
        name = parse_qs(url.query).get("id", [""])[0]
        if url.path != "/negotiate" or not name:
            self.send_error(404 if url.path != "/negotiate" else 400)
            return
        self.answer(200, json.dumps({"url": service.get_client_access_token(user_id=name)["url"]}))

    def do_OPTIONS(self):
        # Events are taken from our own service, and from nobody else.
        asking = self.headers["WebHook-Request-Origin"]
        self.send_response(200 if asking == service_host else 400)
        if asking == service_host:
            self.send_header("WebHook-Allowed-Origin", service_host)
        self.end_headers()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not is_signed(self.headers["ce-connectionId"], self.headers["ce-signature"] or ""):
            self.answer(401)
            return
        user = self.headers["ce-userId"]
        event = self.headers["ce-type"]
        if event == "azure.webpubsub.sys.connect":
            # Whoever chats has a name.
            self.answer(204 if user else 401)
            return
        if event == "azure.webpubsub.sys.connected":
            say("SYSTEM", f"{user} joined")
        elif event == "azure.webpubsub.user.message":
            say(user, body.decode())
        elif event == "azure.webpubsub.sys.disconnected":
            say("SYSTEM", f"{user} left")
        self.answer(204)

    def answer(self, status, body=""):
        data = body.encode()
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format, *args):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("localhost", int(sys.argv[3]) if len(sys.argv) > 3 else 8080), Handler)
    print(f"http://localhost:{server.server_port}")
    server.serve_forever()
