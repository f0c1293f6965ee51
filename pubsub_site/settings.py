"""Settings of this installation; everything a deployment changes comes from the environment.

Each variable is read in one place, below, and described in docs/configuration.md. A `.env` file
beside manage.py is read first; variables that are already set win over it.
"""

import os
import secrets
import stat
from importlib.util import find_spec
from logging import getLevelNamesMapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured
from django.templatetags.static import static
from django.urls import reverse_lazy

from hubs import addresses
from hubs.servers.logs import LINE

BASE_DIR = Path(__file__).resolve().parent.parent

env = environ.Env()
env.smart_cast = False
_before = set(os.environ)
try:
    # Opened here: environ takes a file that it may not read for one that is not there.
    with (BASE_DIR / ".env").open(encoding="utf-8") as _dotenv:
        env.read_env(_dotenv)
except FileNotFoundError:
    pass
except (OSError, UnicodeDecodeError) as problem:
    raise ImproperlyConfigured(
        f"{BASE_DIR / '.env'} cannot be read ({getattr(problem, 'strerror', None) or 'it is not UTF-8 text'}). "
        "Make it a text file that this account may read, or remove it."
    ) from None
# What stands there is not handed on to processes that read it for themselves (hubs.servers.workers).
VARIABLES_FROM_FILE = set(os.environ) - _before


def _number(name: str, default: int) -> int:
    text = env.str(name, default="") or str(default)
    if not text.isascii() or not text.isdigit():
        raise ImproperlyConfigured(f"{name}={text} is not a number. Write digits, such as {name}={default}.")
    return int(text)


def _switch(name: str, default: bool = False) -> bool:
    text = env.str(name, default="").strip().lower() or str(default).lower()
    if text not in ("", "true", "false", "1", "0", "yes", "no", "on", "off"):
        raise ImproperlyConfigured(f"{name}={text} is neither true nor false.")
    return text in ("true", "1", "yes", "on")


# Where this installation keeps what it must not lose: the SQLite database and the secret. Nothing is written there
# where the environment names another database and gives the secret.
_DEFAULT_DATA_DIR = BASE_DIR / "var"
DATA_DIR = Path(env.str("DATA_DIR", default="") or _DEFAULT_DATA_DIR)


def _close_to_others(path: Path) -> None:
    """Take a path that everybody on this machine may open away from all but its owner.

    Versions before this one made such files and directories. A path that is open to a group alone, or that is not
    ours, stays as it is.
    """
    found = path.stat()
    if found.st_mode & stat.S_IRWXO and found.st_uid == os.geteuid():
        path.chmod(found.st_mode & stat.S_IRWXU)


def _prepare_data_dir() -> None:
    """Make DATA_DIR, readable for its owner alone."""
    try:
        DATA_DIR.parent.mkdir(parents=True, exist_ok=True)
        DATA_DIR.mkdir(mode=0o700, exist_ok=True)
        if DATA_DIR == _DEFAULT_DATA_DIR:
            # Any other may be in use for more than this: `manage.py check` warns.
            _close_to_others(DATA_DIR)
    except OSError as problem:
        raise ImproperlyConfigured(
            f"DATA_DIR={DATA_DIR} cannot be made ({problem.strerror}: {problem.filename}). Set DATA_DIR to a directory "
            "that this account may write to, or set SECRET_KEY and DATABASE_URL, with which none is needed."
        ) from None


