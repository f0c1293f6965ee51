"""Questions to all processes: exact, or no answer at all, whoever comes, goes, dies, hangs or is cut off."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from channels_redis.pubsub import RedisPubSubChannelLayer

from hubs.errors import Forbidden, NotFound, Refusal, TooMany, Unavailable
from hubs.messaging.envelope import Answer, Audience, Envelope, Goodbye, Question, decode
from hubs.messaging.switchboard import Switchboard
from hubs.protocols.codec import CODECS, Outgoing
from tests.messaging.conftest import HELLO_SECS, Line, Processes, line_of, publication, soon
from tests.messaging.processes import Visitor, all_meet, answering, die, hears_hello, ids, knows, who
from tests.running import PATIENCE, Redis

CHAT = Audience("chat")


@pytest.fixture(autouse=True)
def _who(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, "who")


@pytest.fixture
def patience(settings: Any) -> Callable[[float], None]:
    """Sets how long processes wait for answers."""

    def be_patient(secs: float) -> None:
        settings.WEBPUBSUB = settings.WEBPUBSUB | {"ANSWER_SECS": secs}

    return be_patient


class Broken(Exception):
    """What a layer without its server raises."""


async def _break() -> None:
    raise Broken("details of the network")


async def _hang() -> None:
    await asyncio.Event().wait()


# Who comes and goes


@pytest.mark.parametrize("processes", [1, 2, 3])
async def test_all_answers_are_there(process: Processes, processes: int) -> None:
    boards = [process() for _ in range(processes)]
    clients = [await Visitor(board).attach() for board in boards for _ in range(2)]
    for board in boards:
        assert await who(board) == ids(clients)
    # Whoever came or went is counted, or not, from that moment on.
    for client in clients[1:]:
        client.go()
        clients.remove(client)
        clients.append(await Visitor(client.board).attach())
        for board in boards:
            assert await who(board) == ids(clients)


async def test_many_questions_at_once(process: Processes) -> None:
    boards = [process() for _ in range(3)]
    clients = [await Visitor(board, user_id=str(number)).attach() for number, board in enumerate(boards)]
    questions = [who(board, Audience("chat", user_id=str(number % 4))) for number in range(60) for board in boards]
    answers = await soon(asyncio.gather(*questions))
    for number, answer in enumerate(answers):
        assert answer == ids(client for client in clients if client.user_id == str(number // 3 % 4))
    for board in boards:
        assert board._questions.open == {}


async def test_a_newcomer_counts_from_its_first_connection_on(process: Processes) -> None:
    here = process()
    clients = [await Visitor(here).attach()]
    assert await who(here) == ids(clients)
    for _ in range(5):
        clients.append(await Visitor(process()).attach())
        assert await who(here) == ids(clients)


async def test_a_newcomer_knows_everybody_before_it_answers(process: Processes) -> None:
    boards = [process() for _ in range(3)]
    clients = [await Visitor(board).attach() for board in boards[:2]]
    await all_meet(*boards[:2])
    # Not started before it is asked.
    assert await who(boards[2]) == ids(clients)


async def test_a_newcomer_is_counted_by_one_who_has_much_to_hear_first(process: Processes) -> None:
    """Its hello waits behind other messages, while the questions are asked at once."""
    here, newcomer = process(), process()
    near = await Visitor(here).join()
    await knows(here)
    go_on = asyncio.Event()
    line_of(here).before["receive"] = go_on.wait  # type: ignore[assignment]
    await hears_hello(here, of=here)
    far = await Visitor(newcomer).join()
    questions = [
        asyncio.create_task(who(here)),
        asyncio.create_task(here.ask("who", "chat", far.id, {})),
    ]
    for number in range(100):
        await soon(newcomer.publish(publication(str(number))))
    assert not any(question.done() for question in questions)
    go_on.set()
    assert await soon(asyncio.gather(*questions)) == [ids([near, far]), [far.id]]


async def test_who_said_goodbye_is_not_waited_for(process: Processes, patience: Callable[[float], None]) -> None:
    patience(10 * PATIENCE)
    boards = [process() for _ in range(3)]
    clients = [await Visitor(board).attach() for board in boards]
    await all_meet(*boards)
    await soon(boards[1].stop())
    await knows(boards[0], boards[2])
    assert await who(boards[0]) == ids([clients[0], clients[2]])


async def test_who_says_goodbye_while_it_is_asked_is_not_waited_for(
    process: Processes, patience: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    patience(10 * PATIENCE)
    here, there = process(), process()
    await Visitor(here).attach()
    far = await Visitor(there).attach()
    await all_meet(here, there)
    asked = asyncio.Event()

    async def hang_there(members: Sequence[Any]) -> int:
        if far in members:
            asked.set()
            await _hang()
        return len(members)

    answering(monkeypatch, "count", hang_there)
    everybody = asyncio.create_task(here.ask_everybody("count", CHAT, {}))
    home = asyncio.create_task(here.ask("count", "chat", far.id, {}))
    await soon(asked.wait())
    await soon(there.stop())
    assert await soon(everybody) == [1]
    with pytest.raises(NotFound):
        await soon(home)


async def test_a_hello_never_follows_the_goodbye(process: Processes) -> None:
    """Else all others wait for answers of a process that stopped."""
    here = process()
    await soon(here.start())
    for _ in range(5):
        there = process()
        line = line_of(there)
        said = line.layer = _Noting(line.layer)
        await soon(there.start())
        await hears_hello(here, of=there)
        await soon(there.stop())
        assert [type(envelope) for envelope in said.envelopes][-1] is Goodbye
        line.layer = said.layer
    await knows(here)


async def test_a_layer_that_swallows_a_cancellation_does_not_keep_it_from_stopping(process: Processes) -> None:
    """Clients of Redis do, when it comes together with their answer."""
    board = process()
    await soon(board.start())
    sending, stubborn = asyncio.Event(), True

    async def swallow() -> None:
        nonlocal stubborn
        if stubborn:
            sending.set()
            try:
                await _hang()
            except asyncio.CancelledError:
                stubborn = False

    line_of(board).before["group_send"] = swallow
    await soon(sending.wait())
    await soon(board.stop())
    assert not stubborn
    assert board._trunk.running == []


async def test_a_layer_that_hangs_does_not_keep_it_from_stopping(
    process: Processes, patience: Callable[[float], None]
) -> None:
    patience(HELLO_SECS)
    board = process()
    await soon(board.start())
    line_of(board).before["group_send"] = _hang
    await soon(board.stop())
    assert board._trunk.running == []


class _Noting:
    """A layer that notes what is sent."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.envelopes: list[Envelope] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)

    async def group_send(self, address: str, message: dict[str, Any]) -> None:
        await self.layer.group_send(address, message)
        self.envelopes.append(decode(message["body"]))


