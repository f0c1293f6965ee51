"""The connections that filters are tried on, each known by a letter."""

from __future__ import annotations

from dataclasses import dataclass

from hubs.rules.filters import compile_filter


@dataclass(frozen=True)
class Connection:
    """What a filter may look at."""

    id: str
    user_id: str | None = None
    groups: frozenset[str] = frozenset()
    subprotocol: str | None = None


SUBJECTS = {
    "a": Connection("conn-a", "ada", frozenset({"chess", "go"}), "json.webpubsub.azure.v1"),
    "b": Connection("conn-b", "Bob", frozenset({"go"})),
    "o": Connection("CONN-o", "O'Brien", frozenset({"it's", "日本"}), "protobuf.reliable.webpubsub.azure.v1"),
    "n": Connection("conn-n"),
    "e": Connection("conn-e", "", frozenset({"null", "true"}), "json.reliable.webpubsub.azure.v1"),
    "m": Connection("conn-m", " Straße Σ😀 ", frozenset({"Go", "42", "a,b"})),
}
ALL = "".join(SUBJECTS)
NOBODY = ""


def passing(text: str) -> str:
    """The letters of those who pass a filter, in the order of SUBJECTS."""
    predicate = compile_filter(text)
    verdicts = {letter: predicate(subject) for letter, subject in SUBJECTS.items()}
    assert all(type(verdict) is bool for verdict in verdicts.values())
    return "".join(letter for letter, verdict in verdicts.items() if verdict)
