"""The servers that are compared: how each is set up, started, reached and spoken to, and what it needs.

Each is one process with one thread that does the work, unless its title says otherwise. What runs beside it for its
sake, such as Redis, is its companion and counts as its own.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from azure.messaging.webpubsubservice import WebPubSubServiceClient

from bench.dialects import Dialect, Nats, ReliableJson, SocketIo, Topics, WebPubSub

if TYPE_CHECKING:
    from bench.servers import Server

ROOT = Path(__file__).resolve().parent.parent
STOCK = ROOT / "bench" / "stock"
EMPTY = ROOT / "bench" / "empty"
PEERS = ROOT / "bench" / "peers"

Command = tuple[str, ...]


@dataclass(frozen=True)
class Need:
    """Something that has to be installed."""

    there: Callable[[], bool]
    how: str


@dataclass(frozen=True)
class Contestant:
    """One kind of server."""

    name: str
    title: str
    cwd: Path
    # What is between braces is filled in when it is started: {port}, {directory} and others (`bench.servers`).
    command: Command
    # Given the server and a number of clients, the request targets of their handshakes.
    targets: Callable[[Server, int], Iterator[str]]
    # Commands to run once before the server.
    set_up: tuple[Command, ...] = ()
    subprotocol: str | None = None
    # How it is spoken to.
    dialect: Dialect = field(default_factory=Dialect)
    # What has to be on this machine, each with the way to get it.
    needs: tuple[Need, ...] = ()
    # Configuration files that are written into its data directory, with what is between @ signs filled in.
    files: tuple[Path, ...] = ()
    # Programs that it needs running.
    companions: tuple[Command, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    # How many processes of it are started, each with a port of its own.
    instances: int = 1

    def missing(self) -> list[str]:
        """What is not on this machine, and how to get it."""
        return [need.how for need in self.needs if not need.there()]


# Request targets


def signed_targets(server: Server, count: int) -> Iterator[str]:
    """Client URLs as a customer's own server makes them: signed by the official SDK, one per user."""
    service = WebPubSubServiceClient.from_connection_string(server.connection_string, hub="bench")
    roles = ["webpubsub.joinLeaveGroup", "webpubsub.sendToGroup"]
    for number in range(count):
        url = urlsplit(service.get_client_access_token(user_id=f"user-{number}", roles=roles)["url"])
        yield f"{url.path}?{url.query}"


def always(target: str) -> Callable[[Server, int], Iterator[str]]:
    """Where everybody calls at the same address."""
    return lambda server, count: itertools.repeat(target, count)


def _open_targets(server: Server, count: int) -> Iterator[str]:
    """The stock consumer believes whatever name it is told."""
    return (f"/chat/?user=user-{number}" for number in range(count))


# Needs


def program(name: str) -> str:
    """Where a program is; servers are often where only root looks, or come with a Python package."""
    elsewhere = f"/usr/local/sbin:/usr/sbin:/sbin:{Path(sys.executable).parent}"
    return shutil.which(name) or shutil.which(name, path=elsewhere) or name


def _program_needed(name: str, package: str) -> Need:
    return Need(lambda: shutil.which(program(name)) is not None, f"the program {name} (Debian's package {package})")


def _npm(package: str) -> Need:
    return Need(
        lambda: (PEERS / "node_modules" / package / "package.json").exists(),
        f"the npm package {package} (make bench-peers)",
    )


_NGINX_MODULES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules")


def nchan() -> Path:
    """Where the module Nchan is, or the folder where it should be."""
    found = (Path(folder) / "ngx_nchan_module.so" for folder in _NGINX_MODULES)
    return next((path for path in found if path.exists()), Path(_NGINX_MODULES[0]))


_NODE = _program_needed("node", "nodejs")
_NGINX = _program_needed("nginx", "nginx-light")
_NCHAN = Need(lambda: nchan().suffix == ".so", "the nginx module Nchan (Debian's package libnginx-mod-nchan)")
_NATS = _program_needed("nats-server", "nats-server")
_REDIS = _program_needed("redis-server", "redis-server")


# How they are started

