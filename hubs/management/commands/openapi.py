"""`manage.py openapi`: write the OpenAPI documents of both HTTP APIs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from hubs.manage_api.openapi import management
from hubs.rest.openapi import data_plane, text

DOCUMENTS = {"data-plane.json": data_plane, "management.json": management}
HOME = Path("docs/openapi")


class Command(BaseCommand):
    help = f"Write the OpenAPI 3.1 documents of the data plane and of the management API: {', '.join(DOCUMENTS)}."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "directory", nargs="?", type=Path, default=HOME, help=f"where to write them (default: {HOME})"
        )

    def handle(self, *args: Any, directory: Path, **options: Any) -> None:
        if not directory.is_dir():
            raise CommandError(f"{directory} is not a directory. Make it, or name another: manage.py openapi DIRECTORY")
        for name, write in DOCUMENTS.items():
            try:
                (directory / name).write_text(text(write()))
            except OSError as problem:
                raise CommandError(f"{directory / name} cannot be written: {problem.strerror}.") from None
            self.stdout.write(str(directory / name))
