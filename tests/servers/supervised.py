"""A supervisor in a process of its own, and its workers, as a test sees them (their side: supervising.py)."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

from tests.running import PATIENCE, ROOT, free_port

HANDSHAKE = (
    b"GET /chat HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Child:
    """A worker, as it tells of itself."""

    def __init__(self, number: int, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number, self.pid = number, pid
        self.born_at = asyncio.get_running_loop().time()
        self._reader, self._writer = reader, writer

    def order(self, text: str) -> None:
        """`serve`, `unready`, `die STATUS` or `hang` after its birth; anything makes it ready, or ends its draining."""
        self._writer.write(f"{text}\n".encode())

    async def hears(self) -> str:
        """What it says next; nothing when it is dead."""
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionResetError):
                return (await self._reader.readline()).decode().strip()
            return ""

    async def ended(self) -> None:
        while await self.hears():
            pass
        self._writer.close()

    def close(self) -> None:
        self._writer.close()


class Supervised:
    """A supervisor in a process of its own."""

    def __init__(self, folder: Path, workers: int, stop_secs: float, silence_secs: float) -> None:
        self.folder, self.workers, self.stop_secs, self.silence_secs = folder, workers, stop_secs, silence_secs
        self.port = free_port()
        self.children: list[Child] = []
        self._births: asyncio.Queue[Child] = asyncio.Queue()
        self._expected: dict[int, Child] = {}

    async def start(self, terminal: int | None = None, *, lean: bool = False, out: int | None = None) -> None:
        """Start it, at a terminal if one is given. Lean: it becomes a process without the service, as `serve` does.

        `out`: where its standard output goes, if not to a file.
        """

        def belong_to_terminal() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        ear = str(self.folder / "ear")
        self._ear = await asyncio.start_unix_server(self._born, ear)
        command = [sys.executable, "-m", "tests.servers.supervising"]
        arguments = [str(self.port), str(self.workers), str(self.stop_secs), str(self.silence_secs), ear]
        with (self.folder / "out").open("wb") as file, (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *arguments],
                cwd=ROOT,
                env=os.environ | ({"LEAN": "1"} if lean else {}),
                stdin=terminal,
                stdout=file if out is None else out,
                stderr=log,
                start_new_session=True,
                preexec_fn=None if terminal is None else belong_to_terminal,
            )

    async def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._ear.close()
        for child in self.children:
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
            child.close()

    async def _born(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, number, pid = (await reader.readline()).split()
        self._births.put_nowait(Child(int(number), int(pid), reader, writer))

    async def birth(self, number: int | None = None) -> Child:
        """The next worker, or the next of a place."""
        async with asyncio.timeout(PATIENCE):
            while number not in self._expected:
                child = await self._births.get()
                self.children.append(child)
                if number is None:
                    return child
                self._expected[child.number] = child
        return self._expected.pop(number)

    async def up(self) -> list[Child]:
        """All workers, serving."""
        born = [await self.birth(number) for number in range(1, self.workers + 1)]
        for child in born:
            child.order("serve")
        await self.says("ALL READY", in_="out")
        return born

    async def says(self, text: str, *, in_: str = "log") -> None:
        """Wait until something has been said."""
        async with asyncio.timeout(PATIENCE):
            while text not in self.said(in_):
                await asyncio.sleep(0.02)

    def said(self, in_: str = "log") -> str:
        return (self.folder / in_).read_text()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def status(self) -> int:
        return await asyncio.to_thread(self.process.wait, PATIENCE)

    async def who_answers(self) -> int:
        """Make a request on a connection of its own; gives the process that has answered it."""
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
            assert answer, "hung up without an answer"
        return int(answer[-7:])

    async def refuses(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return True
        writer.close()
        return False
