"""The web server of the log streaming tutorial: the page, and /negotiate, which lets the page in.

python server.py CONNECTION_STRING [PORT]
"""

import json
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from azure.messaging.webpubsubservice import WebPubSubServiceClient

service = WebPubSubServiceClient.from_connection_string(sys.argv[1], hub="stream")


class Handler(SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/":
            self.path = "/public/index.html"
            super().do_GET()
        elif self.path == "/negotiate":
            token = service.get_client_access_token(
                roles=["webpubsub.sendToGroup.stream", "webpubsub.joinLeaveGroup.stream"]
            )
            body = json.dumps({"url": token["url"]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        else:
            self.send_error(404)

    def log_message(self, format, *args):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("localhost", int(sys.argv[2]) if len(sys.argv) > 2 else 8080), Handler)
    print(f"http://localhost:{server.server_port}")
    server.serve_forever()
