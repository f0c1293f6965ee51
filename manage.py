#!/usr/bin/env python
"""Django's command line, for this project."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "pubsub_site.settings")
    try:
        from django.core.management import execute_from_command_line
    except ImportError:
        sys.exit("Django is not installed for this Python. Run `make install` and use .venv/bin/python manage.py …")
    from django.core.exceptions import ImproperlyConfigured
    from django.db import DatabaseError

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as problem:
        from hubs.servers.logs import last_words

        sys.exit(last_words(f"This configuration does not work: {problem}"))
    except DatabaseError as problem:
        # Of Django's own commands, as ours say it themselves.
        if "--traceback" in sys.argv:
            raise
        from hubs.management.cli.errors import about_database

        sys.exit(f"Error: {about_database(problem)}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
