"""What a process asks the others about connections, and answers.

A question is an entry of the log that all processes read. Its asker reads it, too, and at that place in the log it is
decided who has to answer: all that live. Answers come by the asker's own log. If a process dies before it answers,
its connections are adopted by another, and all are asked again; if one lives and does not answer, the caller gets
Unavailable, never a wrong answer.

A question about one connection is answered when somebody has it; that nobody has it is known when all have said so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec

from hubs import conf
from hubs.cluster.entries import CONTROL_LOG, Answer, Question, encode, process_log
from hubs.cluster.leases import Leases
from hubs.cluster.log import UNREACHABLE, Log, applied
from hubs.errors import NotFound, Refusal, TooMany, Unavailable
from hubs.rules.audiences import Audience

logger = logging.getLogger(__name__)

MAX_OPEN_QUESTIONS = 10_000

LATE = "Another server of this service did not answer in time; try again."

# Refusals that may cross between processes, by the name they travel under.
_PROBLEMS: dict[str, type[Refusal]] = {kind.__name__: kind for kind in (NotFound, TooMany, Unavailable)}

# Does what a question asks with the connections of this process; gives a value that msgpack can carry.
Do = Callable[[Question], Awaitable[Any]]
# Whether connections that a question may mean have come or gone since it was put, at a position.
Moved = Callable[[Question, int], bool]


class Questions:
    """The questions of one process, and its answers."""

    def __init__(
        self, process: str, log: Log, leases: Leases, do: Do, moved: Moved, start: Callable[[], Awaitable[None]]
    ) -> None:
        """`start` returns when this process knows who lives, which it reads in the past of the log, too."""
        self._process = process
        self._log = log
        self._leases = leases
        self._do = do
        self._moved = moved
        self._start = start
        # Those that are not fully answered, by number.
        self.open: dict[int, _Open] = {}
        self._asked = 0
        self._answering: set[asyncio.Task[None]] = set()

    async def ask(
        self, verb: str, audience: Audience, arguments: dict[str, Any], connection: str | None = None
    ) -> list[Any]:
        """Have every process do `verb` for those that are meant; gives all answers, of a connection the first one.

        Raises the Refusal somebody answered with, NotFound when nobody has the connection, and Unavailable.
        """
        question = Question(0, verb, audience, connection, arguments)
        if self._log.alone:
            return [await self._do(question)]
        if len(self.open) >= MAX_OPEN_QUESTIONS:
            raise Unavailable("Too many questions to other servers are unanswered; try again later.")
        try:
            async with asyncio.timeout(conf.settings.ANSWER_SECS):
                await self._start()
                while True:
                    answers = await self._put(question)
                    if answers is not None:
                        break
                    # Somebody has died: who adopts its connections is asked, too. Or connections have moved meanwhile,
                    # and those who had them before or after may both have answered, or neither.
                    await self._leases.all_adopted()
        except TimeoutError:
            raise Unavailable(UNREACHABLE if self._log.is_away else LATE) from None
        if connection is not None:
            answers = [next((answer for answer in answers if answer.problem != NotFound.__name__), answers[0])]
        return [_value(answer) for answer in answers]

    async def _put(self, question: Question) -> list[Answer] | None:
        """Append a question and wait for the answers; None if they do not go together."""
        await self._leases.all_adopted()
        self._asked += 1
        number = self._asked
        waiting = self.open[number] = _Open(one_is_enough=question.connection is not None)
        try:
            await applied(
                self._log.append(
                    CONTROL_LOG,
                    Question(number, question.verb, question.audience, question.connection, question.arguments),
                )
            )
            await waiting.complete.wait()
        finally:
            del self.open[number]
        return None if waiting.missed else list(waiting.answers.values())

    def gone(self, process: str) -> None:
        """A process has stopped or is dead: nobody waits for its answers."""
        for waiting in self.open.values():
            waiting.gone(process, has_heirs=self._log.keeps)

    async def stop(self) -> None:
        """Answer nothing more."""
        for task in self._answering:
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)

    # What is read

    def take_question(self, position: int, asker: str, question: Question) -> None:
        """Somebody asks; perhaps this process."""
        waiting = self.open.get(question.number) if asker == self._process else None
        if waiting is not None:
            waiting.ask({*self._leases.others, self._process}, orphaned=bool(self._leases.orphaned))
        elif asker == self._process:
            # Nobody waits for the answer any more.
            return
        task = asyncio.create_task(self._answer(position, asker, question, waiting), name=f"answer {question.verb}")
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    def take_answer(self, process: str, answer: Answer) -> None:
        """Somebody answered."""
        if (waiting := self.open.get(answer.number)) is not None:
            waiting.take(process, answer)

    async def _answer(self, position: int, asker: str, question: Question, waiting: _Open | None) -> None:
        answer = await self._answered(question)
        if self._moved(question, position):
            answer = msgspec.structs.replace(answer, moved=True)
        if waiting is not None:
            waiting.take(self._process, answer)
            return
        try:
            encode(answer)
        except Exception:
            logger.exception("Could not answer another process's question: %s", question.verb)
            answer = Answer(question.number, None, "Refusal", "Internal server error")
        # Where it cannot be told, the asker's patience runs out.
        with suppress(Refusal):
            await applied(self._log.append(process_log(asker), answer))

    async def _answered(self, question: Question) -> Answer:
        try:
            return Answer(question.number, await self._do(question))
        except Refusal as refusal:
            return Answer(question.number, None, type(refusal).__name__, refusal.message)
        except Exception:
            logger.exception("Could not answer a question: %s", question.verb)
            return Answer(question.number, None, "Refusal", "Internal server error")


class _Open:
    """A question that is not fully answered yet."""

    def __init__(self, *, one_is_enough: bool) -> None:
        self.answers: dict[str, Answer] = {}
        self.complete = asyncio.Event()
        # Whether somebody that was asked, or should have been, will never answer, or not for all that are meant.
        self.missed = False
        self._one_is_enough = one_is_enough
        self._missing: set[str] | None = None

    def ask(self, processes: set[str], *, orphaned: bool) -> None:
        """The question has its place in the log: these are asked. `orphaned`: some connections are nobody's now."""
        self._missing = processes - self.answers.keys()
        self.missed = self.missed or orphaned
        self._look()

    def take(self, process: str, answer: Answer) -> None:
        """Somebody answered."""
        self.answers[process] = answer
        self.missed = self.missed or answer.moved
        if self._one_is_enough and answer.problem != NotFound.__name__:
            self.missed = False
            self.complete.set()
        if self._missing is not None:
            self._missing.discard(process)
            self._look()

    def gone(self, process: str, *, has_heirs: bool) -> None:
        """Nothing more comes from a process."""
        if self._missing is not None and process in self._missing and not self.complete.is_set():
            self._missing.discard(process)
            self.missed = self.missed or has_heirs
            self._look()

    def _look(self) -> None:
        if not self._missing and not self.complete.is_set():
            self.complete.set()


def _value(answer: Answer) -> Any:
    """What was answered. Raises the refusal, if it was one."""
    if answer.problem is not None:
        raise _PROBLEMS.get(answer.problem, Refusal)(answer.message)
    return answer.value
