"""A publication is a success only where all others hear it: processes whose lines come back one after the other."""

from __future__ import annotations

import pytest

from hubs.errors import Unavailable
from hubs.messaging.envelope import Audience, Publication
from hubs.messaging.switchboard import Switchboard
from tests.messaging.conftest import Client, Processes, break_line, line_of, publication, soon
from tests.messaging.processes import all_meet, hears_hello, trusts_all


async def _is_refused(board: Switchboard, text: str, *, all_or_nobody: bool = False) -> None:
    with pytest.raises(Unavailable):
        await soon(board.publish(publication(text), all_or_nobody=all_or_nobody))


async def _send_to(board: Switchboard, client: Client, text: str) -> None:
    await soon(board.publish(Publication(Audience("chat"), "text", text.encode(), connection=client.id)))


async def _doubts(board: Switchboard) -> None:
    while board._peers.all_hear:
        await soon(board._hearing.heard_hello.wait())


async def test_nothing_is_claimed_until_all_have_answered(process: Processes) -> None:
    here, there = process(), process()
    await all_meet(here, there)
    near, far = await Client(here).join(), await Client(there).join()
    # It cannot answer.
    line_of(there).before["group_send"] = break_line
    line_of(here).before["group_send"] = break_line
    await _is_refused(here, "one")
    del line_of(here).before["group_send"]
    for _ in range(2):
        await hears_hello(here, of=here)
        await _is_refused(here, "two")
        await _is_refused(here, "refused", all_or_nobody=True)
    del line_of(there).before["group_send"]
    await trusts_all(here)
    await soon(here.publish(publication("three")))
    await soon(here.publish(publication("four"), all_or_nobody=True))
    # What is not certain goes out all the same; what nobody may get then does not.
    assert [text for line in await near.hears("four") for text in ("one", "refused") if f'"{text}"' in line] == ["one"]
    assert not any('"refused"' in line for line in await far.hears("four"))


async def test_who_hears_nothing_says_so(process: Processes) -> None:
    here, there, third = process(), process(), process()
    await all_meet(here, there, third)
    far, other = await Client(there).join(), await Client(third).join()
    there._hearing.line_changed(False)
    await _doubts(here)
    await _is_refused(here, "one")
    await _is_refused(here, "nobody", all_or_nobody=True)
    with pytest.raises(Unavailable):
        await _send_to(here, far, "not to you")
    await _send_to(here, other, "to you")
    await other.hears("to you")
    # It goes on saying so.
    for _ in range(3):
        await hears_hello(here, of=there)
        assert not here._peers.all_hear
    there._hearing.line_changed(True)
    for board in (here, there, third):
        await trusts_all(board)
    await _send_to(here, far, "to you")
    heard = "".join(await far.hears("to you"))
    assert '"nobody"' not in heard
    assert '"not to you"' not in heard
    await soon(here.publish(publication("two")))
    await other.hears("two")
