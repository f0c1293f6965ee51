"""All of Django's settings that a supervisor looks at."""

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": "hubs.servers.logs.LineFormatter", "format": "{levelname} {message}", "style": "{"}},
    "handlers": {"console": {"class": "hubs.servers.logs.ConsoleHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}
