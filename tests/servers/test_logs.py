"""What log records look like, and how many of a kind are written."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hubs.servers import logs, output, workers
from tests.running import PATIENCE, ROOT, Service

MESSAGE = "%(levelname)s %(name)s: %(message)s"


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def _record(text: str = "no %s", *args: object, level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    record = logging.LogRecord(extra.pop("name", "hubs.x"), level, "x.py", extra.pop("line", 1), text, args, None)
    record.__dict__.update(extra)
    return record


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


def _admitted(throttle: logs.Throttle, records: Iterator[logging.LogRecord]) -> int:
    return sum([throttle.admits(record) for record in records])


def test_the_first_of_a_kind_are_written_and_the_others_counted(clock: _Clock) -> None:
    throttle = logs.Throttle(30, clock=clock)
    assert _admitted(throttle, (_record("no %s", n) for n in range(67))) == 30
    assert _admitted(throttle, (_record("bad %s", n, level=logging.WARNING) for n in range(67))) == 60
    assert throttle.secs_left() == 60
    assert throttle.over() == []
    clock.now += 60
    counts = [(count.levelname, count.getMessage()) for count in throttle.over()]
    assert counts == [
        ("INFO", "… 37 more like it in the last 60 s: no 30"),
        ("WARNING", "… 7 more like it in the last 60 s: bad 60"),
    ]
    # And the next minute begins.
    assert throttle.over() == []
    assert not throttle.counts
    assert throttle.admits(_record("no %s", 0))


def test_what_is_one_kind(clock: _Clock) -> None:
    """Text that was put together before is told apart by the place in the code, not by what a stranger wrote."""
    throttle = logs.Throttle(1, clock=clock)
    foreign = {"name": "django.security.DisallowedHost", "level": logging.ERROR}
    assert _admitted(throttle, (_record(f"Invalid Host {n}", **foreign) for n in range(50))) == 2
    assert _admitted(throttle, (_record(f"text {n}", kind="one") for n in range(50))) == 1
    assert throttle.admits(_record("text", kind="other"))
    # Django has one template for all refusals, and many pages do not hide one 403.
    missing = (_record("%s: %s", "Not Found", n, status_code=404) for n in range(50))
    assert _admitted(throttle, missing) == 1
    assert throttle.admits(_record("%s: %s", "Forbidden", "/x", status_code=403))


def test_tracebacks_are_shown_of_the_first_ones_and_told_apart_by_their_exception(clock: _Clock) -> None:
    throttle = logs.Throttle(30, clock=clock)
    for problem in (ValueError("x"), KeyError("x")):
        failed = [_record("failed", exc_info=(type(problem), problem, None)) for _ in range(50)]
        assert _admitted(throttle, iter(failed)) == 10


def test_kinds_are_bounded(clock: _Clock) -> None:
    throttle = logs.Throttle(1, clock=clock)
    written = _admitted(throttle, (_record("x", kind=str(n)) for n in range(5 * logs.MAX_KINDS)))
    assert written == logs.MAX_KINDS + 1
    clock.now += 60
    [count] = throttle.over()
    assert count.args[0] == 4 * logs.MAX_KINDS - 1  # type: ignore[index]
    assert throttle._windows == {}


def test_no_limit_and_loggers_without_one(clock: _Clock) -> None:
    assert _admitted(logs.Throttle(0, clock=clock), (_record("x") for _ in range(500))) == 500
    exempt = logs.Throttle(1, exempt=["hubs.x"], clock=clock)
    assert _admitted(exempt, (_record("x") for _ in range(500))) == 500


def test_what_a_stranger_writes_is_one_line() -> None:
    said = logs.LineFormatter(MESSAGE).format(_record("no %s", "a\r\n2026 ERROR root: forged\x1b[2J\u202e\x85\u2028\0"))
    assert said == "INFO hubs.x: no a\\r\\n2026 ERROR root: forged\\x1b[2J\\u202e\\x85\\u2028\\x00"


def test_lines_of_a_traceback_cannot_pass_for_records() -> None:
    record = _record("failed")
    try:
        raise ValueError("a\nERROR root: forged\x1b[2J")
    except ValueError:
        record.exc_info = sys.exc_info()
    first, *others = logs.LineFormatter(MESSAGE).format(record).split("\n")
    assert first == "INFO hubs.x: failed"
    assert others[0] == "    Traceback (most recent call last):"
    assert others[-1] == "    ERROR root: forged\\x1b[2J"
    assert all(line.startswith("    ") for line in others)


def test_lines_and_records_are_cut() -> None:
    long = logs.LineFormatter(MESSAGE).format(_record("%s", "ä" * 50_000))
    assert len(long.encode()) < 4000
    assert re.search(r"ä… \(96,\d\d\d more bytes\)$", long)
    record = _record("failed")
    record.exc_text = "\n".join(map(str, range(5000)))
    lines = logs.LineFormatter(MESSAGE).format(record).split("\n")
    assert len(lines) == logs.MAX_RECORD_LINES + 1
    assert "    … 4801 lines are left out …" in lines
    assert lines[-1].strip() == "4999"


def test_what_clients_do_wrong_has_no_traceback() -> None:
    record = _record("Invalid HTTP_HOST header: 'x'", name="django.security.DisallowedHost")
    record.exc_info = (ValueError, ValueError("x"), None)
    assert logs.ClientFaults().filter(record)
    assert (
        logs.LineFormatter(MESSAGE).format(record)
        == "INFO django.security.DisallowedHost: Invalid HTTP_HOST header: 'x'"
    )
    for status, kept in ((403, False), (400, False), (500, True)):
        record = _record("Forbidden (Permission denied): /admin/", name="django.request")
        record.status_code, record.exc_info = status, (ValueError, ValueError("x"), None)
        assert logs.ClientFaults().filter(record)
        assert bool(record.exc_info) == kept
    assert not logs.ClientFaults().filter(_record("ASGI callable returned without completing handshake."))


def test_a_record_that_cannot_be_formatted_is_said(tmp_path: Any) -> None:
    with (tmp_path / "log").open("wb") as log:
        handler = logs.ConsoleHandler()
        handler._writer = output.Writer(log.fileno())
        handler.handle(_record("%d of %d", "x"))
        handler.close()
    assert (tmp_path / "log").read_text() == "A log record of hubs.x cannot be formatted: '%d of %d'\n"


PROGRAM = """
import atexit, logging, os, signal, sys
from hubs.servers import logs
if "late" in sys.argv:
    # Called after all that logging does at the end.
    atexit._clear()
    atexit.register(lambda: logging.error("after the end"))
    atexit.register(logging.shutdown)
    from hubs.servers import output
    atexit.register(output._at_exit)
