"""The line between processes when it fails, and when it brings what nobody can read."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest

from hubs.errors import Refusal, Unavailable
from hubs.messaging.envelope import (
    Answer,
    Audience,
    Publication,
    Question,
    encode,
    process_address,
)
from hubs.messaging.trunk import MESSAGE_TYPE
from tests.messaging.conftest import Broken, Client, Processes, break_line, line_of, publication, soon


@pytest.mark.usefixtures("quick_answers")
async def test_who_cannot_reach_the_others_is_told(process: Processes, caplog: pytest.LogCaptureFixture) -> None:
    here = process()
    near = await Client(here).join()
    line_of(here).before["group_send"] = break_line
    with pytest.raises(Unavailable) as refused:
        await soon(here.publish(publication("one")))
    assert refused.value.message == "The other servers of this service cannot be reached."
    # Members here have it nevertheless, and the log says why the others have not.
    await near.hears("one")
    assert "details of the network" in caplog.text
    with pytest.raises(Unavailable, match="cannot be reached"):
        await soon(here.ask("count", "chat", "0" * 32, {}))


async def test_a_disturbed_line_is_listened_to_again(process: Processes, caplog: pytest.LogCaptureFixture) -> None:
    here, there = process(), process()

    async def break_once() -> None:
        del line_of(there).before["receive"]
        raise Broken

    line_of(there).before["receive"] = break_once
    far = await Client(there).join()
    await soon(here.publish(publication("one")))
    await far.hears("one")
    assert "disturbed" in caplog.text


async def test_a_layer_that_is_not_there_at_first(process: Processes) -> None:
    here, there = process(), process()
    line_of(there).before["new_channel"] = break_line
    far = Client(there)
    with pytest.raises(Broken):
        await soon(there.attach(far))
    line_of(there).before = {"group_add": break_line}
    with pytest.raises(Broken):
        await soon(there.attach(far))
    line_of(there).before = {}
    await far.join()
    await soon(here.publish(publication("one")))
    await far.hears("one")


# What is not for us


UNREADABLE: list[dict[str, Any]] = [
    {},
    {"body": None},
    {"body": "text"},
    {"body": 5},
    {"body": b""},
    {"body": b"garbage"},
    {"body": b"\xc1"},
    {"body": msgspec.msgpack.encode(["z", 1])},
    {"body": msgspec.msgpack.encode(["p", "chat"])},
    {"body": encode(Publication(Audience("chat", "g"), "hologram", b"secret"))},
    {"body": encode(Publication(Audience("chat", "g"), "text", b"secret \xff"))},
    {"body": encode(Answer(4711, "0" * 8))},
    {"body": encode(Question(1, "00000000", "dance", Audience("chat"), "0" * 32))},
    {"origin": 5, "body": b"garbage"},
    {"origin": None},
]


async def test_what_cannot_be_read_is_passed_over(process: Processes, caplog: pytest.LogCaptureFixture) -> None:
    here, there = process(), process()
    far = await Client(there).join()
    await soon(here.start())
    for number, message in enumerate(UNREADABLE):
        garbage = {"type": MESSAGE_TYPE, "origin": "x"} | message
        await soon(line_of(here).layer.group_send(process_address(there.process), garbage))
        # The line is sound behind each.
        await soon(here.publish(publication(str(number))))
        assert len(await far.hears(str(number))) == number + 1
    assert "disturbed" not in caplog.text
    assert "secret" not in caplog.text


async def test_nothing_secret_is_logged(process: Processes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "hubs")
    here, there = process(), process()
    far = await Client(there).join("secret group")
    await soon(here.publish(publication("secret text", "secret group")))
    await far.hears("secret text")
    line_of(here).before["group_send"] = break_line
    with pytest.raises(Refusal):
        await soon(here.publish(publication("secret text", "secret group")))
    assert "secret" not in caplog.text