MANAGE = (sys.executable, "manage.py")
_UVICORN = (
    *(sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--loop", "uvloop"),
    *("--no-access-log", "--log-level", "warning", "--lifespan", "off"),
)
_STOCK_APPLICATION = "stock_site.asgi:application"
_REDIS_URL = "redis://127.0.0.1:{redis_port}/0"


def _redis_at(port: str) -> Command:
    return (
        *(program("redis-server"), "--bind", "127.0.0.1", "--port", port, "--save", ""),
        *("--appendonly", "no", "--dir", "{directory}", "--loglevel", "warning"),
    )


def _on_redis(base: Contestant, name: str, title: str) -> Contestant:
    """The same with a Redis beside it."""
    needs, env = (*base.needs, _REDIS), (*base.env, ("REDIS_URL", _REDIS_URL))
    return replace(base, name=name, title=title, needs=needs, companions=(_redis_at("{redis_port}"),), env=env)


def _two_workers(base: Contestant, name: str, title: str) -> Contestant:
    """The same with two processes that listen on the same port."""
    return replace(base, name=name, title=title, command=(*base.command, "--workers", "2"))


_HUBWIRE = Contestant(
    "hubwire",
    "Hubwire",
    ROOT,
    (*MANAGE, "serve"),
    signed_targets,
    set_up=((*MANAGE, "migrate", "--verbosity", "0"), (*MANAGE, "bootstrap")),
    subprotocol="json.webpubsub.azure.v1",
    dialect=WebPubSub(),
)
_HUBWIRE_RELIABLE = replace(
    _HUBWIRE,
    name="hubwire-reliable",
    title="Hubwire, reliable JSON",
    subprotocol="json.reliable.webpubsub.azure.v1",
    dialect=ReliableJson(),
)
_HUBWIRE_DAPHNE = replace(
    _HUBWIRE,
    name="hubwire-daphne",
    title="Hubwire on daphne",
    command=(*MANAGE, "runserver", "--noreload", "--verbosity", "0", "localhost:{port}"),
)
_HUBWIRE_REDIS = _on_redis(_HUBWIRE, "hubwire-redis", "Hubwire on Redis")

# Another version of Hubwire, to compare: where its checkout is, with an environment of its own in `.venv`.
FORMER = "FORMER"
_FORMER_CHECKOUT = Path(os.environ.get(FORMER, "")).absolute()
_FORMER_NEEDED = Need(
    lambda: FORMER in os.environ and (_FORMER_CHECKOUT / "manage.py").exists(),
    f"a checkout of another version ({FORMER}=directory)",
)


def _former(base: Contestant) -> Contestant:
    """The same of the other version."""
    python = _FORMER_CHECKOUT / ".venv" / "bin" / "python"

    def its(command: Command) -> Command:
        return tuple(str(python) if part == sys.executable and python.exists() else part for part in command)

    return replace(
        base,
        name=base.name.replace("hubwire", "former"),
        title=base.title.replace("Hubwire", "the other version"),
        cwd=_FORMER_CHECKOUT,
        command=its(base.command),
        set_up=tuple(map(its, base.set_up)),
        needs=(*base.needs, _FORMER_NEEDED),
    )


_STOCK_UVICORN = Contestant(
    "stock-uvicorn",
    "stock Channels in memory, uvicorn",
    STOCK,
    (*_UVICORN, "--ws", "websockets-sansio", _STOCK_APPLICATION),
    _open_targets,
)
_STOCK_DAPHNE = replace(
    _STOCK_UVICORN,
    name="stock",
    title="stock Channels in memory, daphne",
    # Without its access log, which ours does not write either.
    command=(sys.executable, "-m", "daphne", "-v", "0", "-b", "127.0.0.1", "-p", "{port}", _STOCK_APPLICATION),
)
_STOCK_REDIS = _on_redis(_STOCK_UVICORN, "stock-redis", "stock Channels on Redis, uvicorn")

_SOCKETIO = Contestant(
    "socketio",
    "Socket.IO",
    PEERS,
    (program("node"), "socketio.js", "{port}"),
    always("/socket.io/?EIO=4&transport=websocket"),
    dialect=SocketIo(),
    needs=(_NODE, _npm("socket.io")),
    env=(("NODE_ENV", "production"),),
)
_SOCKETIO_REDIS = replace(
    _on_redis(_SOCKETIO, "socketio-redis", "Socket.IO, Redis adapter"),
    command=(program("node"), "socketio-redis.js", "{port}", _REDIS_URL),
    needs=(*_SOCKETIO.needs, _npm("@socket.io/redis-adapter"), _npm("@redis/client"), _REDIS),
)

_NATS_SERVER = Contestant(
    "nats",
    "NATS",
    PEERS,
    (program("nats-server"), "-c", "{directory}/nats.conf"),
    always("/"),
    dialect=Nats(),
    needs=(_NATS,),
    files=(PEERS / "nats.conf",),
    env=(("GOMAXPROCS", "1"),),
)
_NATS_CLUSTER = replace(
    _NATS_SERVER,
    name="nats-two",
    title="NATS, cluster of two",
    command=(program("nats-server"), "-c", "{directory}/nats-cluster.conf"),
    files=(PEERS / "nats.conf", PEERS / "nats-cluster.conf"),
    instances=2,
)

_NCHAN_SERVER = Contestant(
    "nchan",
    "Nchan",
    PEERS,
    (program("nginx"), "-p", "{directory}", "-c", "{directory}/nginx.conf"),
    always("/"),
    dialect=Topics("/sub?group={group}", "/pub?group={group}"),
    needs=(_NGINX, _NCHAN),
    files=(PEERS / "nginx.conf",),
)

_UWEBSOCKETS = Contestant(
    "uwebsockets",
    "uWebSockets",
    PEERS,
    (program("node"), "uwebsockets.js", "{port}"),
    always("/"),
    dialect=Topics("/?group={group}", "/?group={group}&publish=1"),
    needs=(_NODE, _npm("uwebsockets")),
)
_UWEBSOCKETS_JSON = Contestant(
    "uwebsockets-json",
    "uWebSockets, our frames",
    PEERS,
    (program("node"), "uwebsockets-json.js", "{port}"),
    _open_targets,
    needs=_UWEBSOCKETS.needs,
)

# Not for fan-out: its views do nothing, on the same server with the same settings as ours.
_EMPTY_VIEWS = Contestant(
    "empty-views",
    "a bare Django project",
    EMPTY,
    (*_UVICORN, "--http", "httptools", "empty_site.asgi:application"),
    always("/"),
)
# Nor this: it accepts everybody and echoes.
_ACCEPT_ALL = Contestant(
    "uvicorn",
    "plain uvicorn, accepts everybody",
    EMPTY,
    (
        *(*_UVICORN, "--ws", "websockets-sansio", "accept_app:application"),
        *("--ws-ping-interval", "{keep_alive}", "--ws-ping-timeout", "{keep_alive}"),
    ),
    always("/"),
)

# And this one alone, for the layers.
_REDIS_ALONE = Contestant("redis", "Redis", PEERS, _redis_at("{port}"), always("/"), needs=(_REDIS,))

_HUBWIRE_RELIABLE_REDIS = _on_redis(_HUBWIRE_RELIABLE, "hubwire-reliable-redis", "Hubwire on Redis, reliable JSON")
_HUBWIRE_TWO = _two_workers(_HUBWIRE_REDIS, "hubwire-two", "Hubwire on Redis, two workers")

CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        *(_HUBWIRE, _HUBWIRE_RELIABLE, _HUBWIRE_DAPHNE, _HUBWIRE_REDIS, _HUBWIRE_RELIABLE_REDIS),
        *(_STOCK_DAPHNE, _STOCK_UVICORN, _STOCK_REDIS),
        *(_SOCKETIO, _SOCKETIO_REDIS, _NCHAN_SERVER, _NATS_SERVER, _UWEBSOCKETS, _UWEBSOCKETS_JSON),
        _HUBWIRE_TWO,
        *map(_former, (_HUBWIRE, _HUBWIRE_RELIABLE, _HUBWIRE_REDIS, _HUBWIRE_TWO)),
        _two_workers(_STOCK_REDIS, "stock-two", "stock Channels on Redis, two uvicorn workers"),
        replace(_SOCKETIO_REDIS, name="socketio-two", title="Socket.IO, Redis adapter, two processes", instances=2),
        _NATS_CLUSTER,
        *(_EMPTY_VIEWS, _ACCEPT_ALL, _REDIS_ALONE),
    )
}

# The yardsticks of the ratios: the obvious way to build it, and the fastest there is.
BASELINE = "stock"
PEER = "uwebsockets"


def former(name: str) -> str:
    """Its name in the other version; only Hubwire's have one."""
    return name.replace("hubwire", "former") if name.startswith("hubwire") else ""
