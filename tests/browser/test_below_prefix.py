"""The service below a path prefix of a host that has other things too, behind nginx; and pages of other origins.

nginx has the example configuration, with `location /rt/` for `location /`.
"""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from azure.messaging.webpubsubservice import WebPubSubServiceClient
from playwright.sync_api import Browser, Page, expect
from websockets.sync.client import connect

from tests.running import PATIENCE, Service, free_port
from tests.test_deploy import NGINX, Nginx

PREFIX = "/rt"
PASSWORD = "below a prefix"


class BelowPrefix(Nginx):
    """nginx that has the service below the prefix, and nothing beside it."""

    def __init__(self, folder: Any, service: Service) -> None:
        super().__init__(folder, service, service)
        text = self._configuration.read_text()
        assert text.count("location / {") == 1
        self._configuration.write_text(text.replace("location / {", f"location {PREFIX}/ {{"))


class Elsewhere(BaseHTTPRequestHandler):
    """A page of another origin. What it does is up to the test."""

    def do_GET(self) -> None:
        page = b"<!doctype html><title>Elsewhere</title><link rel=icon href=data:,>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *line: Any) -> None:
        """Say nothing."""


class Running(NamedTuple):
    """What runs: the service as its clients know it, and two origins beside it, of which the first is allowed."""

    service: Service
    endpoint: str
    allowed: str
    stranger: str


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    assert NGINX, "This test needs nginx: apt-get install nginx-light"
    folder = tmp_path_factory.mktemp("prefix")
    others = [ThreadingHTTPServer(("127.0.0.1", free_port()), Elsewhere) for _ in range(2)]
    allowed, stranger = (f"http://localhost:{other.server_port}" for other in others)
    service = Service(
        folder,
        env={
            "TRUST_FORWARDED_HEADERS": "true",
            "NUM_PROXIES": "1",
            "ADMIN_PASSWORD": PASSWORD,
            "NEGOTIATE_ORIGINS": allowed,
            "REST_ORIGINS": allowed,
        },
    )
    nginx = BelowPrefix(folder, service)
    endpoint = service.env["PUBLIC_ENDPOINT"] = f"http://localhost:{nginx.port}{PREFIX}"
    service.set_up()
    for other in others:
        threading.Thread(target=other.serve_forever, daemon=True).start()
    try:
        service.start()
        nginx.check()
        nginx.start()
        yield Running(service, endpoint, allowed, stranger)
    finally:
        service.stop()
        if hasattr(nginx, "process"):
            nginx.stop()
        for other in others:
            other.shutdown()
            other.server_close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    context.set_default_timeout(PATIENCE * 1000)
    yield context.new_page()
    context.close()


def test_no_page_leaves_the_prefix(page: Page, running: Running) -> None:
    """Demo pages, sign-in, admin: links, redirects, files, fetches, sockets and cookies are all below it."""
    base = f"{running.endpoint}/"
    host = urlsplit(base).netloc
    outside: list[str] = []
    sockets: list[str] = []
    page.on(
        "response",
        lambda answer: (
            None
            if answer.url.startswith(("data:", base)) and answer.status < 400
            else outside.append(f"{answer.status} {answer.url}")
        ),
    )
    page.on("websocket", lambda socket: sockets.append(socket.url))
    page.goto(base)
    page.locator("a[href*='demos/chat']").first.click()
    page.wait_for_url(f"{base}demos/chat/**")
    with page.expect_websocket(lambda socket: socket.url.startswith(f"ws://{host}{PREFIX}/client/hubs/")):
        page.goto(f"{base}demos/logstream/")
    assert sockets
    assert all(url.startswith(f"ws://{host}{PREFIX}/client/hubs/") for url in sockets)
    # Without the slash, nginx adds it.
    page.goto(f"{base}admin")
    assert page.url == f"{base}admin/login/?next={PREFIX}/admin/"
    page.fill("#id_username", "admin")
    page.fill("#id_password", PASSWORD)
    page.click("[type=submit]")
    page.wait_for_url(f"{base}admin/")
    links = page.eval_on_selector_all("a[href]", "links => links.map(link => link.href)")
    assert [url for url in links if urlsplit(url).netloc == host and not url.startswith(base)] == []
    paths = {cookie["name"]: cookie["path"] for cookie in page.context.cookies()}
    assert paths == dict.fromkeys(("sessionid", "csrftoken"), f"{PREFIX}/")
    page.goto(f"{base}admin/client-url/")
    page.locator("form [type=submit]").last.click()
    expect(page.locator("body")).to_contain_text(f"ws://{host}{PREFIX}/client/hubs/")
    page.goto(f"{base}admin/hubs/hub/add/")
    page.fill("#id_name", "madebelow")
    page.locator("[name=_save]").click()
    page.wait_for_url(f"{base}admin/hubs/hub/")
    assert outside == []


