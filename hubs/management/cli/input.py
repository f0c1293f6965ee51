"""What may be typed into the console client, as a table: one row makes a word, its help and its frame.

Words and frames are those of the interactive client that Azure's tool has, and a few more.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Frame = dict[str, Any]


class TypoError(ValueError):
    """A typed line makes no frame; the text says why."""


@dataclass(frozen=True, slots=True)
class Verb:
    """One word: what follows it, what it does, the frame it becomes, and whether that one is acknowledged."""

    parameters: tuple[str, ...]
    meaning: str
    frame: Callable[..., Frame]
    acknowledged: bool = True


# `data` is a string and dataType is left out, as Azure's tool does; the service takes it as JSON.
VERBS: dict[str, Verb] = {
    "joingroup": Verb(("group",), "join a group", lambda group: {"type": "joinGroup", "group": group}),
    "leavegroup": Verb(("group",), "leave a group", lambda group: {"type": "leaveGroup", "group": group}),
    "sendtogroup": Verb(
        ("group", "message"),
        "send a message to a group",
        lambda group, message: {"type": "sendToGroup", "group": group, "data": message},
    ),
    "event": Verb(
        ("name", "message"),
        "send an event to its event handler",
        lambda name, message: {"type": "event", "event": name, "data": message},
    ),
    "ping": Verb((), "ask the service for a sign of life", lambda: {"type": "ping"}, acknowledged=False),
}

QUIT_WORDS = ("quit", "exit")
HELP_WORD = "help"
WORDS = (*VERBS, HELP_WORD, *QUIT_WORDS)

_QUOTED = re.compile(r'"([^"]*)"\s*(.*)', re.DOTALL)


def read(line: str) -> tuple[Verb, Frame]:
    """Give the verb and the frame of a typed line. Raises TypoError."""
    word, _, rest = line.strip().partition(" ")
    verb = VERBS.get(word.lower())
    if verb is None:
        near = difflib.get_close_matches(word.lower(), WORDS, n=1)
        raise TypoError(f"There is no command {word!r}. " + (f"Did you mean {near[0]}?" if near else "Type help."))
    values = _values(rest.strip(), len(verb.parameters))
    if values is None:
        raise TypoError(f"Write: {usage(word.lower())}")
    return verb, verb.frame(*values)


def _values(text: str, count: int) -> list[str] | None:
    """Cut `text` into so many values; the last takes all that is left. None when there are too few or too many."""
    if count == 0:
        return None if text else []
    values: list[str] = []
    for left in range(count, 0, -1):
        quoted = _QUOTED.fullmatch(text) if not values else None
        if quoted and (left > 1 or not quoted[2]):
            # A group whose name has spaces.
            value, text = quoted[1], quoted[2]
        elif left > 1:
            value, _, text = text.partition(" ")
            text = text.strip()
        else:
            value, text = text, ""
        if not value:
            return None
        values.append(value)
    return values


def usage(word: str) -> str:
    """How to type a word: ``sendtogroup <group> <message>``."""
    return " ".join([word, *(f"<{parameter}>" for parameter in VERBS[word].parameters)])


def help_text() -> str:
    """All words with their meanings."""
    lines = {usage(word): verb.meaning for word, verb in VERBS.items()}
    lines[HELP_WORD] = "show this"
    lines[" or ".join(QUIT_WORDS)] = "end the connection and leave (also Ctrl-D)"
    width = max(map(len, lines)) + 2
    return "\n".join(
        [
            *(f"  {written:<{width}}{meaning}" for written, meaning in lines.items()),
            '  A group whose name has spaces goes between quotes: sendtogroup "my room" Hello',
        ]
    )
