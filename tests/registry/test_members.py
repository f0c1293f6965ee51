"""How a message gets to all members at once: each once, in order, whatever their kinds and whoever comes or goes."""

from __future__ import annotations

import asyncio
import gc
import secrets
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubs.protocols.codec import CODECS, Batch, Codec, Outgoing
from hubs.protocols.frames import TEXT, Payload, Pong, ServerMessage
from hubs.protocols.framing import frames_of
from hubs.protocols.plain import PlainCodec
from hubs.registry import members as room
from hubs.registry.members import LEAST_TOGETHER, Members, Numbering

PLAIN = PlainCodec()
KINDS: dict[str, Codec] = {
    "simple": PLAIN,
    "json": CODECS["json.webpubsub.azure.v1"],
    "protobuf": CODECS["protobuf.webpubsub.azure.v1"],
    "reliable": CODECS["json.reliable.webpubsub.azure.v1"],
    "reliable protobuf": CODECS["protobuf.reliable.webpubsub.azure.v1"],
}


class Audience:
    def __init__(self, sockets: Sequence[Socket]) -> None:
        self.sockets = list(sockets)

    def write(self, frames: bytes) -> None:
        for socket in self.sockets:
            socket.read.append(("many", frames))


class Socket:
    def __init__(self, server: object) -> None:
        self.server = server
        self.read: list[tuple[str, bytes]] = []
        self.made: list[Audience] = []

    def together(self, sockets: Sequence[Socket]) -> Audience:
        assert self in sockets
        assert {socket.server for socket in sockets} == {self.server}
        self.made.append(Audience(sockets))
        return self.made[-1]


class Member:
    """One of a kind; `server` is None where it has no socket that could be written to with others."""

    def __init__(self, kind: str, server: object = "server") -> None:
        self.kind = kind
        self.id = secrets.token_hex(4)
        self.hub, self.user_id, self.subprotocol = "chat", None, None
        self.groups: set[str] = set()
        self.codec = KINDS[kind]
        self._socket = None if server is None else Socket(server)
        self.open = True
        self.read: list[tuple[str, bytes]] = [] if self._socket is None else self._socket.read
        self.last = 0

    @property
    def socket(self) -> Any:
        return self._socket if self.open and not self.codec.reliable else None

    def deliver(self, outgoing: Outgoing) -> None:
        assert not self.codec.reliable
        form = outgoing.form(self.codec)
        if form is not None:
            self.read.append(("one", frames_of(form)))

    def number(self, batch: Batch, now: float) -> None:
        assert self.codec.reliable
        for stamps in batch.stamps:
            self.last += 1
            self.read.append(("numbered", stamps[self.last]))

    def expected(self, texts: Sequence[str]) -> list[bytes]:
        """What it is to read, encoded for it alone."""
        forms = [self.codec.encode(_frame(text)) for text in texts]
        if self.codec.reliable:
            forms = [None if form is None else self.codec.stamp(form, at + 1) for at, form in enumerate(forms)]
        return [frames_of(form) for form in forms if form is not None]

    @property
    def heard(self) -> list[bytes]:
        return [frames for _, frames in self.read]


def _frame(text: str) -> ServerMessage:
    return ServerMessage(Payload(TEXT, text.encode()))


def _outgoing(text: str) -> Outgoing:
    return Outgoing(_frame(text))


def _members(*all_of_them: Any) -> Members:
    members = Members()
    for member in all_of_them:
        members.put(member)
    return members


_STEP = st.one_of(
    st.tuples(st.just("say"), st.just(0)),
    st.tuples(st.just("say"), st.just(0)),
    st.tuples(st.just("come"), st.integers(0, 19)),
    st.tuples(st.just("go"), st.integers(0, 19)),
    st.tuples(st.just("open"), st.integers(0, 19)),
    st.tuples(st.just("settle"), st.just(0)),
    st.tuples(st.just("turn"), st.just(0)),
)


@given(
    st.lists(
        st.tuples(st.sampled_from(list(KINDS)), st.sampled_from(["one server", "another", None])),
        min_size=20,
        max_size=20,
    ),
    st.lists(_STEP, max_size=50),
)
def test_each_gets_each_message_once_and_in_order(kinds: list[Any], steps: list[tuple[str, int]]) -> None:
    async def run() -> None:
        everybody: list[Any] = [Member(kind, server) for kind, server in kinds]
        members, numbering = _members(*everybody[:10]), Numbering()
        texts: dict[Any, list[str]] = {member: [] for member in everybody}
        for number, (step, who) in enumerate(steps):
            member = everybody[who]
            if step == "say":
                members.deliver(_outgoing(f"message {number}"), numbering)
                for present in members.values():
                    texts[present].append(f"message {number}")
            elif step == "come" and member.id not in members:
                members.put(member)
            elif step == "go" and member.id in members:
                members.remove(member)
            elif step == "open":
                member.open = not member.open
                members.changed()
            elif step == "settle":
                numbering.settle()
            else:
                await asyncio.sleep(0)
        numbering.settle()
        for member in everybody:
            assert member.heard == member.expected(texts[member])

    asyncio.run(run())


