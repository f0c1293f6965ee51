"""Programs that a user of the service wrote: started, typed to, read line by line, and seen to end."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.running import PATIENCE, ROOT

HERE = Path(__file__).resolve().parent
NODE_PROGRAMS = ROOT / "tests" / "node"
JAVA_PROGRAMS = ROOT / "tests" / "java"


def python(program: str, *arguments: str) -> list[str]:
    """The command line of a Python program of tests/tutorials."""
    return [sys.executable, str(HERE / program), *arguments]


def node(program: str, *arguments: str) -> list[str]:
    """The command line of a JavaScript program of tests/node."""
    executable = shutil.which("node")
    if executable is None:
        raise AssertionError("These tests need Node 20 or newer on the PATH. Install it, then run make install-test")
    if not (NODE_PROGRAMS / "node_modules").is_dir():
        raise AssertionError("The JavaScript packages are missing. Run make install-test (needs Node 20 or newer)")
    return [executable, str(NODE_PROGRAMS / program), *arguments]


def java(program: str, *arguments: str) -> list[str]:
    """The command line of a single-file Java program of tests/java."""
    executable = shutil.which("java")
    if executable is None:
        raise AssertionError(
            "These tests need a Java 17 (or newer) development kit on the PATH. "
            "On Debian or Ubuntu: sudo apt-get install openjdk-17-jdk-headless"
        )
    # The program lives a second or two: the thorough compiler would never pay for itself.
    quick = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto"]
    return [executable, *quick, str(JAVA_PROGRAMS / program), *arguments]


class Program:
    """One running program. What it prints comes from a thread of its own, so that every wait has a deadline."""

    def __init__(self, command: Sequence[str], *, cwd: Path) -> None:
        self.name = next(part for part in command if part.endswith((".py", ".js", ".java", "page_reader")))
        self.printed: list[str] = []
        self._complaints: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "LC_ALL": "C.UTF-8"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        self._readers = [threading.Thread(target=reader, daemon=True) for reader in (self._read, self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr
        self._complaints.extend(self.process.stderr)

    @property
    def complaints(self) -> str:
        """What it wrote to stderr so far."""
        return "".join(self._complaints)

    def type(self, *lines: str) -> None:
        """Type lines, each with the Enter key."""
        assert self.process.stdin
        try:
            self.process.stdin.write("".join(f"{line}\n" for line in lines))
            self.process.stdin.flush()
        except BrokenPipeError:
            self._wait()
            raise AssertionError(self._story("reads no more")) from None

    def line(self) -> str:
        """The next line it prints."""
        try:
            line = self._lines.get(timeout=PATIENCE * 2)
        except queue.Empty:
            raise AssertionError(self._story("printed nothing more in time")) from None
        if line is None:
            self._lines.put(None)
            self._wait()
            raise AssertionError(self._story(f"ended with exit code {self.process.returncode}"))
        self.printed.append(line)
        return line

    def object(self) -> Any:
        """The next line it prints, read as JSON."""
        return json.loads(self.line())

    def objects_until(self, last: Callable[[Any], bool]) -> list[Any]:
        """What it prints, read as JSON, up to the first object that `last` is true of."""
        objects = [self.object()]
        while not last(objects[-1]):
            objects.append(self.object())
        return objects

    def end(self, code: int = 0) -> list[str]:
        """Let it come to its end, with this exit code and no complaint; gives the lines not yet read."""
        self._close_stdin()
        self._wait()
        rest: list[str] = []
        while (line := self._lines.get(timeout=PATIENCE)) is not None:
            rest.append(line)
        self.printed += rest
        if self.process.returncode != code:
            raise AssertionError(self._story(f"ended with exit code {self.process.returncode}, not {code}"))
        if code == 0 and self.complaints:
            raise AssertionError(self._story("complained"))
        return rest

    def stop(self) -> None:
        """Make it go, if it has not gone."""
        if self.process.poll() is None:
            self.process.kill()
        self._close_stdin()
        self._wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream
            stream.close()

    def _close_stdin(self) -> None:
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):  # it is gone, and does not care
            self.process.stdin.close()

    def _wait(self) -> None:
        try:
            self.process.wait(PATIENCE * 2)
        except subprocess.TimeoutExpired:
            raise AssertionError(self._story("does not end")) from None
        deadline = time.monotonic() + PATIENCE
        for reader in self._readers:
            reader.join(max(0.0, deadline - time.monotonic()))

    def _story(self, what: str) -> str:
        printed = "\n".join(self.printed) or "(nothing)"
        return f"{self.name} {what}.\nIt printed:\n{printed}\nIt complained:\n{self.complaints or '(no)'}"
