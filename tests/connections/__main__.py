"""`python -m tests.connections`: as many storms (storm.py) as you like. Exits with 1 if one of them broke something.

With the environment variable PYTHONHASHSEED=0 a storm that is run again is the same to the last step.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "pubsub_site.settings")
django.setup()

from tests.connections.storm import WEATHERS, rage  # noqa: E402 - models are there only now


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.connections", description="Run storms, one per seed.")
    parser.add_argument("--weather", choices=(*WEATHERS, "all"), default="all", help="default: %(default)s")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=100, help="how many (default: %(default)s)")
    parser.add_argument("--verbose", action="store_true", help="what happened before, and the service's log")
    arguments = parser.parse_args()
    logging.disable(logging.NOTSET if arguments.verbose else logging.CRITICAL)
    names = list(WEATHERS) if arguments.weather == "all" else [arguments.weather]
    failed = 0
    for name in names:
        claimed = deliveries = sockets = 0
        for seed in range(arguments.first, arguments.first + arguments.seeds):
            try:
                storm = rage(seed, WEATHERS[name])
            except Exception as problem:
                failed += 1
                shown = "".join(traceback.format_exception(problem)) if arguments.verbose else str(problem)
                print(f"{name} {seed}: {type(problem).__name__}: {shown}", flush=True)
                continue
            claimed += sum(message.claimed for message in storm.messages.values())
            deliveries += sum(len(person.texts) for person in storm.persons)
            sockets += sum(len(person.sockets) - 1 for person in storm.persons)
        print(f"{name}: {claimed:,} messages claimed, {deliveries:,} deliveries, {sockets:,} sockets lost", flush=True)
    print(f"{failed} of {len(names) * arguments.seeds} storms broke something")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
