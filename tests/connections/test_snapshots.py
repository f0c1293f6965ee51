"""A snapshot and the entries behind it are the connection: whatever happened, and wherever the snapshot was taken."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from channels.layers import InMemoryChannelLayer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hubs.cluster.entries import (
    Begun,
    Change,
    Claim,
    Done,
    Ended,
    Entry,
    Gap,
    Publication,
    Publications,
    Skipped,
    encode,
    hub_log,
)
from hubs.cluster.entries import decode as decoded
from hubs.cluster.records import Records
from hubs.connections.connection import Connection
from hubs.connections.outbox import AsgiOutbox
from hubs.connections.snapshots import Rebuilt
from hubs.layers.positions import first_of, ms_of
from hubs.node import node as nodes
from hubs.node.node import Node
from hubs.node.publishing import PLACE_BITS
from hubs.protocols.codec import CODECS, Batch, Outgoing
from hubs.rules.audiences import Audience
from hubs.rules.roles import Permissions
from tests.connections.conftest import Server, WebPubSub

RELIABLE = "json.reliable.webpubsub.azure.v1"
OTHER = "0" * 8
HUB = "chat"
LOG = hub_log(HUB)


class Tape:
    """A log that keeps all and gives it at once; it has the records, too."""

    alone, keeps, is_away = False, True, False

    def __init__(self, node: Node) -> None:
        self.node = node
        self.rows: list[tuple[int, str, Entry]] = []
        self.kept: dict[str, bytes] = {}
        self.last = first_of(node.clock_ms())

    def append(self, name: str, entry: Entry) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if name == LOG:
            self.put(self.node.process, entry)
        done.set_result(None)
        return done

    def put(self, origin: str, entry: Entry) -> None:
        """Somebody has appended it, and it is read."""
        self.last += 1
        # As it is when it has been under way.
        entry = decoded(encode(entry))
        self.rows.append((self.last, origin, entry))
        self.node.take(LOG, self.last, origin, entry)

    def position(self, name: str) -> int:
        return self.last

    def behind(self, after: int, *, including: bool) -> list[tuple[int, str, Entry]]:
        return [row for row in self.rows if row[0] > after or (including and row[0] == after)]

    def execute(self, key: str, *command: Any) -> asyncio.Future[Any]:
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if command[0] == "SET":
            self.kept[key] = command[2]
        done.set_result(self.kept.get(key) if command[0] == "GET" else None)
        return done


class Story:
    """A connection of this process, and what happens to it."""

    def __init__(self) -> None:
        self.node = nodes._nodes[asyncio.get_running_loop()] = Node(InMemoryChannelLayer())
        self.tape: Any = Tape(self.node)
        self.node.log = self.tape
        self.node.records = Records(self.node.process, self.tape)
        self.connection = Connection(
            secrets.token_hex(16),
            HUB,
            CODECS[RELIABLE],
            self._outbox(),
            user_id="ann",
            permissions=Permissions(["webpubsub.joinLeaveGroup.g"]),
            subprotocol=RELIABLE,
        )
        self.connection._opened = True
        self.connection.groups.add("g")
        self.node.registry.attach(self.connection)
        self.snapshots: list[dict[str, Any]] = []
        self.number = 0

    def _outbox(self) -> AsgiOutbox:
        outbox = AsgiOutbox(Server().send, lambda: None)
        outbox.uncork()
        return outbox

    # What may happen

    def publish(self, origin: int, kinds: list[int], ttl_secs: int | None) -> None:
        me = self.connection.id
        audiences = (
            Audience(HUB, "g"),
            Audience(HUB, "h"),
            Audience(HUB),
            Audience(HUB, user_id="ann"),
            Audience(HUB, user_id="bob"),
            Audience(HUB, "g", excluded=(me,)),
            Audience(HUB, filter="'h' in groups"),
        )
        items = []
        for kind in kinds:
            self.number += 1
            text = str(self.number).encode()
            if kind < len(audiences):
                items.append(Publication(audiences[kind], "text", text, ttl_secs=ttl_secs))
            elif kind == len(audiences):
                items.append(Publication(Audience(HUB), "text", text, connection=me, ttl_secs=ttl_secs))
            else:
                # Its own, by this process, or by one that had it before and does not know.
                items.append(Publication(Audience(HUB, "g"), "text", text, sender=me, ack_id=self.number))
        # Nobody else has had what was never claimed.
        is_elsewhere = origin and me in self.node.ownership.claims.owners
        self.tape.put(OTHER if is_elsewhere else self.node.process, Publications(items))

    def change(self, verb: str, group: str) -> None:
        arguments: dict[str, Any] = {"groups": [group]}
        if verb in ("grant", "revoke"):
            arguments = {"permission": "sendToGroup", "group": group}
        self.number += 1
        self.tape.put(self.node.process, Change(verb, [self.connection.id], arguments, self.number))

    def acknowledge(self, but: int) -> None:
        backlog = self._backlog
        if backlog.last > but:
            backlog.acknowledge(backlog.last - but, _now())

    def claim(self) -> None:
        """A socket of this process claims it again, or the other process did, and this one after it."""
        self.tape.put(self.node.process, Claim(self.connection.id, ms_of(self.tape.last)))

    def lose_or_resume(self) -> None:
        if self.connection.outbox is not None:
            self.connection._drop_outbox()
        else:
            self.connection.resume(self._outbox())

    def skip(self) -> None:
        """It is too late for whatever may be too late."""
        self.node.settle()
        late = self._backlog.late(float("inf"))
        if late and self.connection.outbox is None:
            frames = [divmod(place, 1 << PLACE_BITS) for place in self._backlog.places(late)]
            self.tape.put(self.node.process, Skipped(self.connection.id, frames))

    def begin(self) -> None:
        self.number += 1
        self.tape.put(self.node.process, Begun(self.connection.id, self.number))

    def finish(self, with_reply: bool, failed: bool) -> None:
        pending = [ack_id for ack_id, begun in (self.connection.begun_events or {}).items() if begun.place is None]
        self.connection.session.state = f"state {self.number}"
        done = Done(
            self.connection.id,
            pending[0] if pending else None,
            "InternalServerError" if failed and pending else None,
            None,
            self.connection.session.packed(),
            ("text", b"reply", {"k": "v"}) if with_reply else None,
        )
        self.tape.put(self.node.process, done)

    def take_snapshot(self) -> None:
        written = self.node.records.write(HUB, self.connection.id, self.connection.snapshot())
        assert written.done()
        read = asyncio.ensure_future(self.node.records.read(HUB, self.connection.id))
        read.add_done_callback(lambda done: self.snapshots.append(done.result()))

    @property
    def _backlog(self) -> Any:
        return self.connection.backlog

    # What has to be so

    def rebuilt(self, snapshot: dict[str, Any]) -> Rebuilt:
        rebuilt = Rebuilt(snapshot, self.node.ownership.claims, self.node.clock_ms())
        for row in self.tape.behind(rebuilt.after, including=rebuilt.including):
            rebuilt.take(*row)
        return rebuilt

    def assert_alike(self, snapshot: dict[str, Any]) -> None:
        rebuilt = self.rebuilt(snapshot)
        assert rebuilt.problem == ""
        other, own = rebuilt.connection, self.connection
        assert other.groups == own.groups
        assert other.permissions.packed() == own.permissions.packed()
        assert sorted(other.acks) == sorted(own.acks)
        assert other.session.state == own.session.state
        assert self._pending(other) == self._pending(own)
        backlog: Any = other.backlog
        # Which is not in the log: what was acknowledged since is sent once more.
        assert backlog.acknowledged[0] <= self._backlog.acknowledged[0]
        backlog.acknowledge(self._backlog.acknowledged[0], _now())
        assert list(backlog._places or ()) == list(self._backlog._places or ())
        assert (backlog.last, list(backlog.replay())) == (self._backlog.last, list(self._backlog.replay()))

    @staticmethod
    def _pending(connection: Connection) -> set[int]:
        return {ack_id for ack_id, begun in (connection.begun_events or {}).items() if begun.place is None}


_GROUP = st.sampled_from("gh")
_STEP = st.one_of(
    st.tuples(
        st.just("publish"),
        st.integers(0, 1),
        st.lists(st.integers(0, 8), min_size=1, max_size=4),
        st.none() | st.just(5),
    ),
    st.tuples(st.just("change"), st.sampled_from(["join", "leave", "grant", "revoke"]), _GROUP),
    st.tuples(st.just("acknowledge"), st.integers(0, 4)),
    st.tuples(st.just("claim")),
    st.tuples(st.just("lose_or_resume")),
    st.tuples(st.just("skip")),
    st.tuples(st.just("begin")),
    st.tuples(st.just("finish"), st.booleans(), st.booleans()),
    st.tuples(st.just("take_snapshot")),
    st.tuples(st.just("turn")),
)


# A snapshot of a time when frames had been left out that are behind its place.
_MOVED_UP: list[tuple[Any, ...]] = [
    ("lose_or_resume",),
    ("publish", 0, [0, 0], 5),
    ("publish", 0, [0, 0], None),
    ("skip",),
    ("acknowledge", 1),
]


@given(st.lists(_STEP, max_size=40))
@example(_MOVED_UP)
@settings(max_examples=150)
def test_any_snapshot_and_what_is_behind_it_are_the_connection(steps: list[tuple[Any, ...]]) -> None:
    async def run() -> None:
        story = Story()
        story.take_snapshot()
        for verb, *arguments in steps:
            if verb == "turn":
                await asyncio.sleep(0)
            else:
                getattr(story, verb)(*arguments)
        story.take_snapshot()
        story.node.settle()
        for _ in range(3):
            await asyncio.sleep(0)
        for snapshot in story.snapshots:
            story.assert_alike(snapshot)
        story.connection._stop_expiry()

    asyncio.run(run())


# One by one


async def _story() -> Story:
    story = Story()
    story.take_snapshot()
    for _ in range(2):
        await asyncio.sleep(0)
    return story


async def test_what_has_ended_or_lost_messages_is_not_made_again() -> None:
    for entry, problem in (
        (lambda story: Ended(story.connection.id), "It has ended."),
        (lambda story: Gap(), "Redis has lost a part of the log."),
    ):
        story = await _story()
        story.tape.rows.append((story.tape.last + 1, story.node.process, entry(story)))
        assert story.rebuilt(story.snapshots[0]).problem == problem


async def test_what_another_process_says_for_it_does_not_count() -> None:
    story = await _story()
    me = story.connection.id
    for entry in (
        Change("join", [me], {"groups": ["h"]}, 7),
        Publications([Publication(Audience(HUB, "g"), "text", b"void", sender=me, ack_id=8)]),
        Begun(me, 9),
        Done(me, 9, reply=("text", b"void", None)),
        Skipped(me, [(1, 1)]),
        Ended(me),
    ):
        story.tape.put(OTHER, entry)
    rebuilt = story.rebuilt(story.snapshots[0])
    assert rebuilt.problem == ""
    assert rebuilt.connection.groups == {"g"}
    assert list(rebuilt.connection.acks) == []
    assert rebuilt.connection.backlog is not None
    assert len(rebuilt.connection.backlog) == 0


async def test_what_came_since_an_old_snapshot_need_not_fit_into_the_buffer(webpubsub: WebPubSub) -> None:
    """Its client has acknowledged most of it, which is known only when all has been read."""
    webpubsub(RELIABLE_BUFFER_MESSAGES=10)
    story = await _story()
    for _ in range(4):
        story.publish(0, [0] * 4, None)
        story.node.settle()
        story.acknowledge(but=0)
    story.publish(0, [0], None)
    story.node.settle()
    story.assert_alike(story.snapshots[0])
    # From then on it is as any other.
    connection = story.rebuilt(story.snapshots[0]).done()
    assert connection.backlog is not None
    batch = Batch()
    batch.add(Outgoing(Publication(Audience(HUB, "g"), "text", b"x").frame), connection.codec)
    assert connection.backlog.put(batch, _now(), sent=False) is None


async def test_the_reply_to_an_event_without_ack_id_is_delivered() -> None:
    story = await _story()
    story.finish(with_reply=True, failed=False)
    assert story._backlog.last == 1
    story.assert_alike(story.snapshots[0])


async def test_the_end_of_an_event_that_comes_again_means_nothing() -> None:
    story = await _story()
    story.begin()
    story.finish(with_reply=True, failed=False)
    story.acknowledge(but=0)
    # From here on nobody remembers the event.
    story.take_snapshot()
    await asyncio.sleep(0)
    me = story.connection.id
    story.tape.put(story.node.process, Done(me, story.number, reply=("text", b"reply", None)))
    assert story._backlog.last == 1
    for snapshot in story.snapshots:
        story.assert_alike(snapshot)


def _now() -> float:
    return asyncio.get_running_loop().time()