@pytest.mark.parametrize("audience", ["everybody", "its connection"])
async def test_who_dies_silently_is_not_waited_for_longer_than_promised(
    process: Processes, patience: Callable[[float], None], audience: str
) -> None:
    patience(5 * HELLO_SECS)
    boards = [process() for _ in range(3)]
    clients = [await Visitor(board).attach() for board in boards]
    await all_meet(*boards)
    await die(boards[1], heard_by=[boards[0]])
    loop = asyncio.get_running_loop()
    began = loop.time()
    if audience == "everybody":
        assert await who(boards[0]) == ids([clients[0], clients[2]])
    else:
        with pytest.raises(NotFound):
            await soon(boards[0].ask("who", "chat", clients[1].id, {}))
    assert loop.time() - began < 5 * HELLO_SECS + PATIENCE / 10
    # Once it has been silent for long enough nobody waits for it at all.
    await knows(boards[0], boards[2])
    patience(10 * PATIENCE)
    assert await who(boards[0]) == ids([clients[0], clients[2]])


async def test_of_a_process_that_is_gone_only_it_is_asked(
    process: Processes, patience: Callable[[float], None]
) -> None:
    """Those who live have nothing to say about its connections, and are not waited for."""
    patience(10 * PATIENCE)
    here, there, gone = process(), process(), process()
    far = await Visitor(gone).attach()
    await all_meet(here, there, gone)
    await soon(gone.stop())
    await knows(here, there)
    for connection_id in (far.id, process().new_connection_id()):
        with pytest.raises(NotFound) as refused:
            await soon(here.ask("who", "chat", connection_id, {}))
        assert refused.value.message == f"Connection `{connection_id}` is not found."


@pytest.mark.parametrize("hangs", ["all", "one"])
async def test_who_lives_and_does_not_answer_makes_it_unknown(
    process: Processes, patience: Callable[[float], None], monkeypatch: pytest.MonkeyPatch, hangs: str
) -> None:
    patience(4 * HELLO_SECS)
    boards = [process() for _ in range(3)]
    clients = [await Visitor(board).attach() for board in boards]
    stuck = clients[1:] if hangs == "all" else clients[2:]

    async def count(members: Sequence[Any]) -> int:
        if any(client in members for client in stuck):
            await _hang()
        return len(members)

    answering(monkeypatch, "count", count)
    with pytest.raises(Unavailable, match="did not answer in time"):
        await soon(boards[0].ask_everybody("count", CHAT, {}))
    with pytest.raises(Unavailable, match="did not answer in time"):
        await soon(boards[0].ask("count", "chat", stuck[0].id, {}))
    assert boards[0]._questions.open == {}


