"""What Redis keeps of connections, while it is there and while it is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis as Client

from hubs.cluster import records as room
from hubs.cluster.log import Log
from hubs.cluster.records import EXPIRY_SECS, Owned, Records
from hubs.errors import Unavailable
from tests.cluster.conftest import Process, Processes, soon, through, until
from tests.proxy import CuttingProxy

ID, OTHER = "a" * 32, "b" * 32
# The place of an entry has more bits than msgpack's numbers.
SNAPSHOT = {"id": ID, "place": (1_800_000_000_000 << 32) + 5, "number": 7, "groups": ["g", "é"], "sent": None}


@pytest.fixture
async def records(process: Processes) -> AsyncIterator[Any]:
    """Makes processes with records."""
    made: list[Records] = []

    async def make(*arguments: Any) -> tuple[Process, Records]:
        one = await process(*arguments).open()
        made.append(Records(one.name, one.log))
        return one, made[-1]

    yield make
    for each in made:
        await soon(each.stop())


async def _owned(records: Records, process: str) -> dict[str, Owned]:
    return {connection_id: owned async for connection_id, owned in records.owned_by(process)}


async def test_a_snapshot_is_read_as_it_was_written(records: Any, asked: Client, prefix: str) -> None:
    (_, here), (_, there) = await records(), await records()
    assert await soon(there.read("chat", ID)) is None
    await soon(here.create("chat", ID, SNAPSHOT))
    assert await soon(there.read("chat", ID)) == SNAPSHOT | {"version": room.VERSION}
    # In its hub alone.
    assert await soon(there.read("chat2", ID)) is None
    await soon(here.write("chat", ID, SNAPSHOT | {"number": 8, "newer": True}))
    assert (await soon(there.read("chat", ID)))["number"] == 8
    [key] = await asked.keys(f"{prefix}:session.*")
    assert EXPIRY_SECS - 60 < await asked.ttl(key) <= EXPIRY_SECS
    here.drop("chat", ID)
    # Behind what was written before, so this is done, too.
    await soon(here.write("chat", OTHER, SNAPSHOT))
    assert await soon(there.read("chat", ID)) is None


async def test_what_cannot_be_read_is_none(
    records: Any, asked: Client, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, here = await records()
    await soon(here.create("chat", ID, SNAPSHOT))
    [key] = await asked.keys(f"{prefix}:session.*")
    for broken in (b"", b"\xc1", b"\x01", b"\x80"):
        await asked.set(key, broken)
        assert await soon(here.read("chat", ID)) is None
    assert "cannot be read" in caplog.text


async def test_who_has_what_is_known_to_all(records: Any) -> None:
    (one, here), (_, there) = await records(), await records()
    await soon(here.begin())
    assert one.name in await soon(there.processes())
    ids = [f"{number:032x}" for number in range(1200)]
    for connection_id in ids:
        here.own("chat", connection_id, {"user": connection_id})
    await soon(here.create("chat", ID, SNAPSHOT))
    here.disown(ids[0])
    await soon(here.write("chat", OTHER, SNAPSHOT))
    owned = await _owned(there, one.name)
    expected = {each: Owned(room.VERSION, "chat", {"user": each}) for each in ids[1:]}
    assert owned == expected | {ID: Owned(room.VERSION, "chat")}
    there.disown(ids[2], one.name)
    await soon(there.write("chat", OTHER, SNAPSHOT))
    assert len(await _owned(here, one.name)) == 1200 - 2 + 1
    await soon(there.remove(one.name))
    assert await _owned(here, one.name) == {}
    assert one.name not in await soon(here.processes())


async def test_of_those_who_may_tell_of_an_end_one_does(records: Any) -> None:
    (one, here), (other, there) = await records(), await records()
    answers = await asyncio.gather(here.first_to_tell(ID, one.name), there.first_to_tell(ID, other.name))
    assert sorted(answers) == [False, True]
    for each, name in ((here, one.name), (there, other.name)):
        assert not await soon(each.first_to_tell(ID, name))


async def test_what_could_not_be_written_is_written_when_redis_is_back(
    records: Any, proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "AGAIN_SECS", 0.02)
    (one, here), (_, there) = await records(through(proxy)), await records()
    await soon(here.create("chat", ID, SNAPSHOT))
    proxy.refuse()
    proxy.abort()
    await until(lambda: one.log.is_away)
    for doing in (here.create("chat", OTHER, SNAPSHOT), here.read("chat", ID), here.processes()):
        with pytest.raises(Unavailable):
            await soon(doing)
    # Nobody waits for these; their order is kept.
    for number in range(100):
        here.own("chat", OTHER, {"number": number})
    here.disown(ID)
    here.drop("chat", ID)
    proxy.accept()
    await until(lambda: not here._unwritten)
    assert await _owned(there, one.name) == {OTHER: Owned(room.VERSION, "chat", {"number": 99})}
    assert await soon(there.read("chat", ID)) is None


async def test_what_waits_to_be_written_is_bounded(
    records: Any, proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MAX_UNWRITTEN", 10)
    one, here = await records(through(proxy))
    proxy.refuse()
    proxy.abort()
    await until(lambda: one.log.is_away)
    for number in range(20):
        here.own("chat", f"{number:032x}", None)
    await until(lambda: len(here._unwritten) == 10)
    proxy.accept()


@pytest.mark.parametrize("kind", ["memory", "pubsub"], indirect=True)
async def test_where_none_are_kept_nothing_is_done(records: Any) -> None:
    _, here = await records()
    log: Log = here._log
    assert not log.keeps
    await soon(here.begin())
    await soon(here.create("chat", ID, SNAPSHOT))
    here.own("chat", ID, {})
    here.disown(ID)
    here.drop("chat", ID)
    assert here._unwritten == []
