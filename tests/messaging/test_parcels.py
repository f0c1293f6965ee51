"""What leaves together: publications of one turn of the loop, over our own layer on a real Redis."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from hubs.errors import Unavailable
from hubs.layers.redis import RedisLayer
from hubs.messaging import parcels
from hubs.messaging.envelope import Audience, Parcel, Publication, Question, decode, group_address, hub_address
from hubs.messaging.switchboard import ANSWERS, Switchboard
from tests.messaging.conftest import HELLO_SECS, Client, publication, soon
from tests.messaging.processes import all_meet
from tests.running import Redis

Make = Callable[..., Switchboard]


class Noting(RedisLayer):
    """Notes to which addresses parcels and questions were sent, and what was in them."""

    def __init__(self, **configuration: Any) -> None:
        super().__init__(**configuration)
        self.noted: list[tuple[str, list[str]]] = []

    def post(self, group: str, message: dict[str, Any]) -> asyncio.Future[int]:
        envelope = decode(message["body"])
        if isinstance(envelope, Parcel):
            self.noted.append((group, [publication.data.decode() for publication, *_ in envelope.items]))
        elif isinstance(envelope, Question):
            self.noted.append((group, [envelope.verb]))
        return super().post(group, message)


class Sharded(Noting):
    """One whose addresses are spread over several hosts, as far as anybody can tell."""

    one_order = False


@pytest.fixture
async def make(redis_server: Redis) -> AsyncIterator[Make]:
    """Makes processes that can reach each other."""
    prefix = f"test-{secrets.token_hex(4)}"
    boards: list[Switchboard] = []

    def board(layer: type[Noting] = Noting) -> Switchboard:
        boards.append(Switchboard(layer(hosts=[redis_server.url], prefix=prefix), alone=False, hello_secs=HELLO_SECS))
        return boards[-1]

    yield board
    for one in boards:
        await one.stop()
        await one._trunk.layer.flush()


def _noted(board: Switchboard) -> list[tuple[str, list[str]]]:
    noted: list[tuple[str, list[str]]] = board._trunk.layer.noted
    return noted


def _texts(client: Client) -> list[str]:
    return [outgoing.frame.payload.data.decode() for outgoing in client.outgoing]  # type: ignore[union-attr]


async def test_publications_of_one_turn_leave_together_in_their_order(make: Make) -> None:
    here, there = make(), make()
    both = await Client(there).join("a")
    await both.join("b")
    await all_meet(here, there)
    for number in range(10):
        here.post(publication(str(number), "ab"[number % 2]))
    here.post(publication("end", "b"))
    await both.hears("end")
    assert _texts(both) == [*map(str, range(10)), "end"]
    assert _noted(here) == [(hub_address("chat"), [*map(str, range(10)), "end"])]


async def test_those_of_one_group_go_to_its_address(make: Make) -> None:
    here, there = make(), make()
    far, other = await Client(there).join(), await Client(there).join("other")
    await all_meet(here, there)
    here.post(publication("one"))
    here.post(publication("two"))
    await far.hears("two")
    here.post(publication("alone"))
    await far.hears("alone")
    address = group_address("chat", "g")
    assert _noted(here) == [(address, ["one", "two"]), (address, ["alone"])]
    assert other.heard_nothing


async def test_hubs_are_parcels_of_their_own(make: Make) -> None:
    here, there = make(), make()
    far, other = await Client(there).join(), await Client(there, "other").join()
    await all_meet(here, there)
    for number in range(2):
        here.post(publication(f"far {number}"))
        here.post(publication(f"other {number}", hub="other"))
    await far.hears("far 1")
    await other.hears("other 1")
    assert _texts(far) == ["far 0", "far 1"]
    assert _texts(other) == ["other 0", "other 1"]


@pytest.mark.parametrize("reason", ["sharded", "many processes"])
async def test_neighbours_with_one_address_leave_together_where_a_hub_cannot(
    make: Make, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = make(Sharded if reason == "sharded" else Noting), make()
    if reason == "many processes":
        monkeypatch.setattr(parcels, "FEW_PROCESSES", 1)
    both = await Client(there).join("a")
    await both.join("b")
    await all_meet(here, there)
    for text, group in (("1", "a"), ("2", "a"), ("3", "b"), ("4", "a")):
        here.post(publication(text, group))
    await both.hears("4")
    a, b = group_address("chat", "a"), group_address("chat", "b")
    assert _noted(here) == [(a, ["1", "2"]), (b, ["3"]), (a, ["4"])]
    assert _texts(both) == ["1", "2", "3", "4"]


async def test_while_one_is_on_its_way_the_next_is_filled(make: Make) -> None:
    here, there = make(), make()
    far = await Client(there).join()
    await all_meet(here, there)
    first = here.post(publication("0"))
    assert first is not None
    while not _noted(here):
        await asyncio.sleep(0)
    # Nothing has been read from Redis since.
    posted = []
    for number in range(1, 10):
        posted.append(here.post(publication(str(number))))
        assert not first.done()
    await soon(first)
    assert not any(one.done() for one in posted if one is not None)
    await far.hears("9")
    assert [texts for _, texts in _noted(here)] == [["0"], [*map(str, range(1, 10))]]


async def test_a_parcel_is_bounded(make: Make) -> None:
    here, there = make(), make()
    far = await Client(there).join()
    await all_meet(here, there)
    large = "x" * (parcels.MOST_BYTES // 2)
    for number in range(parcels.MOST_TOGETHER + 1):
        here.post(publication(str(number)))
    for _ in range(3):
        here.post(publication(large))
    here.post(publication("end"))
    await far.hears("end")
    assert [len(texts) for _, texts in _noted(here)] == [parcels.MOST_TOGETHER, 3, 2]
    assert _texts(far) == [*map(str, range(parcels.MOST_TOGETHER + 1)), large, large, large, "end"]


async def test_what_is_asked_comes_behind_what_was_published(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = make(), make()
    far = await Client(there).join()
    await all_meet(here, there)

    async def had(*_: Any) -> list[str]:
        return _texts(far)

    monkeypatch.setitem(ANSWERS, "had", had)
    here.post(publication("one"))
    assert await soon(here.ask_process(there.process, "had", {})) == ["one"]
    assert [texts for _, texts in _noted(here)] == [["one"], ["had"]]


async def test_what_a_server_sends_leaves_with_the_others_and_is_here_last(make: Make) -> None:
    here, there = make(), make()
    near, far = await Client(here).join(), await Client(there).join()
    await all_meet(here, there)
    sending = [asyncio.create_task(here.publish(publication(str(number)), all_or_nobody=True)) for number in range(3)]
    await asyncio.sleep(0)
    assert near.heard_nothing
    await soon(asyncio.gather(*sending))
    assert _texts(near) == ["0", "1", "2"]
    await far.hears("2")
    assert _noted(here) == [(group_address("chat", "g"), ["0", "1", "2"])]


async def test_a_server_that_goes_away_has_sent_to_all_all_the_same(make: Make) -> None:
    here, there = make(), make()
    near, far = await Client(here).join(), await Client(there).join()
    await all_meet(here, there)
    sending = asyncio.create_task(here.publish(publication("one"), all_or_nobody=True))
    await asyncio.sleep(0)
    sending.cancel()
    await far.hears("one")
    await near.hears("one")
    await soon(here.all_sent())


async def test_a_doubt_that_comes_before_they_leave_stops_what_nobody_may_get(make: Make) -> None:
    here, there = make(), make()
    near, far = await Client(here).join(), await Client(there).join()
    await all_meet(here, there)
    posted = here.post(publication("uncertain"))
    sending = asyncio.create_task(here.publish(publication("refused"), all_or_nobody=True))
    await asyncio.sleep(0)
    here._peers.doubt()
    assert posted is not None
    with pytest.raises(Unavailable) as uncertain:
        await soon(posted)
    assert uncertain.value.published is not None
    with pytest.raises(Unavailable) as refused:
        await soon(sending)
    assert refused.value.published is None
    await far.hears("uncertain")
    assert _texts(near) == ["uncertain"]
    assert _noted(here) == [(group_address("chat", "g"), ["uncertain"])]


async def test_a_fault_in_one_is_not_one_of_the_others(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    here, there = make(), make()
    far = await Client(there).join()
    await all_meet(here, there)
    for text, condition in (("1", None), ("2", "this is no filter ("), ("3", None)):
        # Such a filter gets past no operation; another version of the service may know more of them.
        audience = Audience("chat", group="g", filter=condition)
        here._publishing._put(
            Publication(audience, "text", text.encode()), here._publishing.departures.begin(here_first=True), None
        )
    await far.hears("3")
    assert _texts(far) == ["1", "3"]
    assert "A publication could not be delivered" in caplog.text
    await soon(here.all_sent())
    assert far.board.taken()[here.process].packed() == (1, [1, 2, 3])
