"""Two processes on one Redis when something breaks: what is said to have happened has, and all of it works again soon.

test_redis_away.py shows a single process without its Redis. Here two talk to each other all the time, and each
number that one of them says is followed: when it came to members beside the speaker and in the other process, what the
ack said of it, and what REST answered. The times of outages are kept short; how long they last makes no
difference once they are noticed, which takes less than a second.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import psutil
import pytest
from azure.core.exceptions import HttpResponseError

from tests.manage_api.test_live import Program as Staff
from tests.running import PATIENCE, Redis, Service
from tests.service.client import (
    JSON,
    Client,
    Sdk,
    Target,
    answered,
    group_message,
    known_members,
    ok,
    opened,
)
from tests.service.rest import call
from tests.tutorials.driven import DrivenClient, eventually
from tests.tutorials.programs import Program, node, python

Unique = Callable[[str], str]

# One message in so many seconds, of each who talks.
PACE_SECS = 0.01

# How long Redis is away: some of it until that is noticed, and the rest to look around.
AWAY_SECS = 1.5

UNREACHABLE = {"name": "InternalServerError", "message": "The other servers of this service cannot be reached."}


class Outage:
    """A Redis that can be taken away, and comes back with nothing in it, or in the middle of a word."""

    def __init__(self, redis: Redis, kind: str) -> None:
        self.redis, self.kind = redis, kind

    async def begin(self) -> None:
        if self.kind == "restarted":
            await asyncio.to_thread(self.redis.stop)
        else:
            self._signal(signal.SIGSTOP)

    async def end(self) -> None:
        """Redis answers again when this returns."""
        if self.kind == "restarted":
            await asyncio.to_thread(self.redis.start)
        else:
            self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self.redis.process is not None
        self.redis.process.send_signal(number)


@dataclass
class Pair:
    """Two processes of one service, and their Redis."""

    redis: Redis
    first: Service
    second: Service
    one: Target = field(init=False)
    other: Target = field(init=False)
    staff: Staff = field(init=False)

    def __post_init__(self) -> None:
        self.staff = Staff(self.first)
        self.use(self.first.connection_string)

    def use(self, whole: str) -> None:
        """Reach both with this connection string, which names the first."""
        self.one, self.other = Target(whole), Target(whole.replace(self.first.endpoint, self.second.endpoint))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    redis = Redis(tmp_path_factory.mktemp("redis")).start()
    env = {"REDIS_URL": redis.url}
    first = Service(tmp_path_factory.mktemp("pair"), env=env).set_up()
    second = Service(first.data_dir, env=env | {"EXTRA_ENDPOINTS": first.endpoint})
    try:
        yield Pair(redis, first.start(), second.start())
        for service in (first, second):
            assert "Traceback" not in service.log.read_text(), service.log.read_text()
    finally:
        second.stop()
        first.stop()
        redis.stop()


@pytest.fixture(autouse=True)
def _ready(pair: Pair) -> None:
    """The outage of an earlier test is over."""
    for service in (pair.first, pair.second):
        service.until_ready()


# Following what is said


@dataclass
class Talk:
    """Numbers that somebody says to a group, one after the other, and what becomes of each."""

    group: str
    said: dict[int, float] = field(default_factory=dict)
    acked: dict[int, tuple[float, Any]] = field(default_factory=dict)
    # By listener: each number and when it came, in the order in which they came.
    heard: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    @property
    def claimed(self) -> set[int]:
        """Those that the service said everybody gets."""
        return {number for number, (_, error) in self.acked.items() if error is None}

    def numbers(self, listener: str) -> list[int]:
        return [number for number, _ in self.heard[listener]]

    async def say(self, speaker: Client, *, acks: bool) -> None:
        """Say numbers for ever."""
        while True:
            number = len(self.said) + 1
            frame = {"ackId": number} if acks else {}
            self.said[number] = time.monotonic()
            await speaker.say(type="sendToGroup", group=self.group, data=number, noEcho=True, **frame)
            await asyncio.sleep(PACE_SECS)

    async def take_acks(self, speaker: Client) -> None:
        while True:
            ack = json.loads(await speaker.socket.recv())
            assert ack["ackId"] not in self.acked
            self.acked[ack["ackId"]] = (time.monotonic(), None if ack["success"] else ack["error"])

    async def listen(self, name: str, listener: Client) -> None:
        while True:
            message = json.loads(await listener.socket.recv())
            self.heard[name].append((message["data"], time.monotonic()))

    async def is_heard_by_all(self) -> None:
        """Wait until everybody hears what is said now."""
        number = len(self.said) + 1
        await until(lambda: all(heard and heard[-1][0] >= number for heard in self.heard.values()))


@asynccontextmanager
async def talk(speaker: Client, group: str, *, acks: bool, **listeners: Client) -> AsyncIterator[Talk]:
    """Somebody talks to a group all the time, and others listen. At the end all that was said has been answered."""
    followed = Talk(group, heard={name: [] for name in listeners})
    talking = asyncio.create_task(followed.say(speaker, acks=acks))
    hearing = [asyncio.create_task(followed.listen(name, listener)) for name, listener in listeners.items()]
    hearing.append(asyncio.create_task(followed.take_acks(speaker)))
    try:
        yield followed
        talking.cancel()
        if acks:
            await until(lambda: len(followed.acked) == len(followed.said))
        last = max(followed.said)
        await until(lambda: all(followed.numbers(name)[-1] == last for name in listeners))
    finally:
        for task in (talking, *hearing):
            task.cancel()
        for ended in await asyncio.gather(talking, *hearing, return_exceptions=True):
            if not isinstance(ended, asyncio.CancelledError) and isinstance(ended, BaseException):
                raise ended


async def until(is_so: Callable[[], bool]) -> None:
    """Look until it is so."""
    async with asyncio.timeout(PATIENCE):
        while not is_so():
            await asyncio.sleep(0.01)


async def send(target: Target, group: str, number: int) -> int:
    """One send by REST, once; gives the status."""
    path = f"/api/hubs/chat/groups/{group}/:send?api-version=2024-12-01"
    return (await call(target, "POST", path, json.dumps(number), Content_Type="application/json")).status


# Redis


@pytest.mark.parametrize("kind", ["restarted", "frozen"])
async def test_nothing_is_claimed_that_did_not_happen_and_all_of_it_works_again(
    pair: Pair, unique: Unique, kind: str
) -> None:
    outage = Outage(pair.redis, kind)
    acked, plain, rest = unique("acked"), unique("plain"), unique("rest")
    groups = [unique("group") for _ in range(100)]
    async with (
        opened(pair.one.url(), JSON) as speaker,
        opened(pair.one.url(), JSON) as hasty,
        opened(pair.one.url(groups=[acked]), JSON) as beside,
        opened(pair.one.url(groups=[plain]), JSON) as beside_hasty,
        opened(pair.one.url(groups=[rest]), JSON) as near,
        opened(pair.other.url(groups=[acked]), JSON) as elsewhere,
        opened(pair.other.url(groups=[rest]), JSON) as far,
        opened(pair.other.url(groups=groups), JSON) as member_of_many,
        opened(pair.one.url(), JSON) as caller,
        talk(speaker, acked, acks=True, beside=beside, elsewhere=elsewhere) as certain,
        talk(hasty, plain, acks=False, beside=beside_hasty) as uncertain,
    ):
        statuses: dict[int, int] = {}

        async def serve() -> None:
            while True:
                statuses[len(statuses)] = await send(pair.one, rest, len(statuses))

        serving = asyncio.create_task(serve())
        await certain.is_heard_by_all()
        gone = time.monotonic()
        await outage.begin()
        # Who says something is told that nobody hears it.
        await until(lambda: any(error for _, error in certain.acked.values()))
        await until(lambda: time.monotonic() - gone > AWAY_SECS)
        back = time.monotonic()
        await outage.end()
        await all_are_subscribed(caller, groups, member_of_many)
        await until(
            lambda: max(certain.claimed) > max(number for number in certain.said if certain.said[number] < back)
        )
        await until(lambda: list(statuses.values())[-3:] == [202] * 3)
        await certain.is_heard_by_all()
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
        last = await accepted(pair.one, rest, 1_000_000)
        served = [await heard_until(client, last) for client in (near, far)]

    # Nothing was heard twice or out of order, and nothing is missing that was said to be there, in neither process.
    for heard in (certain.numbers("beside"), certain.numbers("elsewhere"), uncertain.numbers("beside")):
        assert heard == sorted(set(heard))
    # A Redis without its data takes along what not everybody had read yet.
    forgotten = {number for number, at in certain.said.items() if kind == "restarted" and gone - 1 < at < back}
    for where in ("beside", "elsewhere"):
        assert not certain.claimed - set(certain.numbers(where)) - forgotten
    # One that only stood still may do in the end what it was asked in the last moment.
    away = [number for number, at in certain.said.items() if kind == "restarted" and gone + 1 < at < back]
    assert {number for number in away if number in certain.claimed} == set()
    assert all(error in (None, UNREACHABLE) for _, error in certain.acked.values())

    # A server is told the truth, too.
    assert {*statuses.values()} == {202, 503}
    for numbers in served:
        assert numbers == sorted(set(numbers))
        assert {number for number, status in statuses.items() if status == 202} <= set(numbers)
        if kind == "restarted":
            assert not {number for number, status in statuses.items() if status == 503} & set(numbers)


async def all_are_subscribed(caller: Client, groups: Sequence[str], member: Client) -> None:
    """Call all groups again and again until their member in the other process has been reached in each."""
    missing = set(groups)

    async def hear() -> None:
        while missing:
            missing.discard((await member.hear())["group"])

    hearing = asyncio.create_task(hear())
    begun = time.monotonic()
    while not hearing.done():
        assert time.monotonic() - begun < PATIENCE, missing
        for group in tuple(missing):
            await caller.say(type="sendToGroup", group=group, data=0, noEcho=True)
        await asyncio.wait([hearing], timeout=0.02)
    hearing.result()


async def accepted(target: Target, group: str, number: int) -> int:
    """Send a number once more and higher, until it is accepted; gives the number."""
    async with asyncio.timeout(PATIENCE):
        while await send(target, group, number) != 202:
            number += 1
    return number


async def heard_until(client: Client, last: int) -> list[int]:
    """The numbers that were heard before the last one."""
    numbers: list[int] = []
    while not numbers or numbers[-1] != last:
        numbers.append((await client.hear())["data"])
    return numbers[:-1]


@pytest.mark.parametrize("kind", ["restarted", "frozen"])
async def test_who_joins_meanwhile_is_a_member_or_is_told_that_not(pair: Pair, unique: Unique, kind: str) -> None:
    outage = Outage(pair.redis, kind)
    held, witness_of = unique("held"), unique("witness")
    fresh = [unique("fresh") for _ in range(5)]
    async with (
        opened(pair.one.url(), JSON) as speaker,
        # It holds the group in that process: nothing is to be asked of Redis for the next one there.
        opened(pair.other.url(groups=[held, witness_of]), JSON) as holder,
        opened(pair.other.url(user="ben"), JSON) as joiner,
    ):
        await outage.begin()
        try:
            answers = {
                group: await joiner.ask(type="joinGroup", group=group, ackId=at) for at, group in enumerate(fresh)
            }
            answers[held] = await joiner.ask(type="joinGroup", group=held, ackId=100)
            # Whoever comes now is let in as a member, or turned away.
            come = await answered(pair.other.url(groups=[unique("new")]), JSON)
            assert come in (101, 503)
        finally:
            await outage.end()
        joined = {group for group, answer in answers.items() if answer["success"]}
        assert {json.dumps(answer["error"]) for answer in answers.values() if not answer["success"]} <= {
            json.dumps(UNREACHABLE)
        }
        number = 0
        while (await speaker.ask(type="sendToGroup", group=witness_of, data=number, ackId=number + 1)) != ok(
            number + 1
        ):
            number += 1
            assert number < 1000
            await asyncio.sleep(PACE_SECS)
        await joiner.join(witness_of)
        for group in answers:
            await speaker.say(type="sendToGroup", group=group, data="hello")
        # The last word, behind all others.
        await speaker.say(type="sendToGroup", group=witness_of, data="over")
        reached = set()
        while (message := await joiner.hear())["data"] != "over":
            reached.add(message["group"])
        # Redis may have had a number that the speaker was told nothing certain of, and be late with it.
        assert reached - {witness_of} == joined
        # Those who were refused join when they ask again, and are where the service says they are.
        for at, group in enumerate(answers):
            await joiner.join(group, ack_id=200 + at)
            await speaker.say(type="sendToGroup", group=group, data="again")
            assert await joiner.hear() == group_message(group, "again")
            members = await known_members(pair.one, group)
            assert len(members) == (2 if group == held else 1)
        while (await holder.hear())["data"] != "again":
            pass


async def test_nothing_is_missed_when_redis_drops_its_connections(pair: Pair, unique: Unique) -> None:
    """As it does with whom it cannot write to fast enough. The processes read on where they were."""
    room = unique("room")
    async with (
        opened(pair.one.url(), JSON) as speaker,
        opened(pair.other.url(groups=[room]), JSON) as elsewhere,
        talk(speaker, room, acks=True, elsewhere=elsewhere) as certain,
    ):
        await certain.is_heard_by_all()
        for _ in range(3):
            before = len(certain.claimed)
            await asyncio.to_thread(drop_connections, pair.redis)
            await until(partial(claims_more_than, certain, before + 20))
            await certain.is_heard_by_all()
    heard = certain.numbers("elsewhere")
    assert heard == sorted(set(heard))
    assert not certain.claimed - set(heard)


def claims_more_than(said: Talk, count: int) -> bool:
    return len(said.claimed) > count


def drop_connections(redis: Redis) -> None:
    """Have Redis close every connection that processes have."""
    import redis as redis_py

    with redis_py.Redis.from_url(redis.url) as client:
        assert client.client_kill_filter(_type="normal", skipme=True) >= 4


# A worker is killed


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[[Sequence[str]], DrivenClient]]:
    """`run(python("reliable_client_aio.py", url))`: a program on a client SDK."""
    programs: list[Program] = []

    def start(command: Sequence[str]) -> DrivenClient:
        programs.append(Program(command, cwd=tmp_path))
        return DrivenClient(programs[-1])

    yield start
    for program in programs:
        program.stop()


@pytest.fixture
def workers(pair: Pair, tmp_path: Path) -> Iterator[Service]:
    """Two workers behind one port."""
    service = Service(tmp_path, env={"REDIS_URL": pair.redis.url, "WORKERS": "2"}).set_up().start()
    try:
        eventually(lambda: " with 2 workers. " in service.log.read_text(), "both workers are ready")
        yield service
        assert "Traceback" not in service.log.read_text(), service.log.read_text()
    finally:
        service.stop()


SDKS = {
    "python": lambda url: python("reliable_client_aio.py", url),
    "javascript": lambda url: node("reliable.js", url, json.dumps({"protocol": "reliable"})),
    "javascript, plain": lambda url: node("reliable.js", url, json.dumps({"protocol": "plain"})),
}


def test_clients_of_a_killed_worker_come_back_by_themselves(
    workers: Service, run: Callable[[Sequence[str]], DrivenClient], unique: Unique
) -> None:
    """Those of reliable clients go on with their connections; others connect and join anew, and nobody is a ghost."""
    target = Target(workers.connection_string)
    room = unique("room")
    # Where there is nobody else, a process is known by the first digits of its connections' ids.
    clients: dict[str, tuple[DrivenClient, str]] = {}
    victim = ""
    for name, command in SDKS.items():
        # Users come by chance to either worker; one of each kind is to be where it strikes.
        for attempt in range(20):
            client = run(command(target.url(user=f"{name} {attempt}")))
            connection_id = client.told("connected")["connectionId"]
            victim = victim or connection_id[:8]
            if connection_id.startswith(victim):
                client.does("join", room)
                clients[f"{name} {attempt}"] = (client, connection_id)
                break
            client.stop(connection_id)
    assert len(clients) == len(SDKS)
    with target.service_client("chat") as sdk:

        def listed() -> dict[str, str | None] | None:
            """Who is in the group by connection id, or None while that is not known."""
            try:
                return {member.connection_id: member.user_id for member in sdk.list_connections(group=room)}
            except HttpResponseError as unknown:
                if unknown.status_code != 503:
                    raise
                return None

        before = {connection_id: user for user, (_, connection_id) in clients.items()}
        assert listed() == before
        os.kill(process_of(workers, target, victim), signal.SIGKILL)
        after = {}
        for user, (client, connection_id) in clients.items():
            if "plain" in user:
                assert client.told("disconnected")["connectionId"] == connection_id
                connection_id = client.told("connected")["connectionId"]
                assert not connection_id.startswith(victim)
            after[connection_id] = user
        # Not one ghost, not one missing, and nobody twice.
        eventually(lambda: listed() == after, f"{after} are the members")
        for connection_id, user in before.items():
            assert sdk.connection_exists(connection_id) == (connection_id in after)
            assert sdk.user_exists(user)
        # They hear what is said to the group and to each of them, once.
        sdk.send_to_group(room, "again", content_type="text/plain")
        for user, (client, _) in clients.items():
            sdk.send_to_user(user, "yours", content_type="text/plain")
            assert [message["data"] for message in client.messages(2)] == ["again", "yours"]
            [connection_id] = [connection_id for connection_id, name in after.items() if name == user]
            client.stop(connection_id)
            eventually(partial(has_gone, sdk, user), f"{user} has gone")
        eventually(lambda: listed() == {}, "nobody is in the group")


def has_gone(sdk: Any, user: str) -> bool:
    return not sdk.user_exists(user)


def process_of(workers: Service, target: Target, prefix: str) -> int:
    """Which of the workers' processes names its connections so."""

    async def find() -> int:
        async with asyncio.timeout(PATIENCE):
            while True:
                async with opened(target.url(), JSON, connected=False) as client:
                    if not (await client.hear())["connectionId"].startswith(prefix):
                        continue
                    port = client.socket.transport.get_extra_info("sockname")[1]
                    for pid in {int(found) for found in re.findall(r"\(process (\d+)\)", workers.log.read_text())}:
                        for connection in psutil.Process(pid).net_connections("tcp"):
                            if connection.raddr and connection.raddr.port == port:
                                return pid

    return asyncio.run(find())