# With little work


async def test_those_alike_are_told_together_and_frames_are_made_once_per_format() -> None:
    alike = [Member("json") for _ in range(5)]
    others = [Member("protobuf") for _ in range(LEAST_TOGETHER)]
    few = [Member("simple") for _ in range(LEAST_TOGETHER - 1)]
    elsewhere = [Member("json", "another") for _ in range(LEAST_TOGETHER)]
    members, numbering = _members(*alike, *others, *few, *elsewhere), Numbering()
    for text in ("one", "two"):
        members.deliver(_outgoing(text), numbering)
    for together in (alike, others, elsewhere):
        assert [how for how, _ in together[0].read] == ["many", "many"]
        # All hold the same bytes.
        assert len({id(member.heard[0]) for member in together}) == 1
        audiences = [audience for member in together for audience in member.socket.made]
        assert [set(audience.sockets) for audience in audiences] == [{member.socket for member in together}]
    assert [how for member in few for how, _ in member.read] == ["one"] * 4
    assert alike[0].heard[0] is elsewhere[0].heard[0]


async def test_the_audience_is_made_anew_only_when_somebody_comes_or_goes() -> None:
    everybody: list[Any] = [Member("json") for _ in range(5)]
    members, numbering = _members(*everybody), Numbering()

    def made() -> int:
        return sum(len(member._socket.made) for member in everybody if member._socket is not None)

    for number in range(3):
        members.deliver(_outgoing(str(number)), numbering)
    assert made() == 1
    members.remove(everybody[0])
    members.deliver(_outgoing("without"), numbering)
    assert made() == 2
    members.put(everybody[0])
    everybody[1].open = False
    members.changed()
    members.deliver(_outgoing("again"), numbering)
    assert made() == 3
    assert len(everybody[0].read) == 4
    assert everybody[1].read[-1][0] == "one"


async def test_what_a_format_has_no_word_for_is_not_told() -> None:
    everybody = [Member("simple") for _ in range(LEAST_TOGETHER)]
    numbering = Numbering()
    _members(*everybody).deliver(Outgoing(Pong()), numbering)
    numbering.settle()
    assert [member.read for member in everybody] == [[]] * LEAST_TOGETHER


async def test_of_those_who_went_nothing_is_kept() -> None:
    everybody = [Member("json") for _ in range(3)] + [Member("reliable")]
    members, numbering = _members(*everybody), Numbering()
    members.deliver(_outgoing("one"), numbering)
    seen = [weakref.ref(member) for member in everybody]
    for member in list(members.values()):
        members.remove(member)
    await asyncio.sleep(0)
    del member
    gc.disable()
    try:
        everybody.clear()
        assert [reference() for reference in seen] == [None] * 4
    finally:
        gc.enable()


# Numbers


async def test_messages_of_a_turn_are_numbered_together_at_its_end() -> None:
    together, apart = [Member("reliable") for _ in range(3)], Member("reliable")
    for number, member in enumerate(together):
        member.last = number // 2
    both, alone, numbering = _members(*together), _members(apart), Numbering()
    for text in ("one", "two"):
        both.deliver(_outgoing(text), numbering)
    assert [member.read for member in together] == [[]] * 3
    await asyncio.sleep(0)
    assert [member.last for member in together] == [2, 2, 3]
    # Others meanwhile: what came before is settled first.
    both.deliver(_outgoing("three"), numbering)
    alone.deliver(_outgoing("to another"), numbering)
    assert [member.last for member in (*together, apart)] == [3, 3, 4, 0]
    numbering.settle()
    assert apart.last == 1


@pytest.mark.parametrize(("size", "count"), [(10, room.MOST_PUT_OFF), (10_000, room.MOST_PUT_OFF_BYTES // 10_000 + 1)])
async def test_no_more_is_put_off_than_is_good(size: int, count: int) -> None:
    member, numbering = Member("reliable"), Numbering()
    members = _members(member)
    for number in range(count):
        assert member.last == 0
        members.deliver(_outgoing("x" * size), numbering)
        assert number + 1 == count or len(numbering._batch) == number + 1
    assert member.last == count
    assert len(numbering._batch) == 0
    await asyncio.sleep(0)
    assert member.last == count
