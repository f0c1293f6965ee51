"""One process alone loses its way to Redis, with the service's own layer: what it claims, and what the others do.

That it cannot hear, the others learn from itself alone. As long as it can speak they know at once; if not, when
it has been silent for some hello times, and is taken for dead.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from hubs.errors import Unavailable
from hubs.layers.redis import RedisLayer
from hubs.messaging.moves import Arrival
from hubs.messaging.switchboard import Switchboard
from tests.messaging.conftest import HELLO_SECS, Client, publication, soon
from tests.messaging.processes import all_meet, knows, trusts_all
from tests.proxy import CuttingProxy
from tests.running import PATIENCE, Redis

OnRedis = Callable[..., Switchboard]


@pytest.fixture
async def process(redis_server: Redis) -> AsyncIterator[OnRedis]:
    """Makes processes with the service's own layer, directly or through a proxy."""
    prefix = f"test-{secrets.token_hex(4)}"
    boards: list[Switchboard] = []

    def make(proxy: CuttingProxy | None = None) -> Switchboard:
        url = redis_server.url if proxy is None else f"redis://127.0.0.1:{proxy.port}/0"
        boards.append(Switchboard(RedisLayer([url], prefix), alone=False, hello_secs=HELLO_SECS))
        return boards[-1]

    yield make
    for board in boards:
        await soon(board.stop())
        await soon(board._trunk.layer.flush())


@pytest.fixture
def proxy(redis_server: Redis) -> Iterator[CuttingProxy]:
    """A way to Redis that can be cut."""
    with CuttingProxy(redis_server.port) as way:
        yield way


async def _is_claimed(board: Switchboard, text: str, *, all_or_nobody: bool = False) -> bool:
    try:
        await soon(board.publish(publication(text), all_or_nobody=all_or_nobody))
    except Unavailable:
        return False
    return True


async def _claims_in_the_end(board: Switchboard, text: str, *, all_or_nobody: bool = False) -> None:
    """Publish until that is claimed to have reached all. On a busy machine there may be another reason for doubt."""
    while not await _is_claimed(board, text, all_or_nobody=all_or_nobody):
        await trusts_all(board)


@pytest.mark.parametrize("all_or_nobody", [False, True])
@pytest.mark.parametrize("fault", ["abort", "freeze"])
async def test_who_is_cut_off_claims_nothing_and_is_written_off(
    process: OnRedis, proxy: CuttingProxy, fault: str, all_or_nobody: bool
) -> None:
    here, third, cut_off = process(), process(), process(proxy)
    await all_meet(here, third, cut_off)
    near, far = await Client(third).join(), await Client(cut_off).join()
    proxy.refuse()
    if fault == "abort":
        proxy.abort()
    else:
        proxy.freeze()
    # Whatever is under way when it happens, and all later ones.
    for number in range(3):
        assert not await _is_claimed(cut_off, f"from there {number}", all_or_nobody=all_or_nobody)
    assert not cut_off._peers.all_hear
    # The others go on with whom they hear.
    await knows(here, third)
    await _claims_in_the_end(here, "meanwhile", all_or_nobody=all_or_nobody)
    assert "from there" not in "".join(await near.hears("meanwhile"))
    proxy.abort()
    proxy.accept()
    for board in (here, third):
        await knows(board, cut_off, third if board is here else here)
    # What was published meanwhile is not made up for.
    await _claims_in_the_end(here, "after", all_or_nobody=all_or_nobody)
    assert not any("meanwhile" in line for line in await far.hears("after"))
    await _claims_in_the_end(cut_off, "from there again", all_or_nobody=all_or_nobody)
    await near.hears("from there again")


async def test_who_cannot_hear_says_so_at_once(process: OnRedis, proxy: CuttingProxy) -> None:
    here, deaf = process(), process(proxy)
    await all_meet(here, deaf)
    far = await Client(deaf).join()
    # The first thing a process does is subscribe; what it publishes goes by the other.
    subscribing, _ = proxy.connections
    proxy.refuse()
    proxy.abort(subscribing)
    while here._peers.all_hear:
        await soon(here._hearing.heard_hello.wait())
    assert not await _is_claimed(here, "unheard")
    assert not await _is_claimed(here, "refused", all_or_nobody=True)
    proxy.accept()
    await _claims_in_the_end(here, "after")
    assert len(await far.hears("after")) == 1


async def test_a_connection_that_comes_is_not_probed_for(process: OnRedis) -> None:
    """A subscription is in force when this layer says so; what it costs is the subscriptions, and nothing published."""
    here, there = process(), process()
    await all_meet(here, there)
    arrival = Arrival(
        there.new_connection_id(), "chat", user_id=None, subprotocol=None, groups={"g"}, max_messages=9, max_bytes=999
    )
    before = here._trunk.lines.added
    await soon(here.expect(arrival))
    assert here._trunk.lines.added == before + 2
    await soon(there.publish(publication("one")))
    await soon(there.publish(publication("two", None)))
    async with asyncio.timeout(PATIENCE):
        while len(arrival.not_in({}, {"g"})) < 2:
            await asyncio.sleep(0)
    here.unexpect(arrival)