def _stored_secret(path: Path) -> str:
    """Give the secret in `path`, making one at first use.

    Access keys are encrypted under it, so it has to survive restarts; a fresh clone must still
    start with nothing configured. Processes that start together agree on one: the file gets its
    name when it is complete, and only if nobody else's has it.
    """
    try:
        if not path.exists():
            unnamed = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
            descriptor = os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(descriptor, "w", encoding="ascii") as file:
                    file.write(secrets.token_urlsafe(64))
                    file.flush()
                    os.fsync(descriptor)
                os.link(unnamed, path)
            except FileExistsError:
                pass
            finally:
                unnamed.unlink()
        secret = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as problem:
        raise ImproperlyConfigured(
            f"The secret cannot be kept in {path} ({getattr(problem, 'strerror', None) or 'it is not text'}). Let this "
            "account read and write that directory, set DATA_DIR to another, or set SECRET_KEY."
        ) from None
    if not secret:
        raise ImproperlyConfigured(f"{path} is empty. Set SECRET_KEY, or delete the file to have a new one made.")
    return secret


SECRET_KEY = env.str("SECRET_KEY", default="")
_database_url = env.str("DATABASE_URL", default="")
if not (SECRET_KEY and _database_url):
    _prepare_data_dir()
if not SECRET_KEY:
    SECRET_KEY = _stored_secret(DATA_DIR / "secret_key")
    _close_to_others(DATA_DIR / "secret_key")
SECRET_KEY_FALLBACKS = env.list("SECRET_KEY_FALLBACKS", default=[])
DEBUG = _switch("DEBUG")

HOST = env.str("HOST", default="") or "localhost"
PORT = _number("PORT", 8080)
if not 0 < PORT < 65536:
    raise ImproperlyConfigured(f"PORT={PORT} is not a port. Write a number from 1 to 65535, such as PORT=8080.")
WORKERS = _number("WORKERS", 1)
REDIS_URL = env.str("REDIS_URL", default="")
REDIS_SENTINELS = env.list("REDIS_SENTINELS", default=[])


def _endpoint(name: str, text: str) -> str:
    try:
        return addresses.endpoint(text)
    except ValueError as problem:
        raise ImproperlyConfigured(f"{name}: {problem}, such as https://pubsub.example.com.") from None


# What clients use to reach this service, as browsers write it; part of every token's audience.
PUBLIC_ENDPOINT = _endpoint("PUBLIC_ENDPOINT", env.str("PUBLIC_ENDPOINT", default="") or f"http://localhost:{PORT}")
_extra = [_endpoint("EXTRA_ENDPOINTS", text) for text in env.list("EXTRA_ENDPOINTS", default=[]) if text.strip()]
ENDPOINTS = [urlsplit(endpoint) for endpoint in dict.fromkeys((PUBLIC_ENDPOINT, *_extra))]
ALLOWED_HOSTS = env.list(
    "ALLOWED_HOSTS",
    # A host of IPv6 in its brackets, as the Host header has it.
    default=list(
        dict.fromkeys(["localhost", "127.0.0.1", "[::1]", *(addresses.host(url.netloc) for url in ENDPOINTS)])
    ),
)
CSRF_TRUSTED_ORIGINS = [f"{url.scheme}://{url.netloc}" for url in ENDPOINTS]

EXTRA_APPS = env.list("EXTRA_APPS", default=[])
for _app in EXTRA_APPS:
    if find_spec(_app.partition(".")[0]) is None:
        raise ImproperlyConfigured(
            f"EXTRA_APPS names {_app}, but Python cannot find {_app.partition('.')[0]}. Install it into this "
            "environment, or add the directory it is in to PYTHONPATH."
        )

# Where PUBLIC_ENDPOINT has a path, every address is below it (pubsub_site/prefix.py).
PATH_PREFIX = ENDPOINTS[0].path.rstrip("/")
if PATH_PREFIX:
    # Links that are made outside of requests.
    FORCE_SCRIPT_NAME = unquote(PATH_PREFIX)
    # Cookies do not go to what else the host has.
    SESSION_COOKIE_PATH = CSRF_COOKIE_PATH = f"{PATH_PREFIX}/"
    MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"