# What is changed through one process is in force in the other


async def in_force(expected: Any, look: Callable[[], Any]) -> None:
    """Look until it is as expected."""
    begun = time.monotonic()
    while (seen := await look()) != expected:
        assert time.monotonic() - begun < PATIENCE, f"still {seen!r}"
        await asyncio.sleep(0.02)


async def test_keys_changed_by_the_command_line(pair: Pair) -> None:
    def uses(target: Target) -> Callable[[], Any]:
        async def look() -> tuple[int, int]:
            return await answered(target.url()), (await call(target, "HEAD", "/api/hubs/chat/users/nobody")).status

        return look

    old = [pair.one, pair.other]
    for target in old:
        await in_force((101, 404), uses(target))
    async with opened(pair.other.url(), JSON) as client:
        shown = await asyncio.to_thread(pair.first.manage_json, "key", "regenerate", "--key-type", "primary")
        pair.use(shown["primaryConnectionString"])
        assert pair.one.key != old[0].key
        for target in (pair.one, pair.other):
            await in_force((101, 404), uses(target))
        for target in old:
            await in_force((401, 401), uses(target))
        # Whoever is there stays.
        await client.barrier()


@pytest.mark.parametrize("way", ["to the second", "to the first"])
async def test_hubs_and_grants_changed_by_the_management_api(pair: Pair, unique: Unique, way: str) -> None:
    hub = unique("hub").replace("-", "_")
    changed, target = (pair.first, pair.other) if way == "to the second" else (pair.second, pair.one)
    staff = Staff(changed)

    async def anonymous() -> int:
        return await answered(target.address(hub))

    async def roles() -> Any:
        def negotiate() -> Any:
            with urllib.request.urlopen(f"{target.endpoint}/api/negotiate/{hub}", timeout=PATIENCE) as response:
                return json.loads(response.read())["token"]

        claims = jwt.decode(await asyncio.to_thread(negotiate), options={"verify_signature": False})
        return "webpubsub.sendToGroup.news" in claims.get("role", [])

    async def manage(method: str, path: str, body: Any = None) -> Any:
        status, answer = await asyncio.to_thread(staff, method, path, body)
        assert status in (200, 201, 204), answer
        return answer

    await in_force(401, anonymous)
    await manage("PUT", f"/hubs/{hub}", {"properties": {"anonymousConnectPolicy": "allow"}})
    await in_force(101, anonymous)
    await manage("PATCH", f"/hubs/{hub}", {"properties": {"anonymousConnectPolicy": "deny"}})
    await in_force(401, anonymous)
    await in_force(False, roles)
    grant = {"who": "anonymous", "role": "sendToGroup", "groupPattern": "news", "hub": hub}
    made = await manage("POST", "/roleGrants", {"properties": grant})
    await in_force(True, roles)
    await manage("DELETE", f"/roleGrants/{made['name']}")
    await in_force(False, roles)
    await manage("DELETE", f"/hubs/{hub}")


