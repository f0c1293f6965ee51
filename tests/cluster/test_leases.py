"""Which processes live: told by the order of the log, not by anybody's clock."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from hubs.cluster.entries import CONTROL_LOG, Entry, Goodbye, Hello
from hubs.cluster.leases import LEASE_HELLOS, Leases
from hubs.errors import Unavailable
from tests.cluster.conftest import Living, all_know, knows, soon, through, until
from tests.proxy import CuttingProxy
from tests.running import PATIENCE

SHARED = pytest.mark.parametrize("kind", ["ours", "pubsub", "queues"], indirect=True)


# Pure: what counts is the order in which hellos are read


class _Log:
    alone, keeps, is_away = False, True, False

    def append(self, name: str, entry: Entry) -> None:
        pass


def _observer() -> tuple[Leases, list[str]]:
    dead: list[str] = []
    log: Any = _Log()
    return Leases("me", log, dead.append), dead


def test_a_process_is_dead_after_enough_own_hellos_since_its_last() -> None:
    leases, dead = _observer()
    leases.take_hello(Hello("other", 1))
    for number in range(1, LEASE_HELLOS):
        leases.take_hello(Hello("me", number))
    # Its last one may be long ago: nothing else was read meanwhile.
    leases.take_hello(Hello("other", 2))
    assert dead == []
    for number in range(LEASE_HELLOS, 2 * LEASE_HELLOS - 1):
        leases.take_hello(Hello("me", number))
    assert (dead, leases.others) == ([], {"other"})
    leases.take_hello(Hello("me", 2 * LEASE_HELLOS - 1))
    assert dead == ["other"]
    leases.forget("other")
    assert (leases.others, leases.orphaned, leases.lives("other"), leases.lives("me")) == (
        set(),
        {"other"},
        False,
        True,
    )


def test_a_service_with_other_secrets_is_noticed_once(settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    def said(secret: str, *former: str) -> Hello:
        """What a process with these secrets says when it begins."""
        settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = secret, list(former)
        leases, _ = _observer()
        appended: list[Any] = []
        leases._log.append = lambda name, entry: appended.append(entry)  # type: ignore[method-assign]
        leases.take_hello(Hello(secret, asks=True))
        return Hello(secret, secrets=appended[0].secrets)

    hellos = [said("same"), said("newer", "same"), said("newer"), said("newest")]
    # One that has no secrets to tell, as it is of a former version.
    hellos.insert(0, Hello("former"))
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "same", ["older"]
    leases, _ = _observer()
    for hello in hellos:
        leases.take_hello(hello)
    [line] = [record.getMessage() for record in caplog.records if "SECRET_KEY" in record.getMessage()]
    assert line.startswith("Process newer has another SECRET_KEY and the same Redis database")


def test_hellos_out_of_turn_count_for_others_and_not_as_time() -> None:
    leases, dead = _observer()
    leases.take_hello(Hello("other", 1))
    for _ in range(3 * LEASE_HELLOS):
        leases.take_hello(Hello("me"))
    assert dead == []
    for number in range(1, LEASE_HELLOS):
        leases.take_hello(Hello("me", number))
    leases.take_hello(Hello("other"))
    leases.take_hello(Hello("me", LEASE_HELLOS))
    assert dead == []


# Among real ones


@SHARED
async def test_processes_know_each_other_from_the_start(living: Any, kind: str) -> None:
    everybody: list[Living] = []
    for _ in range(3):
        everybody.append(await living().start())
        if kind == "ours":
            # All that live are heard before the first own hello comes back, or answer it.
            assert everybody[-1].leases.others <= {each.name for each in everybody}
        await all_know(everybody)
    await everybody[0].hellos(2 * LEASE_HELLOS)
    assert [one.dead for one in everybody] == [[], [], []]


@SHARED
async def test_a_silent_process_is_dead_for_all_others(living: Any) -> None:
    everybody = [await living().start() for _ in range(3)]
    await all_know(everybody)
    silent, *others = everybody
    await soon(silent.leases.stop())
    for one in others:
        await until(partial(one.dead.__eq__, [silent.name]))
        assert not one.leases.lives(silent.name)
    await all_know(others)
    # It was not dead: it stood still, and says hello again.
    await soon(silent.leases.start())
    await all_know(everybody)
    assert [one.dead for one in others] == [[silent.name]] * 2


async def test_an_observer_that_stands_still_or_is_cut_off_declares_nobody_dead(
    living: Any, proxy: CuttingProxy
) -> None:
    cut_off, other = await living(through(proxy)).start(), await living().start()
    await all_know([cut_off, other])
    proxy.refuse()
    proxy.abort()
    # So long that for the other the time has run out.
    await until(lambda: other.dead)
    assert cut_off.dead == []
    proxy.accept()
    await cut_off.hellos(LEASE_HELLOS + 2)
    assert cut_off.dead == []
    await all_know([cut_off, other])


async def test_who_says_goodbye_is_not_waited_for(living: Any) -> None:
    here, there = await living().start(), await living().start()
    await all_know([here, there])
    await soon(there.leases.stop())
    appended = there.process.log.append(CONTROL_LOG, Goodbye(there.name))
    assert appended is not None
    await soon(appended)
    await until(knows(here))
    # What it has had nobody has yet.
    assert (here.dead, here.leases.orphaned) == ([], {there.name})
    waiting = asyncio.create_task(here.leases.all_adopted())
    await asyncio.sleep(0)
    assert not waiting.done()
    here.leases.adopted(there.name)
    await soon(waiting)


@pytest.mark.parametrize("kind", ["pubsub"], indirect=True)
async def test_where_nothing_is_kept_nothing_is_left_to_adopt(living: Any) -> None:
    here, there = await living().start(), await living().start()
    await all_know([here, there])
    await soon(there.leases.stop())
    await until(lambda: here.dead)
    assert here.leases.orphaned == set()


async def test_a_process_that_cannot_say_hello_has_not_begun(living: Any, proxy: CuttingProxy) -> None:
    one = living(through(proxy))
    await one.process.open(own=[CONTROL_LOG])
    proxy.refuse()
    proxy.abort()
    await until(lambda: one.process.log.is_away)
    with pytest.raises(Unavailable):
        await soon(one.leases.start())
    proxy.accept()
    await until(lambda: not one.process.log.is_away)
    async with asyncio.timeout(PATIENCE):
        while one.leases._saying is None:
            try:
                await one.leases.start()
            except Unavailable:
                await asyncio.sleep(0.02)
    await one.hellos(2)


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
async def test_who_is_alone_says_nothing(living: Any) -> None:
    one = await living().start()
    assert one.process.taken == []
    assert one.leases.others == set()