INSTALLED_APPS = [
    # Before staticfiles, which has a runserver, too. Ours runs daphne, whose app would have every process load Twisted.
    "hubs",
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "channels",
    "rest_framework",
    "rest_framework.authtoken",
    "hubs.demos",
    *EXTRA_APPS,
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "pubsub_site.static_files.StaticFiles",
    "pubsub_site.content_policy.AdminContentPolicy",
    "pubsub_site.odd_requests.RefuseOddRequests",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "pubsub_site.urls"
ASGI_APPLICATION = "pubsub_site.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "pubsub_site.database_away.outage",
            ],
        },
    },
]

_SQLITE, _POSTGRESQL = "django.db.backends.sqlite3", "django.db.backends.postgresql"
try:
    _database: dict[str, Any] = (
        env.db_url_config(_database_url) if _database_url else {"ENGINE": _SQLITE, "NAME": str(DATA_DIR / "db.sqlite3")}
    )
    if _database.get("ENGINE") not in (_SQLITE, _POSTGRESQL) or _database["NAME"] == ":memory:":
        raise ValueError
except ValueError:
    # Not quoted: it may have a password in it.
    raise ImproperlyConfigured(
        "DATABASE_URL is not the URL of a database that Hubwire supports. Write "
        "postgres://user:password@host:5432/name (with %2F for a / in the password, and so on), "
        "sqlite:////path/to/file, or leave it out for SQLite in DATA_DIR."
    ) from None