def test_programs_below_a_prefix(running: Running) -> None:
    """The SDK with the connection string as it was printed: audiences, client URLs and links to further pages."""
    assert f"Endpoint={running.endpoint};" in running.service.connection_string
    with WebPubSubServiceClient.from_connection_string(running.service.connection_string, "chat") as sdk:
        url = sdk.get_client_access_token(groups=["a/b ü"])["url"]
        assert url.startswith(f"{running.endpoint.replace('http', 'ws', 1)}/client/hubs/chat?")
        with connect(url, open_timeout=PATIENCE) as one, connect(url, open_timeout=PATIENCE):
            sdk.send_to_group("a/b ü", "to the group", content_type="text/plain")
            assert one.recv(timeout=PATIENCE) == "to the group"
            assert sdk.group_exists("a/b ü")
            # Two pages, so the link to the second is followed.
            assert len(list(sdk.list_connections(group="a/b ü", maxpagesize=1).by_page())) == 2
    with urllib.request.urlopen(f"{running.endpoint}/negotiate", timeout=PATIENCE) as answer:
        assert json.load(answer)["url"].startswith(f"{running.endpoint.replace('http', 'ws', 1)}/client/hubs/")


NEGOTIATE = """async (address) => {
    const answer = await fetch(address, {credentials: "include", headers: {"X-Requested-With": "a page"}});
    const {url} = await answer.json();
    return await new Promise((resolve, reject) => {
        const socket = new WebSocket(url);
        socket.onopen = () => resolve("open");
        socket.onerror = () => reject(new Error("closed"));
    });
}"""
SEND = """async ([address, token]) => {
    const answer = await fetch(address, {
        method: "POST",
        body: "hi",
        headers: {
            "Authorization": `Bearer ${token}`, "Content-Type": "text/plain", "X-WebPubSub-Metadata-Any": "1",
        },
    });
    return [answer.status, answer.headers.get("x-ms-error-code")];
}"""
POST = """async (address) => {
    const answer = await fetch(address, {method: "POST", credentials: "include"});
    return [answer.status, (await answer.json()).message];
}"""


def test_pages_of_another_origin(page: Page, running: Running) -> None:
    page.goto(f"{running.endpoint}/admin/")
    page.fill("#id_username", "admin")
    page.fill("#id_password", PASSWORD)
    page.click("[type=submit]")
    page.wait_for_url(f"{running.endpoint}/admin/")
    negotiate, send = f"{running.endpoint}/negotiate", f"{running.endpoint}/api/hubs/chat/:send"
    page.goto(running.allowed)
    assert page.evaluate(NEGOTIATE, negotiate) == "open"
    # The session travels, as ports do not make a site; a POST with it needs a token that this page cannot have.
    status, message = page.evaluate(POST, negotiate)
    assert (status, "CSRF" in message) == (403, True)
    # A wrong token: the answer can be read, though it is a refusal.
    assert page.evaluate(SEND, [send, "no.good.token"]) == [401, "Error.Unauthorized"]
    with pytest.raises(Exception, match="Failed to fetch"):
        page.evaluate(POST, f"{running.endpoint}/manage/api/hubs")
    page.goto(running.stranger)
    for script, argument in ((NEGOTIATE, negotiate), (POST, negotiate), (SEND, [send, "no.good.token"])):
        with pytest.raises(Exception, match="Failed to fetch"):
            page.evaluate(script, argument)