handler = logs.ConsoleHandler(per_minute=10)
handler.setFormatter(logs.LineFormatter("%(message)s"))
logging.basicConfig(handlers=[handler], level=logging.INFO)
for number in range(35):
    logging.info("line %d", number)
if "crash" in sys.argv:
    raise SystemError("crashed")
if "fork" in sys.argv:
    if not os.fork():
        logging.warning("in the child")
        handler.flush()
        os._exit(0)
    os.wait()
if "signal" in sys.argv:
    logs.settle()
    signal.raise_signal(signal.SIGTERM)
"""


def _run(how: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, how]
    options = {"stderr": subprocess.PIPE} | options
    return subprocess.run(command, cwd=ROOT, text=True, timeout=PATIENCE, check=False, **options)


@pytest.mark.parametrize(
    ("how", "last"), [("end", ""), ("crash", "crashed"), ("signal", ""), ("late", "after the end"), ("fork", "child")]
)
def test_everything_is_written_before_a_process_ends(how: str, last: str) -> None:
    """And the count of what was held back, although its minute is not over."""
    said = _run(how).stderr
    # Python writes its own last words past all handlers, so they may stand among ours.
    lines = [line for line in said.splitlines() if re.fullmatch(r"line \d+", line)]
    assert lines == [f"line {number}" for number in range(10)]
    assert len(re.findall(r"… 25 more like it in the last \d+ s: line 10$", said, re.MULTILINE)) == 1
    assert last in said


def test_a_process_whose_log_is_closed_or_gone_runs_to_its_end() -> None:
    read, write = os.pipe()
    os.close(read)
    assert _run("end", stderr=write).returncode == 0
    os.close(write)
    closed = subprocess.run(
        ["sh", "-c", f'exec "{sys.executable}" -c "$PROGRAM" end 2>&-'],
        cwd=ROOT,
        env=os.environ | {"PROGRAM": PROGRAM},
        timeout=PATIENCE,
        check=False,
    )
    assert closed.returncode == 0


def test_last_words_of_a_worker_stand_among_the_records_of_others(tmp_path: Path) -> None:
    """One that replaces another reads the settings anew. A command says what is wrong, and no more."""
    env = Service(tmp_path, env={"DRAIN_SECS": "soon"}).env
    command = [sys.executable, "manage.py", "serve"]
    said = [
        subprocess.run(command, cwd=ROOT, env=env | more, capture_output=True, text=True, timeout=PATIENCE * 3).stderr
        for more in ({}, {workers.VARIABLE: msgspec.json.encode(workers.Assignment(2, 3, [], 0)).decode()})
    ]
    problem = r"This configuration does not work: DRAIN_SECS=soon is not a number.*\n"
    assert re.fullmatch(problem, said[0])
    assert re.fullmatch(r"\[worker 2\] \d{4}-\d\d-\d\d [\d:,]+ ERROR hubs\.servers\.workers: " + problem, said[1])
