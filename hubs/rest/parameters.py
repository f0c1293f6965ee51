"""What a request's query says, read strictly: nothing that was said twice is chosen from in silence."""

from __future__ import annotations

from django.http import QueryDict

from hubs.rest.exceptions import BadRequest

# What .NET and Java call an int.
MAX_INTEGER = 2**31 - 1


class Parameters:
    """The query of one request. Names are the same in any letter case; parameters nobody asks for are ignored."""

    def __init__(self, query: QueryDict) -> None:
        self._values: dict[str, list[str]] = {}
        for name, values in query.lists():
            self._values.setdefault(name.lower(), []).extend(str(value) for value in values)

    def many(self, name: str) -> list[str]:
        """Every value of a parameter that may repeat."""
        return self._values.get(name.lower(), [])

    def one(self, name: str) -> str | None:
        """The value of a parameter that may be given once; None when it is not there. Raises BadRequest."""
        values = self.many(name)
        if len(values) > 1:
            raise BadRequest(f"{name} was given {len(values)} times; give it once.", target=name)
        return values[0] if values else None

    def integer(self, name: str, *, default: int, least: int, most: int = MAX_INTEGER) -> int:
        """The value of a whole-number parameter; empty or not there, its default. Raises BadRequest."""
        value = self.integer_or_none(name, least=least, most=most) if self.one(name) else None
        return default if value is None else value

    def integer_or_none(self, name: str, *, least: int, most: int = MAX_INTEGER) -> int | None:
        """The value of a whole-number parameter; None when it is not there. Raises BadRequest."""
        text = self.one(name)
        if text is None:
            return None
        # isdecimal() alone would let digits of every script pass, and int() takes spaces and underscores.
        if text.isascii() and text.isdecimal() and len(text) <= 10 and least <= int(text) <= most:
            return int(text)
        raise BadRequest(f"{name} is a whole number from {least} to {most}.", target=name)