# Nothing waits for a database without an end (what DATABASE_URL says of a limit wins).
_connect_secs, _statement_secs = _number("DATABASE_CONNECT_SECS", 5), _number("DATABASE_STATEMENT_SECS", 10)
_options: dict[str, Any] = _database.setdefault("OPTIONS", {})
if _database["ENGINE"] == _SQLITE:
    # Readers do not wait for a writer (WAL), and a writer takes its turn instead of failing half-way.
    _options.setdefault("timeout", _statement_secs)
    _options.update(
        transaction_mode="IMMEDIATE",
        init_command="PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    )
    try:
        # SQLite would make it readable for everybody. What it puts beside it is as private as the file.
        os.close(os.open(_database["NAME"], os.O_WRONLY | os.O_CREAT, 0o600))
        if not _database_url:
            _close_to_others(DATA_DIR / "db.sqlite3")
    except OSError:
        # Whoever needs the database hears why it cannot be used (hubs.management.cli.errors).
        pass
else:
    _database["ENGINE"] = "pubsub_site.postgresql"
    _options.setdefault("connect_timeout", _connect_secs)
    _options.setdefault("statement_secs", _statement_secs)
DATABASES = {"default": _database}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

if REDIS_URL:
    from redis.connection import parse_url

    try:
        # With sentinels it is read below, and what to write is something else.
        if not REDIS_SENTINELS:
            parse_url(REDIS_URL)
    except ValueError:
        raise ImproperlyConfigured(
            "REDIS_URL is not a Redis URL. Write redis://host:6379/0 or redis://:password@host:6379/0 (with %2F for a "
            "/ in the password, and so on; rediss:// with TLS), or leave it out for one process."
        ) from None


def _watched_redis() -> tuple[dict[str, Any], dict[str, Any]]:
    """The channel layer's host and the cache's options, where Sentinel says which Redis is the master.

    REDIS_URL holds everything else: user, password, database, TLS, and the master's name in place of the host.
    """
    from redis.backoff import NoBackoff
    from redis.retry import Retry
    from redis.sentinel import Sentinel, SentinelConnectionPool

    url = urlsplit(REDIS_URL)
    # Not `hostname`, which is in small letters.
    master = url.netloc.rpartition("@")[2].partition(":")[0]
    try:
        sentinels = [(at.hostname, at.port or 26379) for at in (urlsplit(f"//{text}") for text in REDIS_SENTINELS)]
        if not master or url.scheme not in ("redis", "rediss") or not all(host for host, _ in sentinels):
            raise ValueError("a name is missing")
        options = parse_url(url._replace(scheme="redis").geturl())
    except ValueError as problem:
        raise ImproperlyConfigured(
            f"REDIS_SENTINELS and REDIS_URL do not fit together: {problem}. Write "
            "REDIS_SENTINELS=10.0.0.5:26379,10.0.0.6:26379 and, with the master's name as the sentinels know it in "
            "place of a host, REDIS_URL=redis://mymaster/0."
        ) from None
    options = {name: value for name, value in options.items() if name not in ("host", "port")}
    options |= {"ssl": url.scheme == "rediss"}
    password = env.str("REDIS_SENTINEL_PASSWORD", default="")
    to_sentinels: dict[str, Any] = {"password": password} if password else {}
    # The layer has its own patience with sentinels.
    host = {"master_name": master, "sentinels": sentinels, "sentinel_kwargs": dict(to_sentinels), **options}
    pool = {"pool_class": SentinelConnectionPool, "service_name": master, **options}
    # One try, and not a long one: where a sentinel is away the next one is asked, while a request waits.
    to_sentinels |= {"socket_connect_timeout": 0.5, "socket_timeout": 0.5, "retry": Retry(NoBackoff(), 0)}
    pool |= {"sentinel_manager": Sentinel(sentinels, sentinel_kwargs=to_sentinels)}
    return host, pool


if REDIS_SENTINELS and not REDIS_URL:
    raise ImproperlyConfigured("REDIS_SENTINELS needs REDIS_URL too, with the master's name: redis://mymaster/0.")
# What was not used for longest is pushed out of memory. Rate limits are counted in the first, an entry per caller; the
# default of 300 would push counts out. Failed sign-ins are apart (hubs.sign_in), so that nothing else does.
_CACHES = (("default", 10_000), ("sign_in", 50_000), ("sign_in_known_addresses", 10_000))
if REDIS_URL:
    _redis_host: Any = REDIS_URL
    _cache_options: dict[str, Any] = {}
    if REDIS_SENTINELS:
        _redis_host, _cache_options = _watched_redis()
    _cache_options["serializer"] = "pubsub_site.cache_values.JsonSerializer"
    CACHES: dict[str, Any] = {
        name: {
            "BACKEND": "hubs.redis_cache.RedisCache",
            "LOCATION": "redis://" if REDIS_SENTINELS else REDIS_URL,
            # One object for all: they share connections. Earlier versions keep pickles in Redis, without a prefix, and
            # may run beside this one.
            "OPTIONS": _cache_options,
            "KEY_PREFIX": "hubwire-json" if name == "default" else f"hubwire-json-{name}",
            "max_entries": entries,
        }
        for name, entries in _CACHES
    }
    CHANNEL_LAYERS: dict[str, Any] = {
        "default": {
            "BACKEND": "hubs.layers.redis.RedisLayer",
            "CONFIG": {
                "hosts": [_redis_host],
                "prefix": "hubwire",
                "retention_secs": _number("LOG_RETENTION_SECS", 300),
                "max_log_bytes": _number("LOG_MAX_BYTES", 64 << 20),
            },
        }
    }
else:
    CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    CACHES = {
        name: {
            "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
            "LOCATION": name,
            "OPTIONS": {"MAX_ENTRIES": entries},
        }
        for name, entries in _CACHES
    }

WEBPUBSUB = {
    "PUBLIC_ENDPOINTS": [url.geturl() for url in ENDPOINTS],
    "TRUST_FORWARDED_HEADERS": _switch("TRUST_FORWARDED_HEADERS"),
    "REQUIRE_KNOWN_HUBS": _switch("REQUIRE_KNOWN_HUBS"),
    "DEFAULT_HUB": env.str("DEFAULT_HUB", default="chat"),
    "NEGOTIATE_RATE_ANONYMOUS": env.str("NEGOTIATE_RATE_ANONYMOUS", default="120/min"),
    "NEGOTIATE_RATE_USER": env.str("NEGOTIATE_RATE_USER", default="600/min"),
    "SIGN_IN_FAILURES": _number("SIGN_IN_FAILURES", 5),
    "SIGN_IN_FAILURES_PER_ADDRESS": _number("SIGN_IN_FAILURES_PER_ADDRESS", 30),
    "SIGN_IN_FAILURES_PER_ACCOUNT": _number("SIGN_IN_FAILURES_PER_ACCOUNT", 100),
    "SIGN_IN_COOL_OFF_SECS": _number("SIGN_IN_COOL_OFF_SECS", 300),
    "NEGOTIATE_ORIGINS": env.list("NEGOTIATE_ORIGINS", default=[]),
    "REST_ORIGINS": env.list("REST_ORIGINS", default=[]),
    "MANAGE_RATE": env.str("MANAGE_RATE", default="600/min"),
    "REST_RATE": env.str("REST_RATE", default="") or None,
    "MAX_CONCURRENT_REQUESTS": _number("MAX_CONCURRENT_REQUESTS", 64),
    "KEEP_ALIVE_SECS": _number("KEEP_ALIVE_SECS", 20),
    "WRITE_TIMEOUT_SECS": _number("WRITE_TIMEOUT_SECS", 10),
    "HTTP_KEEP_ALIVE_SECS": _number("HTTP_KEEP_ALIVE_SECS", 75),
    "RECOVERY_SECS": _number("RECOVERY_SECS", 30),
    "DRAIN_PER_SEC": _number("DRAIN_PER_SEC", 500),
    "DRAIN_SECS": _number("DRAIN_SECS", 30),
    "WORKER_SILENCE_SECS": _number("WORKER_SILENCE_SECS", 20),
    "SETTINGS_STALE_SECS": _number("SETTINGS_STALE_SECS", 3600),
    # A service that only this machine can reach is one for development: its event handlers are here, too.
    "HANDLER_PRIVATE_ADDRESSES": _switch(
        "HANDLER_PRIVATE_ADDRESSES", default=all(url.hostname in addresses.LOOPBACK_NAMES for url in ENDPOINTS)
    ),
}
if WEBPUBSUB["TRUST_FORWARDED_HEADERS"]:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    USE_X_FORWARDED_HOST = True

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rest_framework.authentication.SessionAuthentication",
        "rest_framework.authentication.TokenAuthentication",
    ],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser", "rest_framework.parsers.FormParser"],
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
    # Proxies in front whose X-Forwarded-For entries are believed when callers are counted; 0 = the peer itself.
    "NUM_PROXIES": _number("NUM_PROXIES", 0),
}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = True
USE_TZ = True

