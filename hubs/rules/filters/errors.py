"""What is wrong with a filter, in Azure's words and, beside them, where it is and what to write instead.

Azure has three sentences for a filter it refuses. Which one applies follows from the order in which it works:

1. It reads the whole filter. Text that is no expression is a *syntax error* at the position its reader has reached,
   which is the end of the token that cannot stand where it stands.
2. It goes through the expression. A name, function or value it does not know is a *token that is not supported*.
3. A part that does not give what is needed in its place has the *wrong type*.

The second and third quote the part of the filter around the fault: the comparison, the call, or the conditions
joined so far. Programs compare these sentences, so nothing of ours is in them; our own words travel separately.
"""

from __future__ import annotations

# A message may quote its filter twice, so this bounds what a refusal costs.
MAX_QUOTED_CHARACTERS = 1024


class Mistake(Exception):
    """Something wrong in a filter, as found by the modules here, which need not carry the whole text around.

    `position` is where people should look, `advice` says what to write.
    """

    def __init__(self, position: int, advice: str) -> None:
        super().__init__(advice)
        self.position = position
        self.advice = advice


class SyntaxMistake(Mistake):
    """The text is no expression. `problem` says so in our words; `reached` is the position that Azure names."""

    def __init__(self, position: int, problem: str, advice: str, *, reached: int) -> None:
        super().__init__(position, advice)
        self.problem = problem
        self.reached = reached


class Unsupported(Mistake):
    """A part of an expression that means nothing, or not what is needed.

    `sentence` is Azure's; `span` is the part of the filter it is said of, None while that is not known or if it is all.
    """

    def __init__(self, position: int, sentence: str, advice: str, span: tuple[int, int] | None = None) -> None:
        super().__init__(position, advice)
        self.sentence = sentence
        self.span = span


class InvalidFilter(ValueError):
    """A filter that cannot be used.

    `message` is what Azure says, `detail` where the mistake is and what to write; `position` counts characters from 0.
    """

    def __init__(self, message: str, detail: str, position: int) -> None:
        super().__init__(f"{message} {detail}")
        self.message = message
        self.detail = detail
        self.position = position

    @classmethod
    def from_mistake(cls, text: str, mistake: Mistake) -> InvalidFilter:
        """Say what is wrong in `text`."""
        where = f"At character {mistake.position + 1}: "
        match mistake:
            case SyntaxMistake():
                part, detail = text, f"{where}{mistake.problem} {mistake.advice[:1].upper()}{mistake.advice[1:]}."
                sentence = f"Syntax error at position {mistake.reached} in '{quoted(text)}'."
            case Unsupported():
                start, end = mistake.span or (0, len(text))
                part, detail, sentence = text[start:end], f"{where}{mistake.advice}.", mistake.sentence
            case _:
                raise AssertionError("every mistake is one of the two kinds")
        return cls(f"Invalid syntax for '{quoted(part)}': {sentence} (Parameter 'filter')", detail, mistake.position)


def unsupported(token: str, position: int, advice: str, span: tuple[int, int] | None = None) -> Unsupported:
    """A name, function or value that is not known."""
    return Unsupported(position, f"Token '{quoted(token)}' is not supported.", advice, span)


def quoted(text: str) -> str:
    """Make a piece of a filter fit for an error text: bounded, and nothing in it that terminals or JSON choke on."""
    if len(text) > MAX_QUOTED_CHARACTERS:
        text = f"{text[: MAX_QUOTED_CHARACTERS - 1]}…"
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
