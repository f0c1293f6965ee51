"""Questions between processes: about one connection, and to everybody."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from hubs.errors import Forbidden, NotFound, Refusal, TooMany, Unavailable
from hubs.messaging import questions
from hubs.messaging.envelope import (
    Audience,
)
from hubs.messaging.switchboard import ANSWERS
from tests.messaging.conftest import Client, Processes, break_line, line_of, soon

Asked = list[tuple[Any, dict[str, Any]]]


def _answers(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], bool]) -> Asked:
    """Give processes the verb `try`."""
    asked: Asked = []

    async def attempt(members: Sequence[Any], arguments: dict[str, Any]) -> bool:
        [member] = members
        asked.append((member, arguments))
        return answer()

    monkeypatch.setitem(ANSWERS, "try", attempt)
    return asked


def _raises(problem: Exception) -> Callable[[], bool]:
    def answer() -> bool:
        raise problem

    return answer


@pytest.mark.parametrize("value", [True, False])
async def test_the_home_of_a_connection_answers(
    process: Processes, monkeypatch: pytest.MonkeyPatch, value: bool
) -> None:
    here, there = process(), process()
    asked = _answers(monkeypatch, lambda: value)
    near, far = await Client(here).join(), await Client(there).join()
    arguments = {"group": "é", "reason": None, "": "x" * 10_000}
    for client in (near, far):
        assert await soon(here.ask("try", "chat", client.id, arguments)) is value
    assert asked == [(near, arguments), (far, arguments)]


@pytest.mark.parametrize("problem", [NotFound("no such thing é"), TooMany("that is enough"), Refusal("just no")])
async def test_refusals_cross(process: Processes, monkeypatch: pytest.MonkeyPatch, problem: Refusal) -> None:
    here, there = process(), process()
    _answers(monkeypatch, _raises(problem))
    for client in (await Client(here).join(), await Client(there).join()):
        with pytest.raises(Refusal) as refused:
            await soon(here.ask("try", "chat", client.id, {}))
        assert type(refused.value) is type(problem)
        assert refused.value.message == problem.message


async def test_refusals_of_another_kind_keep_their_words(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = process(), process()
    _answers(monkeypatch, _raises(Forbidden("not you")))
    far = await Client(there).join()
    with pytest.raises(Refusal, match="not you"):
        await soon(here.ask("try", "chat", far.id, {}))


async def test_faults_do_not_cross(
    process: Processes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = process(), process()
    _answers(monkeypatch, _raises(ZeroDivisionError("inner details")))
    far = await Client(there).join()
    with pytest.raises(Refusal) as refused:
        await soon(here.ask("try", "chat", far.id, {}))
    assert refused.value.message == "Internal server error"
    assert "inner details" in caplog.text


async def test_many_questions_at_once_get_their_own_answers(
    process: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = process(), process()

    async def is_even(members: Sequence[Any], arguments: dict[str, Any]) -> bool:
        await asyncio.sleep(0)
        return int(arguments["number"]) % 2 == 0

    monkeypatch.setitem(ANSWERS, "even", is_even)
    far = await Client(there).join()
    questions = [here.ask("even", "chat", far.id, {"number": str(number)}) for number in range(50)]
    assert await soon(asyncio.gather(*questions)) == [number % 2 == 0 for number in range(50)]
    assert here._questions.open == {}


@pytest.mark.usefixtures("quick_answers")
async def test_a_process_that_is_gone_has_no_connections(process: Processes) -> None:
    here, gone = process(), process()
    connection_id = Client(gone).id
    await soon(here.start())
    with pytest.raises(NotFound) as refused:
        await soon(here.ask("exists", "chat", connection_id, {}))
    assert refused.value.message == f"Connection `{connection_id}` is not found."
    assert here._questions.open == {}


async def test_connections_that_are_not_there(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = process(), process()
    asked = _answers(monkeypatch, lambda: True)
    near, far = await Client(here).join(), await Client(there).join()
    for board, client in ((here, near), (there, far)):
        board.detach(client)
        for connection_id in (client.id, board.new_connection_id()):
            with pytest.raises(NotFound):
                await soon(here.ask("try", "chat", connection_id, {}))
    assert asked == []


async def test_a_connection_is_in_its_hub_only(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = process(), process()
    asked = _answers(monkeypatch, lambda: True)
    for client in (await Client(here).join(), await Client(there).join()):
        with pytest.raises(NotFound):
            await soon(here.ask("try", "other", client.id, {}))
    assert asked == []


@pytest.mark.parametrize(
    "connection_id", ["", "x", "0" * 31, "0" * 33, "0" * 31 + "g", "A" * 32, "é" * 32, "../" * 10, "0" * 31 + "\n"]
)
async def test_what_is_no_connection_id_is_asked_of_nobody(process: Processes, connection_id: str) -> None:
    here = process()
    await soon(here.start())
    line_of(here).noted()
    with pytest.raises(NotFound):
        await soon(here.ask("exists", "chat", connection_id, {}))
    assert line_of(here).noted() == []


async def test_open_questions_are_bounded(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = process(), process()
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def wait(members: Sequence[Any], arguments: dict[str, Any]) -> bool:
        asked.set()
        return await go_on.wait()

    monkeypatch.setitem(ANSWERS, "wait", wait)
    monkeypatch.setattr(questions, "MAX_OPEN_QUESTIONS", 1)
    far = await Client(there).join()
    first = asyncio.create_task(here.ask("wait", "chat", far.id, {}))
    await soon(asked.wait())
    with pytest.raises(Unavailable, match="Too many questions"):
        await soon(here.ask("wait", "chat", far.id, {}))
    go_on.set()
    assert await soon(first)
    assert await soon(here.ask("wait", "chat", far.id, {}))


async def test_an_asker_who_gave_up_is_forgotten(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = process(), process()
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def wait(members: Sequence[Any], arguments: dict[str, Any]) -> bool:
        asked.set()
        return await go_on.wait()

    monkeypatch.setitem(ANSWERS, "wait", wait)
    far = await Client(there).join()
    question = asyncio.create_task(here.ask("wait", "chat", far.id, {}))
    await soon(asked.wait())
    question.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(question)
    assert here._questions.open == {}
    # The answer still comes, and disturbs nobody.
    go_on.set()
    assert await soon(here.ask("wait", "chat", far.id, {}))


async def test_everybody_answers(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    boards = [process() for _ in range(3)]

    async def who(members: Sequence[Any], arguments: dict[str, Any]) -> list[str]:
        return [member.id for member in members]

    monkeypatch.setitem(ANSWERS, "who", who)
    clients = [await Client(board, user_id=user).join() for board in boards for user in ("ann", "bob")]
    for audience, meant in (
        (Audience("chat"), clients),
        (Audience("chat", "g"), clients),
        (Audience("chat", user_id="ann"), clients[::2]),
        (Audience("chat", "nowhere"), []),
        (Audience("chat2"), []),
        (Audience("chat", excluded=(clients[0].id, clients[5].id)), clients[1:5]),
    ):
        answers = await soon(boards[0].ask_everybody("who", audience, {}))
        assert len(answers) == 3
        assert sorted(connection_id for answer in answers for connection_id in answer) == sorted(
            client.id for client in meant
        )


async def test_one_refusal_is_the_answer(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = process(), process()
    far = await Client(there).join()

    async def refuse(members: Sequence[Any], arguments: dict[str, Any]) -> int:
        if members:
            raise TooMany("that is enough")
        return 0

    monkeypatch.setitem(ANSWERS, "try", refuse)
    with pytest.raises(TooMany, match="that is enough"):
        await soon(here.ask_everybody("try", Audience(far.hub), {}))


@pytest.mark.usefixtures("quick_answers")
async def test_a_process_that_lives_and_does_not_answer(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it would have said is not known, so nothing is claimed."""
    here, there = process(), process()

    async def wait(members: Sequence[Any], arguments: dict[str, Any]) -> int:
        if members:
            await asyncio.Event().wait()
        return 0

    monkeypatch.setitem(ANSWERS, "wait", wait)
    far = await Client(there).join()
    with pytest.raises(Unavailable, match="did not answer in time"):
        await soon(here.ask("wait", "chat", far.id, {}))
    with pytest.raises(Unavailable, match="did not answer in time"):
        await soon(here.ask_everybody("wait", Audience("chat"), {}))
    assert here._questions.open == {}


