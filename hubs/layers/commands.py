"""Redis commands as bytes."""

from __future__ import annotations

from typing import Any, Final

Argument = bytes | str | int


class Key:
    """The kind of KEY."""

    def __repr__(self) -> str:
        return "KEY"


# In a command that is given to `execute`: where the full key stands.
KEY: Final = Key()


def pack(*arguments: Any) -> bytes:
    """A command as the protocol has it. Arguments are bytes, text or integers; text goes as UTF-8."""
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        if isinstance(argument, str):
            argument = argument.encode()
        elif isinstance(argument, int) and not isinstance(argument, bool):
            argument = b"%d" % argument
        elif not isinstance(argument, bytes):
            raise TypeError(f"An argument of a Redis command is bytes, text or an integer, not {argument!r}.")
        parts.append(bulk(argument))
    return b"".join(parts)


def bulk(argument: bytes) -> bytes:
    """One argument, as the protocol has it."""
    return b"$%d\r\n%b\r\n" % (len(argument), argument)
