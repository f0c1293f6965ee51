"""Records in the database: what staff sees, how much of it is kept, and who waits for whom."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import DataError, OperationalError

from hubs.models import HandlerCall
from hubs.protocols.frames import BINARY, JSON, PROTOBUF, TEXT, Payload
from hubs.upstream import records
from hubs.upstream.records import Record
from tests.running import PATIENCE, ROOT, Service

CUT = records._MAX_PAYLOAD_BYTES


def record(number: float = 1, hub: str = "chat", **values: Any) -> Record:
    given: dict[str, Any] = {
        "at": 1_700_000_000 + number,
        "hub": hub,
        "event": "connected",
        "handler": "https://example.com/api",
        "connection_id": "c",
        "outcome": records.ANSWERED,
        "duration_ms": 1.4,
    }
    return Record(**given | values)


def numbers(hub: str = "chat") -> list[float]:
    """The kept records, latest first."""
    return [call.when.timestamp() - 1_700_000_000 for call in HandlerCall.objects.filter(hub=hub)]


def kept(**values: Any) -> HandlerCall:
    records.note(record(**values))
    assert records.write() == 1
    return HandlerCall.objects.get()


# What a row says


@pytest.mark.django_db
def test_what_staff_sees_of_a_call() -> None:
    call = kept(event="message", status=200, attempts=3, duration_ms=12.6, payload=Payload(TEXT, b"private"))
    assert (call.hub, call.event, call.handler) == ("chat", "user.message", "https://example.com/api")
    assert (call.connection_id, call.status, call.outcome) == ("c", 200, "succeeded")
    assert (call.duration_ms, call.attempts, call.problem, call.payload) == (13, 3, "", "")
    assert call.when.timestamp() == 1_700_000_001
    call.full_clean()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("outcome", "shown", "problem"),
    [
        (records.ANSWERED, "succeeded", ""),
        (records.REJECTED, "refused", ""),
        (records.FAILED, "failed", ""),
        (records.REFUSED, "failed", ""),
        (records.CANCELLED, "failed", "the client left before there was an answer"),
    ],
)
def test_outcomes(outcome: str, shown: str, problem: str) -> None:
    call = kept(outcome=outcome)
    assert (call.outcome, call.problem, call.event) == (shown, problem, "connected")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (Payload(TEXT, "hé\nllo".encode()), "hé\nllo"),
        (Payload(JSON, b'{"a": 1}'), '{"a": 1}'),
        (Payload(BINARY, b"\x00abc\xff"), r"b'\x00abc\xff'"),
        (Payload(PROTOBUF, b"\x0a\x01a"), r"b'\n\x01a'"),
        (Payload(TEXT, b"a\x00b\x1bc"), "a\ufffdb\ufffdc"),
        (Payload(TEXT, b"x\xff"), "x\ufffd"),
        (Payload(TEXT, b"x" * (CUT - 1) + "é".encode() * 9), "x" * (CUT - 1) + "…"),
        (Payload(TEXT, b""), ""),
    ],
)
def test_payloads_where_they_are_asked_for(webpubsub: Any, payload: Payload, shown: str) -> None:
    webpubsub(RECORD_PAYLOADS=True)
    assert kept(payload=payload).payload == shown


@pytest.mark.django_db
def test_nothing_is_too_strange_to_be_written() -> None:
    call = kept(
        event="\x00" + "e" * 300,
        payload=Payload(TEXT, b""),
        handler="h" * 5000,
        connection_id="c" * 100,
        problem="half \ud800\x00" + "p" * 5000,
        status=99_999,
        attempts=10**6,
        duration_ms=1e15,
    )
    assert call.event == "user.\ufffd" + "e" * 133 + "…"
    assert call.problem.startswith("half \ufffd\ufffdppp")
    call.full_clean()


# How much is kept


@pytest.mark.django_db
def test_the_table_has_the_last_calls_of_each_hub(webpubsub: Any) -> None:
    webpubsub(HANDLER_RECORDS=5)
    for number in range(3):
        records.note(record(number))
        records.note(record(number, "other"))
    records.write()
    for number in range(3, 20):
        records.note(record(number))
    # No more are written than are kept.
    assert records.write() == 5
    assert numbers() == [19, 18, 17, 16, 15]
    assert numbers("other") == [2, 1, 0]
    webpubsub(HANDLER_RECORDS=2)
    records.note(record(20))
    records.write()
    assert numbers() == [20, 19]


@pytest.mark.django_db
def test_what_another_process_wrote_is_pruned_by_time(webpubsub: Any) -> None:
    webpubsub(HANDLER_RECORDS=2)
    for number in (5, 3, 4):
        records.note(record(number))
        records.write()
    assert numbers() == [5, 4]


@pytest.mark.django_db
def test_many_rows_go_in_parts(monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any) -> None:
    monkeypatch.setattr(records, "_ROWS_AT_ONCE", 3)
    for number in range(10):
        records.note(record(number, f"hub{number}"))
    assert records.write() == 10
    assert HandlerCall.objects.count() == 10
    with django_assert_num_queries(0):
        assert records.write() == 0


@pytest.mark.django_db
def test_the_table_is_bounded_over_all_hubs(monkeypatch: pytest.MonkeyPatch, webpubsub: Any) -> None:
    webpubsub(HANDLER_RECORDS=2)
    monkeypatch.setattr(records, "_MAX_ROWS", 4)
    for number in range(9):
        records.note(record(number, f"hub{number}"))
        records.write()
    records._limit_table()
    assert list(HandlerCall.objects.order_by("pk").values_list("hub", flat=True)) == ["hub5", "hub6", "hub7", "hub8"]


def test_what_waits_is_bounded_over_all_hubs(monkeypatch: pytest.MonkeyPatch, webpubsub: Any) -> None:
    webpubsub(HANDLER_RECORDS=3)
    monkeypatch.setattr(records, "_MAX_WAITING", 5)
    for number in range(3):
        for hub in ("quiet", "busy"):
            records.note(record(number, hub))
    records.note(record(3, "busy"))
    records.note(record(0, "new"))
    assert [kept.at - 1_700_000_000 for kept in records.recent("quiet")] == [2]
    assert [len(records.recent(hub)) for hub in ("busy", "new")] == [3, 1]
    records.note(record(1, "new"))
    assert records.recent("quiet") == []
    assert records._waiting.count == 5


# Databases that do not want to


@pytest.mark.django_db
def test_a_database_that_is_away_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, webpubsub: Any, caplog: pytest.LogCaptureFixture
) -> None:
    webpubsub(HANDLER_RECORDS=3)
    monkeypatch.setattr(records, "_disconnect", lambda: None)
    records._log._held.clear()
    records.note(record(1))
    records.note(record(2))
    with monkeypatch.context() as patch:
        patch.setattr(HandlerCall.objects, "bulk_create", _raise(OperationalError("database is locked")))
        assert records.write() == 0
        assert records.write() == 0
    records.note(record(3))
    records.note(record(4))
    assert [kept.at - 1_700_000_000 for kept in records.recent("chat")] == [4, 3, 2]
    records.write()
    assert numbers() == [4, 3, 2]
    assert caplog.messages == [
        "Records of calls to event handlers wait for the database: database is locked",
        "1 records of calls to event handlers were dropped while the database was away",
    ]
    # With a database that takes them, those that give way are ones that the table would not keep either.
    for number in range(5, 10):
        records.note(record(number))
    records.write()
    assert numbers() == [9, 8, 7]
    assert len(caplog.messages) == 2


@pytest.mark.django_db
def test_what_a_database_never_takes_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(records, "_disconnect", lambda: None)
    monkeypatch.setattr(records, "_ROWS_AT_ONCE", 2)
    records._log._held.clear()
    bulk_create = HandlerCall.objects.bulk_create

    def picky(rows: list[HandlerCall]) -> Any:
        if any(row.hub == "bad" for row in rows):
            raise DataError("what was in the row")
        return bulk_create(rows)

    for hub in ("bad", "chat", "chat"):
        records.note(record(1, hub))
    with monkeypatch.context() as patch:
        patch.setattr(HandlerCall.objects, "bulk_create", picky)
        records.write()
    assert HandlerCall.objects.count() == 1
    assert caplog.messages == ["2 records of calls to event handlers are lost: DataError"]
    assert records.write() == 0


def _raise(problem: Exception) -> Any:
    def call(*_: Any) -> None:
        raise problem

    return call


# Processes

SCRIPT = """
import asyncio, sys, time
from hubs.upstream import records
from hubs.upstream.records import Record