async def test_who_said_goodbye_is_not_waited_for(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = process(), process()
    _answers(monkeypatch, lambda: True)
    far = await Client(there).join()
    assert await soon(here.ask("try", "chat", far.id, {}))
    await soon(there.stop())
    with pytest.raises(NotFound):
        await soon(here.ask("try", "chat", far.id, {}))


@pytest.mark.usefixtures("quick_answers")
async def test_who_died_is_not_waited_for_for_ever(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = process(), process()
    _answers(monkeypatch, lambda: True)
    far = await Client(there).join()
    assert await soon(here.ask("try", "chat", far.id, {}))
    for task in there._trunk.running:
        task.cancel()
    while far.id[:8] in await soon(here._hearing.others()):
        await asyncio.sleep(0)
    with pytest.raises(NotFound):
        await soon(here.ask("try", "chat", far.id, {}))


@pytest.mark.usefixtures("quick_answers")
async def test_an_answer_that_cannot_be_sent_is_no_loose_end(
    process: Processes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = process(), process()
    _answers(monkeypatch, lambda: True)
    far = await Client(there).join()
    line_of(there).before["group_send"] = break_line
    with pytest.raises(NotFound):
        await soon(here.ask("try", "chat", far.id, {}))
    gc.collect()
    assert [record for record in caplog.records if record.name == "asyncio"] == []