async def test_permissions_and_users_across_processes(pair: Pair, unique: Unique) -> None:
    """What one process is asked about a connection or a user of the other is done there, and read back in both."""
    user, group = unique("user"), unique("group")
    async with AsyncExitStack() as stack:
        people = []
        for target in (pair.one, pair.other, pair.other):
            client = await stack.enter_async_context(opened(target.url(user=user, roles=[]), JSON, connected=False))
            people.append((client, (await client.hear())["connectionId"]))
        for number, (client, connection_id) in enumerate(people):
            # It is asked for through the process where it does not live.
            away, home = (pair.other, pair.one) if number == 0 else (pair.one, pair.other)
            for permission, say in (("sendToGroup", "sendToGroup"), ("joinLeaveGroup", "joinGroup")):
                frame = {"type": say, "group": group} | ({"data": 1, "noEcho": True} if say == "sendToGroup" else {})
                answer = await client.ask(**frame, ackId=1)
                assert answer["error"]["name"] == "Forbidden"
                await Sdk(away).grant_permission(permission, connection_id, target_name=group)
                for target in (away, home):
                    assert await Sdk(target).has_permission(permission, connection_id, target_name=group)
                ack_id = 2 if say == "sendToGroup" else 3
                assert await client.ask(**frame, ackId=ack_id) == ok(ack_id)
                await Sdk(away).revoke_permission(permission, connection_id, target_name=group)
                for target in (away, home):
                    assert not await Sdk(target).has_permission(permission, connection_id, target_name=group)
                answer = await client.ask(**frame, ackId=4)
                assert answer["error"]["name"] == "Forbidden"
            await Sdk(away).remove_connection_from_all_groups(connection_id)
        for left in range(len(people), 0, -1):
            for target in (pair.one, pair.other):
                assert await Sdk(target).user_exists(user)
                # As many as it has, wherever they are.
                await Sdk(target).add_user_to_group(group, user)
                listed = await Sdk(target).members(group)
                assert listed == sorted(connection_id for _, connection_id in people[-left:])
                await Sdk(target).remove_user_from_all_groups(user)
                assert not await Sdk(target).group_exists(group)
            client, connection_id = people[-left]
            await Sdk(pair.other if left == len(people) else pair.one).close_connection(connection_id, reason="over")
        for target in (pair.one, pair.other):
            assert not await Sdk(target).user_exists(user)