async def test_an_answer_that_is_lost_makes_it_unknown(process: Processes, patience: Callable[[float], None]) -> None:
    patience(4 * HELLO_SECS)
    here, there = process(), process()
    await Visitor(there).attach()
    await all_meet(here, there)
    line = line_of(there)
    line.layer = losing = _Losing(line.layer, Answer)
    with pytest.raises(Unavailable):
        await soon(who(here))
    line.layer = losing.layer


async def test_a_question_that_is_lost_makes_it_unknown(process: Processes, patience: Callable[[float], None]) -> None:
    """Even when nobody else is known to live: who would have answered is not known then."""
    patience(4 * HELLO_SECS)
    here = process()
    await Visitor(here).attach()
    await knows(here)
    line = line_of(here)
    line.layer = losing = _Losing(line.layer, Question)
    with pytest.raises(Unavailable):
        await soon(who(here))
    line.layer = losing.layer


class _Losing:
    """A layer on which one kind of envelope never arrives."""

    def __init__(self, layer: Any, kind: type) -> None:
        self.layer = layer
        self._kind = kind

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)

    async def group_send(self, address: str, message: dict[str, Any]) -> None:
        if not isinstance(decode(message["body"]), self._kind):
            await self.layer.group_send(address, message)


# Refusals


@pytest.mark.parametrize("where", ["here", "there"])
async def test_refusals_cross(process: Processes, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    boards = [process() for _ in range(3)]
    clients = [await Visitor(board).attach() for board in boards]
    for refusal in (NotFound("é"), TooMany("enough"), Unavailable("later"), Refusal("no")):

        async def refuse(members: Sequence[Any], refusal: Refusal = refusal) -> int:
            if clients[0 if where == "here" else 2] in members:
                raise refusal
            return len(members)

        answering(monkeypatch, "try", refuse)
        with pytest.raises(type(refusal)) as refused:
            await soon(boards[0].ask_everybody("try", CHAT, {}))
        assert type(refused.value) is type(refusal)
        assert refused.value.message == refusal.message


@pytest.mark.parametrize(
    ("problem", "message"), [(Forbidden("not you"), "not you"), (ZeroDivisionError("inner"), "Internal server error")]
)
async def test_what_cannot_cross_by_name_is_a_refusal(
    process: Processes, monkeypatch: pytest.MonkeyPatch, problem: Exception, message: str
) -> None:
    here, there = process(), process()
    far = await Visitor(there).attach()

    async def refuse(members: Sequence[Any]) -> int:
        if far in members:
            raise problem
        return len(members)

    answering(monkeypatch, "try", refuse)
    with pytest.raises(Refusal) as refused:
        await soon(here.ask_everybody("try", CHAT, {}))
    assert type(refused.value) is Refusal
    assert refused.value.message == message


async def test_an_answer_that_is_no_message_is_a_refusal(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the answer's fault; nobody takes the line for broken."""
    here, there = process(), process()
    far = await Visitor(there, user_id="\ud800").attach()

    async def users(members: Sequence[Any]) -> list[str]:
        return [member.user_id for member in members]

    answering(monkeypatch, "users", users)
    await all_meet(here, there)
    with pytest.raises(Refusal, match="Internal server error"):
        await soon(here.ask("users", "chat", far.id, {}))
    assert there._peers.is_complete(asyncio.get_running_loop().time())


async def test_a_question_that_is_no_message_does_not_disturb_the_line(process: Processes) -> None:
    here = process()
    await knows(here)
    with pytest.raises(UnicodeEncodeError):
        await soon(here.ask_everybody("who", Audience("chat", "\ud800"), {}))
    assert here._questions.open == {}
    assert here._peers.is_complete(asyncio.get_running_loop().time())


async def test_a_fault_in_delivering_does_not_disturb_the_line(
    process: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = process(), process()

    class Faulty(Visitor):
        socket = None
        codec: Any = CODECS["json.webpubsub.azure.v1"]

        def deliver(self, outgoing: Outgoing) -> None:
            self.board.leave(self, "g")
            raise RuntimeError("a fault")

    await Faulty(there).join()
    far = await Visitor(there).join("other")
    await all_meet(here, there)
    await soon(here.publish(publication("one")))
    await soon(here.publish(publication("two", "other")))
    await far.hears("two")
    assert "A publication could not be delivered" in caplog.text
    assert "disturbed" not in caplog.text


# A layer that fails


@pytest.mark.parametrize("method", ["new_channel", "group_add", "group_send"])
async def test_without_a_layer_from_the_start_nothing_is_known(
    process: Processes, patience: Callable[[float], None], method: str
) -> None:
    patience(3 * HELLO_SECS)
    here, there = process(), process()
    far = await Visitor(there).attach()
    line_of(here).before[method] = _break
    with pytest.raises(Unavailable, match="cannot be reached"):
        await soon(who(here))
    with pytest.raises(Unavailable, match="cannot be reached"):
        await soon(here.ask("who", "chat", far.id, {}))
    del line_of(here).before[method]
    assert await _in_the_end(here) == [far.id]


@pytest.mark.parametrize("failing", [_break, _hang])
@pytest.mark.parametrize("method", ["receive", "group_send"])
async def test_cut_off_it_knows_nothing_and_later_all(
    process: Processes,
    patience: Callable[[float], None],
    method: str,
    failing: Callable[[], Any],
) -> None:
    patience(3 * HELLO_SECS)
    here, there = process(), process()
    near, far = await Visitor(here).attach(), await Visitor(there).attach()
    await all_meet(here, there)
    back = asyncio.Event()

    async def fail() -> None:
        if not back.is_set():
            if failing is _break:
                raise Broken("details of the network")
            await back.wait()

    line_of(here).before[method] = fail
    if method == "receive":
        # It is in the middle of receiving: the next message, somebody's hello, still comes.
        await soon(here._hearing.heard_hello.wait())
    with pytest.raises(Unavailable):
        await soon(who(here))
    with pytest.raises(Unavailable):
        await soon(here.ask("who", "chat", far.id, {}))
    back.set()
    assert await _in_the_end(here) == ids([near, far])


async def _in_the_end(board: Switchboard) -> list[str]:
    """What is the answer, once there is one."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            return await who(board)
        except Unavailable:
            assert asyncio.get_running_loop().time() < deadline
            await soon(board._hearing.heard_hello.wait())


async def test_one_that_finds_the_line_later_is_not_forgotten(
    process: Processes, patience: Callable[[float], None]
) -> None:
    """All are cut off for longer than a silence lasts, and come back one after the other."""
    patience(HELLO_SECS)
    here, there = process(), process()
    near, far = await Visitor(here).attach(), await Visitor(there).attach()
    await all_meet(here, there)
    loop = asyncio.get_running_loop()
    for board in (here, there):
        line_of(board).before["group_send"] = _break
    silent_at = loop.time() + 4 * HELLO_SECS
    while loop.time() < silent_at:
        with pytest.raises(Unavailable):
            await soon(who(here))
    del line_of(here).before["group_send"]
    # As soon as it hears itself for long enough it would count.
    await hears_hello(here, of=here)
    with pytest.raises(Unavailable):
        await soon(who(here))
    del line_of(there).before["group_send"]
    assert await _in_the_end(here) == ids([near, far])


@pytest.fixture
async def own_redis(tmp_path: Path) -> AsyncIterator[Redis]:
    """A Redis that the test may stop and start."""
    redis = Redis(tmp_path)
    await asyncio.to_thread(redis.start)
    yield redis
    await asyncio.to_thread(redis.stop)


async def test_through_a_restart_of_redis_no_answer_is_wrong(own_redis: Redis) -> None:
    """Clients of Redis look again once a second, so some find it well before others."""
    layers = [RedisPubSubChannelLayer(hosts=[own_redis.url], prefix=secrets.token_hex(4)) for _ in range(1)]
    prefix = layers[0]._kwargs["prefix"]
    layers += [RedisPubSubChannelLayer(hosts=[own_redis.url], prefix=prefix) for _ in range(2)]
    boards = [Switchboard(Line(layer), alone=False, hello_secs=0.4) for layer in layers]
    try:
        clients = [await Visitor(board).attach() for board in boards]
        await all_meet(*boards)
        everybody = ids(clients)
        answers: list[list[str] | None] = []
        heard, back = asyncio.Event(), asyncio.Event()

        async def ask_on(board: Switchboard) -> None:
            while not back.is_set():
                try:
                    answers.append(await who(board))
                except Unavailable:
                    answers.append(None)
                heard.set()
                await asyncio.sleep(0.01)

        askers = [asyncio.create_task(ask_on(board)) for board in boards]
        await asyncio.to_thread(own_redis.stop)
        while None not in answers:
            heard.clear()
            await soon(heard.wait())
        await asyncio.to_thread(own_redis.start)
        for board in boards:
            assert await _in_the_end(board) == everybody
        # Not cancelled: `wait_for` of Python 3.11 gives its answer instead, if that came in the same turn of the loop.
        back.set()
        await soon(asyncio.gather(*askers))
        assert None in answers
        assert [answer for answer in answers if answer not in (None, everybody)] == []
    finally:
        for board in boards:
            await soon(board.stop())
            await soon(board._trunk.layer.layer.flush())