# Spelled out: Django would add the prefix of whichever request asks first, or none.
STATIC_URL = f"{PATH_PREFIX}/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
# Static files straight from the apps: one step fewer between a clone and a running service, and nothing to write.
WHITENOISE_USE_FINDERS = True

if ENDPOINTS[0].scheme == "https":
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
# Sent over https only, so it does nothing where no proxy is believed that says so.
SECURE_HSTS_SECONDS = _number("HSTS_SECS", 0)
# What `check --deploy` says of these is for projects that have their settings in their own hands: HSTS_SECS is the
# variable here, subdomains and the preload list are not ours to decide for, and the proxy in front redirects to https.
SILENCED_SYSTEM_CHECKS = ["security.W004", "security.W005", "security.W008", "security.W021"]

_log_level = env.str("LOG_LEVEL", default="").upper()
if _log_level and _log_level not in getLevelNamesMapping():
    raise ImproperlyConfigured(f"LOG_LEVEL={_log_level} is not a level. Write DEBUG, INFO, WARNING or ERROR.")

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "()": "hubs.servers.logs.LineFormatter",
            "format": LINE,
            "style": "{",
        }
    },
    "filters": {"client_faults": {"()": "hubs.servers.logs.ClientFaults"}},
    "handlers": {
        "console": {
            "class": "hubs.servers.logs.ConsoleHandler",
            "formatter": "line",
            "filters": ["client_faults"],
            "per_minute": _number("LOG_PER_MINUTE", 30),
            # What no stranger causes (the supervisor of workers), and the access log of runserver.
            "exempt": ["hubs.servers.workers", "django.server", "django.channels.server"],
        }
    },
    "root": {"handlers": ["console"], "level": _log_level or "WARNING"},
    "loggers": {
        "hubs": {"level": _log_level or "INFO"},
        # Without handlers of their own, which Django gives them: those would wait for whoever reads the log.
        "django": {"handlers": [], "level": "INFO"},
        "django.server": {"handlers": [], "level": "INFO", "propagate": True},
        # Said by pubsub_site.refusals.
        "django.security.DisallowedHost": {"level": "CRITICAL"},
    },
}


