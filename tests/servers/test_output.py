"""What becomes of output that nobody takes, and of a service that says it."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hubs.servers import output
from tests.running import PATIENCE, ROOT, Service

SMALL_PIPE = 4096


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The ends of a pipe that is soon full."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, SMALL_PIPE)
    yield read, write
    for end in (read, write):
        with suppress(OSError):
            os.close(end)


def _soon(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _read(read: int, until: str) -> str:
    said = b""
    while until.encode() not in said:
        said += os.read(read, 1 << 16)
    return said.decode()


def test_what_does_not_fit_is_counted_and_said_once(pipe: tuple[int, int]) -> None:
    read, write = pipe
    writer = output.Writer(write)
    began = time.monotonic()
    count = 2 * output.MAX_WAITING_BYTES // 1000
    for number in range(count):
        writer.write(b"%05d" % number + b"x" * 994 + b"\n")
    assert time.monotonic() - began < PATIENCE
    assert writer._waiting_bytes <= output.MAX_WAITING_BYTES
    writer.flush(0.1)
    # It does not wait again for what is known to be stuck.
    began = time.monotonic()
    writer.flush()
    assert time.monotonic() - began < output.FLUSH_SECS
    said = _read(read, "not written here")
    *lines, last = said.splitlines()
    assert [int(line[:5]) for line in lines] == list(range(len(lines)))
    assert f"WARNING hubs.servers.output: {count - len(lines):,} lines were not written here" in last
    writer.write(b"after\n")
    assert _read(read, "after\n") == "after\n"


def test_a_disk_that_was_full_for_a_while(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full, (tmp_path / "log").open("wb") as log:
        target = os.dup(full.fileno())
        writer = output.Writer(target)
        for number in range(3):
            writer.write(b"%d\n" % number)
        _soon(lambda: writer._lost == 3)
        os.dup2(log.fileno(), target)
        _soon(lambda: writer._lost == 0)
        writer.write(b"after\n")
        writer.flush()
        os.close(target)
    said = (tmp_path / "log").read_text()
    assert re.fullmatch(r"\S+ \S+ WARNING hubs.servers.output: 3 lines were not written here: .*\nafter\n", said)


def test_lines_of_several_writers_to_one_pipe_are_not_mixed(pipe: tuple[int, int]) -> None:
    """The pipe is full all the time, and what is written at once is longer than it."""
    read, write = pipe
    writers = [output.Writer(os.dup(write)) for _ in range(4)]
    for name, writer in zip("abcd", writers, strict=True):
        for _ in range(20):
            writer.write((name * 1500 + "\n").encode() * 10)
        threading.Thread(target=writer.flush, daemon=True).start()
    said = b""
    while said.count(b"\n") < 800:
        said += os.read(read, 3000)
    assert {(line[:1] * 1500) == line for line in said.splitlines()} == {True}
    for writer in writers:
        writer.flush()
        os.close(writer.descriptor)


def test_a_thread_that_cannot_be_had_is_tried_again(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    read, write = pipe
    writer = output.Writer(write)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        writer.write(b"one\n")
    writer.write(b"two\n")
    assert _read(read, "two\n") == "one\ntwo\n"


def test_descriptors_set_to_return_at_once_are_waited_for(pipe: tuple[int, int]) -> None:
    read, write = pipe
    os.set_blocking(write, False)
    writer = output.Writer(write)
    for number in range(1000):
        writer.write(b"%03d\n" % number * 10)
    said = ""
    while said.count("\n") < 10_000:
        said += os.read(read, 1 << 16).decode()
    assert said == "".join(f"{number:03}\n" * 10 for number in range(1000))


PRINTING = """
import sys, warnings
from hubs.servers import output
output.take_streams()
print("printed", "ä\\udc80")
warnings.warn("warned")
sys.stdout.buffer
sys.exit("ended")
"""


def test_streams_of_a_process_that_ends() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRINTING], cwd=ROOT, capture_output=True, timeout=PATIENCE, check=False
    )
    assert done.stdout.decode() == "printed ä\\udc80\n"
    assert "UserWarning: warned" in done.stderr.decode()
    assert done.stderr.decode().endswith("ended\n")
    assert done.returncode == 1


# The service


Serve = Callable[[int | str], tuple[Service, subprocess.Popen[bytes]]]


@pytest.fixture
def serve(data_dir: Path) -> Iterator[Serve]:
    """`serve(out)`: the service, with a descriptor for all that it says, or with redirections of the shell."""
    started: list[subprocess.Popen[bytes]] = []

    def serve(out: int | str) -> tuple[Service, subprocess.Popen[bytes]]:
        service = Service(data_dir, env={"LOG_PER_MINUTE": "0"}).set_up()
        command = [sys.executable, "manage.py", "serve"]
        if isinstance(out, str):
            command = ["sh", "-c", f'exec "$@" {out}', "sh", *command]
        to = None if isinstance(out, str) else out
        process = subprocess.Popen(command, cwd=ROOT, env=service.env, stdout=to, stderr=to)
        started.append(process)
        deadline = time.monotonic() + 2 * PATIENCE
        while _status(service, "/api/health") != 200:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return service, process

    yield serve
    for process in started:
        process.kill()
        process.wait()


def _status(service: Service, path: str) -> int:
    try:
        with urllib.request.urlopen(service.endpoint + path, timeout=PATIENCE) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as problem:
        problem.close()
        return problem.code
    except OSError:
        return 0


def test_a_log_that_nobody_reads_stops_nothing(pipe: tuple[int, int], serve: Serve) -> None:
    read, write = pipe
    service, process = serve(write)
    for _ in range(20):
        assert _status(service, "/nowhere" + "x" * 900) == 404
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == -signal.SIGTERM
    said = os.read(read, 1 << 16).decode()
    assert said.startswith(f"Serving {service.endpoint} on ")
    assert "WARNING django.request: Not Found: /nowherexxx" in said


@pytest.mark.parametrize("out", [">/dev/full 2>&1", ">&- 2>&-"])
def test_a_service_that_can_say_nothing_serves(out: str, serve: Serve) -> None:
    service, process = serve(out)
    assert _status(service, "/nowhere") == 404
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == -signal.SIGTERM
