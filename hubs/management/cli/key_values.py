"""Event handlers and listeners as they are typed: `--event-handler url-template=… system-event=connect …`.

The keys are those of `az webpubsub hub update`; what Azure has no key for is named in the same way. An
option stands once for each handler, in the order in which they are tried. An empty one (`--event-handler ""`)
stands for none, so that a list can be emptied.
"""

from __future__ import annotations

import difflib
import re
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ValidationError

from hubs.management.cli import grammar
from hubs.management.cli.errors import Error
from hubs.rules import event_routing

Reader = Callable[[str], Any]

_FIELD = re.compile(r"(?P<list>\w+)\[(?P<place>\d+)\]\.(?P<field>\w+)")


def _one_of(*choices: str, means: Mapping[str, str] | None = None) -> Reader:
    """Read a word in any letter case, as Azure's tool does."""

    def read(text: str) -> str:
        for choice in choices:
            if choice.lower() == text.lower():
                return (means or {}).get(choice, choice.lower())
        raise ValueError(f"choose from: {', '.join(choices)}")

    return read


def _azures(text: str) -> Any:
    raise ValueError("it belongs to Azure's managed identity; here: auth-type=Bearer auth-token=…")


_KINDS = {kind.name: key for key, kind in event_routing.LISTENER_KINDS.items()}


@dataclass(frozen=True, slots=True)
class KeyValues:
    """One option: which keys it takes, how their values are read, and the fields of the model they become."""

    option: str
    keys: Mapping[str, tuple[str, Reader]]
    defaults: Mapping[str, Any]
    needs: Sequence[str]
    meaning: str

    def help_text(self) -> str:
        """What the option is, for --help."""
        known = ", ".join(key for key, (_, reader) in self.keys.items() if reader is not _azures)
        return f"{self.meaning}; may be repeated. Keys: {known}; system-event may be repeated. Empty: none"

    def read(self, typed: Iterable[Sequence[str]]) -> list[dict[str, Any]]:
        """Give the model's fields for each time the option was typed. Raises Error."""
        return [self._one([word for word in words if word]) for words in typed if any(words)]

    def _one(self, words: Sequence[str]) -> dict[str, Any]:
        fields: dict[str, Any] = {**self.defaults, "system_events": []}
        given = set()
        for word in words:
            key, is_pair, value = word.partition("=")
            key = key.lower().replace("_", "-")
            if not is_pair:
                raise self._error(f"{word!r} is not a pair; write KEY=VALUE")
            if key not in self.keys:
                near = difflib.get_close_matches(key, self.keys, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(self.keys)}"
                raise self._error(f"{key} is not a key here; {hint}")
            field, reader = self.keys[key]
            try:
                read = reader(value)
            except (ValueError, ArgumentTypeError) as problem:
                raise self._error(f"{key}={value}: {problem}") from None
            given.add(key)
            if field == "system_events":
                fields[field] = [*fields[field], read]
            else:
                # Given twice, the last one counts, as in Azure's tool.
                fields[field] = read
        missing = [key for key in self.needs if key not in given]
        if missing:
            raise self._error(f"{' and '.join(missing)} missing")
        return fields

    def key_of(self, field: str) -> str:
        """What is typed for a field of the model."""
        return next((key for key, (of, _) in self.keys.items() if of == field), field)

    def _error(self, message: str) -> Error:
        return Error(f"{self.option}: {message}.")


HANDLER = KeyValues(
    option="--event-handler",
    keys={
        "url-template": ("url_template", str),
        "user-event-pattern": ("user_event_pattern", str),
        "system-event": ("system_events", _one_of(*event_routing.SYSTEM_EVENTS)),
        "auth-type": ("auth_type", _one_of("None", "Bearer")),
        "auth-token": ("token", str),
        "auth-resource": ("", _azures),
        "enabled": ("enabled", grammar.true_or_false),
    },
    defaults={"user_event_pattern": "", "auth_type": "none", "token": None, "enabled": True},
    needs=("url-template",),
    meaning="a webhook that takes part in the conversation",
)
LISTENER = KeyValues(
    option="--event-listener",
    keys={
        "type": ("kind", _one_of(*_KINDS, means=_KINDS)),
        "url": ("url", str),
        "stream": ("stream", str),
        "user-event-pattern": ("user_event_pattern", str),
        "system-event": ("system_events", _one_of(*event_routing.LISTENER_SYSTEM_EVENTS)),
        "auth-type": ("auth_type", _one_of("None", "Bearer", "Password")),
        "auth-token": ("token", str),
        "enabled": ("enabled", grammar.true_or_false),
    },
    defaults={"stream": "", "user_event_pattern": "", "auth_type": "none", "token": None, "enabled": True},
    needs=("type", "url"),
    meaning="somewhere that copies of events go (not in Azure's tool)",
)


def complaints(problem: ValidationError, lists: Mapping[str, KeyValues]) -> list[str]:
    """What the rules say against typed handlers and listeners, with the words they were typed in."""
    said = []
    for member, texts in problem.message_dict.items():
        found = _FIELD.fullmatch(member)
        table = lists.get(found["list"] if found else member)
        if found and table:
            where = f"{table.option} {int(found['place']) + 1}, {table.key_of(found['field'])}: "
        else:
            where = f"{table.option}: " if table else ""
        said.append(f"{where}{' '.join(texts)}")
    return said