def _page(title: str, icon: str, link: str, permission: str, about: str) -> dict[str, Any]:
    """A staff page in the menu and on the start page, for those who may open it."""
    return {
        "title": title,
        "icon": icon,
        "link": reverse_lazy(f"admin:{link}"),
        "permission": lambda request: request.user.has_perm(permission),
        "about": about,
    }


UNFOLD = {
    "SITE_TITLE": "Hubwire",
    "SITE_HEADER": "Hubwire",
    "SITE_SUBHEADER": "Web PubSub on your own machines",
    "SITE_URL": f"{PATH_PREFIX}/",
    "SITE_SYMBOL": "hub",
    "SHOW_VIEW_ON_SITE": False,
    # The teal of the demo pages, light to dark.
    "COLORS": {
        "primary": {
            "50": "#f0fdfa",
            "100": "#ccfbf1",
            "200": "#99f6e4",
            "300": "#5eead4",
            "400": "#2dd4bf",
            "500": "#14b8a6",
            "600": "#0f766e",
            "700": "#0f766e",
            "800": "#115e59",
            "900": "#134e4a",
            "950": "#042f2e",
        },
    },
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("hubs/admin/mark.svg")},
    ],
    "STYLES": [lambda request: static("hubs/admin/staff.css")],
    "SCRIPTS": [lambda request: static("hubs/admin/accessibility.js")],
    "SIDEBAR": {
        "navigation": [
            {
                "title": "Service",
                "items": [
                    _page(
                        "Keys",
                        "key",
                        "hubs_accesskey_changelist",
                        "hubs.view_accesskey",
                        "Connection strings for your programs",
                    ),
                    _page(
                        "Client URL Generator",
                        "link",
                        "hubs_client_url",
                        "hubs.change_accesskey",
                        "A URL that opens a WebSocket, to try things out",
                    ),
                    _page("Hubs", "hub", "hubs_hub_changelist", "hubs.view_hub", "Settings of single hubs"),
                    _page(
                        "Role grants",
                        "verified_user",
                        "hubs_rolegrant_changelist",
                        "hubs.view_rolegrant",
                        "Who may join and send to which groups",
                    ),
                    _page(
                        "Handler calls",
                        "history",
                        "hubs_handlercall_changelist",
                        "hubs.view_handlercall",
                        "What became of calls to event handlers",
                    ),
                ],
            },
            {
                "title": "People",
                "separator": True,
                "items": [
                    _page("Users", "person", "auth_user_changelist", "auth.view_user", "Accounts that sign in"),
                    _page("Groups", "group", "auth_group_changelist", "auth.view_group", "Users with common rights"),
                    _page(
                        "API tokens",
                        "badge",
                        "authtoken_tokenproxy_changelist",
                        "authtoken.view_tokenproxy",
                        "For programs that negotiate as a user",
                    ),
                ],
            },
        ],
    },
}

# daphne's own limits (runserver): above ours, so that the consumer is the one to answer with 1009.
DAPHNE_WEBSOCKET_MAX_MESSAGE_SIZE = DAPHNE_WEBSOCKET_MAX_FRAME_SIZE = 2 * 1024 * 1024
