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
    assert peers.alive(0) == set()


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
    assert peers.alive(now + 1) == {"late"}
    # The dead may come back.
    peers.hear("early", now + 6)
    assert peers.alive(now + 6) == {"early", "late"}


def test_goodbye_is_believed_at_once(peers: Peers) -> None:
    peers.hear("other", 0)
    peers.forget("other")
    peers.forget("never heard")
    assert peers.alive(0) == set()


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
    peers.hear("heard since", now + 2)
    asked = {"silent", "heard since", "unknown"}
    assert peers.perhaps_alive(asked, now + 1, now + 2) == {"heard since"}
    # The line was away in between: who has not been heard since it came back may not have had the time.
    peers.disturbed()
    peers.hear("own", now + 2)
    assert peers.perhaps_alive(asked, now + 1, now + 2) == {"silent", "heard since"}
    assert peers.perhaps_alive(asked, now + 1, now + 9) == {"heard since"}
