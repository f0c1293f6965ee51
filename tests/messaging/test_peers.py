"""Who else is there, by the clock of the test."""

from __future__ import annotations

import pytest

from hubs.messaging.peers import Peers


@pytest.fixture
def peers() -> Peers:
    return Peers("own", hello_secs=1.0)


def _settle(peers: Peers, start: float = 0.0) -> float:
    """Hear one's own hellos until everybody is known; gives that moment."""
    for step in range(3):
        peers.hear("own", start + step)
    return start + 2


def test_at_first_nobody_is_known(peers: Peers) -> None:
    assert not peers.is_complete(0)
    assert not peers.is_complete(100)
    assert peers.alive() == set()


def test_everybody_is_known_once_the_line_has_worked_for_a_while(peers: Peers) -> None:
    peers.hear("own", 0)
    assert not peers.is_complete(1.49)
    assert peers.is_complete(1.5)


def test_others_hellos_do_not_prove_the_line(peers: Peers) -> None:
    for second in range(10):
        peers.hear("other", second)
    assert not peers.is_complete(9)


def test_the_living_are_those_heard_lately(peers: Peers) -> None:
    now = _settle(peers)
    peers.hear("early", now)
    for step in range(1, 6):
        peers.hear("own", now + step)
        peers.hear("late", now + step)
        assert peers.alive() == ({"early", "late"} if step <= 3 else {"late"})
    # The dead may come back.
    peers.hear("early", now + 6)
    assert peers.alive() == {"early", "late"}


def test_silence_counts_only_while_the_line_is_known_to_work(peers: Peers) -> None:
    """One that was heard a little earlier than this process itself is no sooner dead."""
    now = _settle(peers)
    peers.hear("other", now)
    peers.hear("own", now + 0.1)
    assert peers.is_complete(now + 3.25)
    assert peers.alive() == {"other"}
    # The line was away, and the other may find it later.
    for step in (10, 11, 12, 13):
        peers.hear("own", now + step)
        assert peers.alive() == {"other"}
    assert peers.is_complete(now + 13)
    peers.hear("own", now + 14)
    assert peers.alive() == set()


def test_nobody_grows_silent_on_a_disturbed_line(peers: Peers) -> None:
    now = _settle(peers)
    peers.hear("other", now)
    peers.disturbed()
    peers.hear("third", now + 50)
    assert peers.alive() == {"other", "third"}


def test_who_came_and_died_is_not_remembered(peers: Peers) -> None:
    for second in range(1000):
        peers.hear("own", second)
        peers.hear(f"process {second}", second)
        assert len(peers._heard) <= 6


def test_goodbye_is_believed_at_once(peers: Peers) -> None:
    peers.hear("other", 0)
    peers.forget("other")
    peers.forget("never heard")
    assert peers.alive() == set()


@pytest.mark.parametrize("silent", [False, True])
def test_after_a_disturbance_it_takes_a_while_again(peers: Peers, silent: bool) -> None:
    now = _settle(peers)
    assert peers.is_complete(now)
    if silent:
        now += 4
    else:
        peers.disturbed()
    assert not peers.is_complete(now)
    peers.hear("own", now)
    assert not peers.is_complete(now + 1)
    peers.hear("own", now + 1)
    assert peers.is_complete(now + 1.5)


def test_who_has_not_answered_and_may_live(peers: Peers) -> None:
    now = _settle(peers)
    peers.hear("silent", now)
    asked_at = now + 0.5
    asked = {"silent", "heard since", "unknown"}
    peers.hear("own", now + 1)
    peers.hear("heard since", now + 1.2)
    # The next hello of the silent one is not due yet.
    assert peers.perhaps_alive(asked, asked_at) == {"silent", "heard since"}
    peers.hear("own", now + 2)
    assert peers.perhaps_alive(asked, asked_at) == {"heard since"}


def test_who_has_not_answered_on_a_line_that_came_back(peers: Peers) -> None:
    """Who has not been heard since it came back may not have had the time."""
    now = _settle(peers)
    peers.hear("other", now)
    peers.disturbed()
    asked = {"other"}
    assert peers.perhaps_alive(asked, now + 1) == asked
    for step in (10, 11, 12, 13):
        peers.hear("own", now + step)
        assert peers.perhaps_alive(asked, now + 10) == asked
    peers.hear("own", now + 14)
    assert peers.perhaps_alive(asked, now + 10) == set()


@pytest.mark.parametrize("deaf", [False, True])
def test_whether_it_hears_itself(peers: Peers, deaf: bool) -> None:
    now = _settle(peers)
    if not deaf:
        peers.hear("own", now + 1)
    peers.hear("other", now + 1)
    assert peers.hears_itself(now + 0.5) is not deaf


def test_in_doubt_until_it_has_answered(peers: Peers) -> None:
    peers.hear("other", 0)
    peers.hear("third", 0)
    assert peers.all_hear
    peers.doubt()
    asked = peers.doubts
    peers.answered("other", asked)
    assert peers.hears("other")
    assert not peers.hears("third")
    # What was asked before the next disturbance says nothing about after it.
    peers.doubt()
    peers.answered("other", asked)
    assert not peers.hears("other")
    for process in ("other", "third"):
        peers.answered(process, peers.doubts)
    assert peers.all_hear


def test_one_alone_in_doubt(peers: Peers) -> None:
    peers.hear("other", 0)
    peers.hear("third", 0)
    peers.doubt("other")
    # Of one that was never heard there is nothing to doubt.
    peers.doubt("unknown")
    assert peers.hears("third")
    assert not peers.all_hear
    peers.forget("other")
    assert peers.all_hear


def test_the_dead_are_in_doubt_until_they_are_known_to_be_dead(peers: Peers) -> None:
    now = _settle(peers)
    peers.hear("other", now)
    peers.doubt()
    for step in (1, 2, 3):
        peers.hear("own", now + step)
        assert not peers.all_hear
    peers.hear("own", now + 4)
    assert peers.all_hear
