"""What processes ask each other: all answer, and what is not known is not claimed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from hubs.cluster import questions as room
from hubs.cluster.entries import CONTROL_LOG, Adopted, Answer, Entry, Question, process_log
from hubs.cluster.questions import LATE, Questions
from hubs.errors import Forbidden, NotFound, Refusal, TooMany, Unavailable
from hubs.rules.audiences import Audience
from tests.cluster.conftest import Living, Process, Processes, all_know, soon, through, until
from tests.proxy import CuttingProxy
from tests.running import PATIENCE

CHAT = Audience("chat")
ID = "a" * 32

SHARED = pytest.mark.parametrize("kind", ["ours", "pubsub"], indirect=True)
EVERY = pytest.mark.parametrize("kind", ["memory", "ours", "pubsub", "queues"], indirect=True)


class Asking(Living):
    """A process that asks and answers."""

    def __init__(self, process: Process) -> None:
        super().__init__(process)
        self.asked: list[Question] = []
        self.answer: Callable[[Question], Awaitable[Any]] = self._name
        self.moved = False
        self.questions = Questions(
            self.name, process.log, self.leases, self._do, lambda question, at: self.moved, self.leases.start
        )
        process.take = self._take_at  # type: ignore[method-assign]

    async def _name(self, question: Question) -> Any:
        return self.name

    async def _do(self, question: Question) -> Any:
        self.asked.append(question)
        return await self.answer(question)

    def _take_at(self, name: str, position: int, origin: str, entry: Entry) -> None:
        self._take(entry)
        self._take_entry(position, origin, entry)

    def _take_entry(self, position: int, origin: str, entry: Entry) -> None:
        if isinstance(entry, Question):
            self.questions.take_question(position, origin, entry)
        elif isinstance(entry, Answer):
            self.questions.take_answer(origin, entry)
        elif isinstance(entry, Adopted):
            self.leases.adopted(entry.process)

    def _expired(self, process: str) -> None:
        super()._expired(process)
        self.questions.gone(process)

    async def start(self) -> Asking:
        await self.process.open(own=[CONTROL_LOG, process_log(self.name)])
        await soon(self.leases.start())
        return self

    async def ask(self, connection: str | None = None, **arguments: Any) -> list[Any]:
        answers: list[Any] = await soon(self.questions.ask("try", CHAT, arguments, connection))
        return answers


@pytest.fixture
async def asking(process: Processes) -> AsyncIterator[Callable[..., Asking]]:
    """Makes processes that ask and answer."""
    made: list[Asking] = []

    def make(*arguments: Any) -> Asking:
        made.append(Asking(process(*arguments)))
        return made[-1]

    yield make
    for one in made:
        await soon(one.leases.stop())
        await soon(one.questions.stop())
        assert one.questions.open == {}


Make = Callable[..., Asking]


async def meet(*everybody: Asking) -> None:
    for one in everybody:
        await one.start()
    await all_know(everybody)


def _has(*connections: str) -> Callable[[Question], Awaitable[Any]]:
    async def answer(question: Question) -> Any:
        if question.connection not in connections:
            raise NotFound("not here")
        return "here"

    return answer


def _raises(problem: Exception) -> Callable[[Question], Awaitable[Any]]:
    async def answer(question: Question) -> Any:
        raise problem

    return answer


async def _never(question: Question) -> Any:
    await asyncio.Event().wait()


@EVERY
async def test_everybody_answers_once(asking: Make, kind: str) -> None:
    everybody = [asking() for _ in range(1 if kind == "memory" else 3)]
    await meet(*everybody)
    for asker in everybody:
        assert sorted(await asker.ask(group="é", reason=None)) == sorted(one.name for one in everybody)
    for one in everybody:
        assert [(question.verb, question.audience, question.arguments) for question in one.asked] == [
            ("try", CHAT, {"group": "é", "reason": None})
        ] * len(everybody)


@SHARED
async def test_many_questions_at_once_get_their_own_answers(asking: Make) -> None:
    here, there = asking(), asking()
    await meet(here, there)

    async def double(question: Question) -> int:
        await asyncio.sleep(0)
        return int(question.arguments["number"]) * 2

    here.answer = there.answer = double
    answers = await soon(asyncio.gather(*[here.ask(number=number) for number in range(50)]))
    assert answers == [[2 * number] * 2 for number in range(50)]


@SHARED
async def test_of_one_connection_whoever_has_it_answers(asking: Make) -> None:
    here, there, silent = asking(), asking(), asking()
    await meet(here, there, silent)
    here.answer, there.answer, silent.answer = _has(), _has(ID), _never
    # Nobody waits for those who do not have it.
    assert await here.ask(ID) == ["here"]
    silent.answer = _has()
    with pytest.raises(NotFound):
        await here.ask("b" * 32)
    # All have said so.
    assert [len(one.asked) for one in (here, there, silent)] == [2, 2, 2]


@SHARED
@pytest.mark.parametrize("problem", [NotFound("no such thing é"), TooMany("that is enough"), Refusal("just no")])
async def test_refusals_cross(asking: Make, problem: Refusal) -> None:
    here, there = asking(), asking()
    await meet(here, there)
    there.answer = _raises(problem)
    with pytest.raises(Refusal) as refused:
        await here.ask()
    assert (type(refused.value), refused.value.message) == (type(problem), problem.message)


async def test_refusals_of_another_kind_keep_their_words_and_faults_do_not_cross(
    asking: Make, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = asking(), asking()
    await meet(here, there)
    there.answer = _raises(Forbidden("not you"))
    with pytest.raises(Refusal, match="not you"):
        await here.ask()

    async def unwritable(question: Question) -> Any:
        return object()

    for fault in (_raises(ZeroDivisionError("inner details")), unwritable):
        there.answer = fault
        with pytest.raises(Refusal, match=r"^Internal server error$"):
            await here.ask()
    assert "inner details" in caplog.text


@SHARED
async def test_one_that_lives_and_does_not_answer_makes_it_unavailable(
    asking: Make, webpubsub: Callable[..., None]
) -> None:
    """What it would have said is not known, so nothing is claimed."""
    here, there = asking(), asking()
    await meet(here, there)
    webpubsub(ANSWER_SECS=0.3)
    there.answer = _never
    with pytest.raises(Unavailable, match=LATE):
        await here.ask()
    here.answer = _has()
    with pytest.raises(Unavailable, match=LATE):
        await here.ask(ID)


async def test_one_that_dies_before_it_answers_leaves_the_question_to_its_heir(asking: Make) -> None:
    here, heir, dying = asking(), asking(), asking()
    await meet(here, heir, dying)
    dying.answer = _never
    here.answer, heir.answer = _has(), _has()
    question = asyncio.create_task(here.ask(ID))
    await until(lambda: dying.asked)
    await soon(dying.leases.stop())
    await until(lambda: here.dead)
    # Two have said that they do not have it. It may be with the dead one, and that is nobody's yet.
    for _ in range(3):
        await here.hellos(1)
    assert not question.done()
    heir.answer = _has(ID)
    appended = heir.process.log.append(CONTROL_LOG, Adopted(dying.name))
    assert appended is not None
    await soon(appended)
    assert await soon(question) == ["here"]


async def test_while_connections_are_nobodys_nothing_is_said_about_them(asking: Make) -> None:
    here, dead = asking(), asking()
    await meet(here, dead)
    await soon(dead.leases.stop())
    await until(lambda: here.dead)
    question = asyncio.create_task(here.ask())
    await here.hellos(3)
    assert not question.done()
    here.process.log.append(CONTROL_LOG, Adopted(dead.name))
    assert await soon(question) == [here.name]


@pytest.mark.parametrize("kind", ["pubsub"], indirect=True)
async def test_where_nothing_is_kept_the_dead_have_nothing(asking: Make) -> None:
    here, dying = asking(), asking()
    await meet(here, dying)
    dying.answer = _never
    question = asyncio.create_task(here.ask())
    await until(lambda: dying.asked)
    await soon(dying.leases.stop())
    assert await soon(question) == [here.name]


async def test_where_connections_moved_meanwhile_all_are_asked_again(asking: Make) -> None:
    here, there = asking(), asking()
    await meet(here, there)

    async def moves(question: Question) -> str:
        there.moved = len(there.asked) < 3
        return there.name

    there.answer = moves
    assert sorted(await here.ask()) == sorted([here.name, there.name])
    assert len(there.asked) == 3


async def test_open_questions_are_bounded_and_those_given_up_are_forgotten(
    asking: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MAX_OPEN_QUESTIONS", 1)
    here, there = asking(), asking()
    await meet(here, there)
    go_on = asyncio.Event()

    async def wait(question: Question) -> bool:
        return await go_on.wait()

    there.answer = wait
    question = asyncio.create_task(here.ask())
    await until(lambda: there.asked)
    with pytest.raises(Unavailable, match="Too many questions"):
        await here.ask()
    question.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(question)
    assert here.questions.open == {}
    # The answer still comes, and disturbs nobody.
    go_on.set()
    assert set(await here.ask()) == {here.name, True}


async def test_who_cannot_reach_the_others_is_told_at_once(
    asking: Make, proxy: CuttingProxy, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = asking(through(proxy)), asking()
    await meet(here, there)
    proxy.refuse()
    proxy.abort()
    await until(lambda: here.process.log.is_away)
    with pytest.raises(Unavailable):
        await here.ask()
    proxy.accept()
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                answers = await here.ask()
                break
            except Unavailable:
                await asyncio.sleep(0.02)
    # It was taken for dead in that time, perhaps; but it does answer itself.
    assert here.name in answers
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