def note(number):
    records.note(Record(time.time(), "chat", "connected", sys.argv[1], str(number), records.ANSWERED, 1.0))

async def main():
    {body}
    print("noted", flush=True)
    sys.stdin.readline()
    await records.stop()

records.start()
records.start()
asyncio.run(main())
"""
MANY = "for number in range(3000): note(number); await asyncio.sleep(0.001)"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A database as processes of the service have it."""
    folder: Path = tmp_path_factory.mktemp("installation")
    if request.param == "sqlite":
        return Service(folder).set_up()
    own = Service(folder, env={"DATABASE_URL": request.getfixturevalue("postgresql_url")})
    own.manage("migrate", "--verbosity", "0")
    return own


@pytest.fixture
def installation(installed: Service) -> Iterator[Service]:
    """The same, without records."""
    yield installed
    asked(installed, "DELETE FROM hubs_handlercall")


def asked(installation: Service, query: str) -> Any:
    """Ask the database, or tell it."""
    url = installation.env.get("DATABASE_URL")
    database: Any = psycopg.connect(url) if url else sqlite3.connect(installation.data_dir / "db.sqlite3")
    with closing(database), database:
        found = database.execute(query)
        return found.fetchall() if found.description else None


def process(installation: Service, name: str, body: str) -> subprocess.Popen[str]:
    code = f"import sys; sys.argv[1:] = [{name!r}]\n" + SCRIPT.format(body=body)
    return subprocess.Popen(
        [sys.executable, "-c", f"import django; django.setup()\n{code}"],
        cwd=ROOT,
        env=installation.env | {"DJANGO_SETTINGS_MODULE": "pubsub_site.settings", "PYTHONWARNINGS": "error"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(*processes: subprocess.Popen[str]) -> str:
    """Tell processes to stop, and give what they complained of."""
    return "".join(running.communicate("\n", timeout=PATIENCE * 3)[1] for running in processes)


def rows(installation: Service) -> list[list[str]]:
    """The handler and the connection of each record, the latest first."""
    query = 'SELECT handler, connection_id FROM hubs_handlercall ORDER BY "when" DESC, id DESC'
    return [list(row) for row in asked(installation, query)]


def test_processes_write_and_prune_together(installation: Service) -> None:
    running = [process(installation, name, MANY) for name in ("a", "b")]
    for one in running:
        assert one.stdout is not None
        assert one.stdout.readline() == "noted\n"
    assert ended(*running) == ""
    found = rows(installation)
    # The last two hundred of both together, whoever wrote them, and no gap at the end.
    assert len(found) == 200
    assert ["a", "2999"] in found or ["b", "2999"] in found
    for name in ("a", "b"):
        of_one = [int(number) for handler, number in found if handler == name]
        assert of_one == list(range(2999, 2999 - len(of_one), -1))


@pytest.mark.parametrize("installed", ["sqlite"], indirect=True)
def test_a_locked_database_gets_the_records_later(installation: Service) -> None:
    lock = sqlite3.connect(installation.data_dir / "db.sqlite3", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    # A short patience with the lock, so that it runs out.
    impatient = 'from django.db import connections; connections.settings["default"]["OPTIONS"]["timeout"] = 0.05'
    one = process(installation, "a", f"{impatient}\n    note(1)")
    assert one.stdout is not None
    assert one.stderr is not None
    assert one.stdout.readline() == "noted\n"
    assert "wait for the database: database is locked" in one.stderr.readline()
    lock.execute("ROLLBACK")
    lock.close()
    assert ended(one) == ""
    assert rows(installation) == [["a", "1"]]


@pytest.mark.parametrize("installed", ["sqlite"], indirect=True)
def test_records_are_written_while_the_process_runs_and_when_it_just_ends(installation: Service) -> None:
    one = process(installation, "a", "note(1)")
    deadline = time.monotonic() + PATIENCE
    while not rows(installation):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert ended(one) == ""
    # Ctrl+C, under a server that has no word for its end.
    other = process(installation, "b", "note(2)")
    assert other.stdout is not None
    assert other.stdout.readline() == "noted\n"
    other.send_signal(signal.SIGINT)
    ended(other)
    assert sorted(rows(installation)) == [["a", "1"], ["b", "2"]]
