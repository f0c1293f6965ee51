"""What is wrong with a filter, where, and what to write instead."""

from __future__ import annotations

MAX_QUOTED_CHARACTERS = 100


class Mistake(Exception):
    """Something wrong in a filter, as found by the modules here, which need not carry the whole text around.

    `problem` is a sentence without the position, `advice` says what to write. `span` is the part of the
    text that the error quotes; None is all of it.
    """

    def __init__(self, position: int, problem: str, advice: str, span: tuple[int, int] | None = None) -> None:
        super().__init__(problem)
        self.position = position
        self.problem = problem
        self.advice = advice
        self.span = span


class InvalidFilter(ValueError):
    """A filter that cannot be used: `message` is for people, `position` counts characters from 0."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.message = message
        self.position = position

    @classmethod
    def from_mistake(cls, text: str, mistake: Mistake) -> InvalidFilter:
        """Say what is wrong in `text`.

        It begins as the sentences of Azure do, which programs may look for; the position, as people
        count characters, and the advice follow.
        """
        start, end = mistake.span or (0, len(text))
        return cls(
            f"Invalid syntax for '{quoted(text[start:end])}': {mistake.problem} (Parameter 'filter') "
            f"At character {mistake.position + 1}: {mistake.advice}.",
            mistake.position,
        )


def quoted(text: str) -> str:
    """Make a piece of a filter fit for an error text: short, and nothing in it that terminals or JSON choke on."""
    if len(text) > MAX_QUOTED_CHARACTERS:
        text = f"{text[: MAX_QUOTED_CHARACTERS - 1]}…"
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
