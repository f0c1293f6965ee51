"""The console client: somebody types, a WebSocket answers, both at once.

Two tasks share one connection. The reader prints what arrives until the service ends the connection;
the typist turns lines into frames until nobody types any more. Whichever ends first ends the other.

At a terminal the typist never waits for the service: an event handler may take a minute, and the next
line can be typed meanwhile. Lines from a pipe are done one after the other, each waiting for its
acknowledgement: that keeps what is unanswered bounded, and tells at the end whether all was done.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import logging
import os
import sys
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI, WebSocketException
from websockets.protocol import State
from websockets.typing import Subprotocol

from hubs import addresses
from hubs.management.cli import input, rendering
from hubs.management.cli.errors import Error, one_line
from hubs.management.cli.output import Output, printable

if TYPE_CHECKING:
    from prompt_toolkit.completion import CompleteEvent, Completion
    from prompt_toolkit.document import Document


JSON = "json.webpubsub.azure.v1"
PROTOCOLS = (JSON, "none")

OPEN_SECS = 10
CLOSE_SECS = 5
# Longer than the longest time an event handler gets (100 s).
ANSWER_SECS = 110
# After the last line of a pipe, when no acknowledgement tells that it was done: until it was quiet for a second.
SILENCE_SECS = 1
LINGER_SECS = 5
MAX_MESSAGE_BYTES = 16 << 20
MAX_LINE_CHARACTERS = 4 << 20

# The library's own log names URLs, which hold tokens; ours says nothing below a warning.
_LOG = logging.getLogger(__name__)
_LOG.setLevel(logging.WARNING)

_ENDINGS = {
    1000: "closed normally",
    1001: "the service is going away",
    1003: "this kind of message is not accepted",
    1005: "no reason given",
    1006: "the connection broke",
    1007: "the service could not read a message",
    1008: "the service's policy forbids it",
    1009: "a message was too large",
    1011: "the service had a fault, or nobody handles this event",
    1012: "the service restarts",
}

# Said by the service after our own goodbye, these tell that the last line went wrong.
_FAULTS = (1003, 1007, 1008, 1009, 1011)


async def converse(url: str, protocol: str, out: Output) -> None:
    """Connect to a client URL and talk until somebody ends it. Raises Error."""
    offered = [Subprotocol(protocol)] if protocol != "none" else None
    try:
        connection = await connect(
            url,
            subprotocols=offered,
            logger=_LOG,
            open_timeout=OPEN_SECS,
            close_timeout=CLOSE_SECS,
            max_size=MAX_MESSAGE_BYTES,
            proxy=None if urlsplit(url).hostname in addresses.LOOPBACK_NAMES else True,
        )
    except (OSError, WebSocketException, ValueError, EOFError) as problem:
        raise Error(_why_not_connected(url, problem)) from None
    try:
        if offered and connection.subprotocol is None:
            raise Error(f"The service does not speak {protocol}. Try --protocol none.")
        terminal = sys.stdin.isatty() and sys.stdout.isatty()
        await _Conversation(connection, out, terminal=terminal).run()
    finally:
        await connection.close()


def _why_not_connected(url: str, problem: Exception) -> str:
    parts = urlsplit(url)
    address = f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'wss' else 80)}"
    if isinstance(problem, InvalidStatus):
        body = printable(one_line((problem.response.body or b"").decode(errors="replace")))[:200]
        return f"The service refused the connection: {problem.response.status_code} {body}".rstrip()
    if isinstance(problem, TimeoutError):
        return f"{address} did not answer within {OPEN_SECS} seconds."
    # Both addresses of localhost refused: asyncio then joins the two errors into a plain OSError.
    if isinstance(problem, ConnectionRefusedError) or "Connect call failed" in str(problem):
        hint = " Is the service running? To start it: make run" if parts.hostname in addresses.LOOPBACK_NAMES else ""
        return f"Nothing answers at {address}.{hint}"
    if isinstance(problem, InvalidURI):
        # Its text quotes the URL, and with it the token.
        return f"{address} is no address of a WebSocket."
    return f"{address} cannot be reached as a WebSocket: {one_line(problem)}"


class _Conversation:
    """One connection, with what was asked on it and not answered yet."""

    def __init__(self, connection: ClientConnection, out: Output, *, terminal: bool) -> None:
        self.connection = connection
        self.out = out
        self.terminal = terminal
        self.speaks_json = connection.subprotocol is not None
        self.last_ack_id = 0
        # Asked and not answered: the line that was typed, and who waits for the answer.
        self.unanswered: dict[int, tuple[str, asyncio.Future[bool]]] = {}
        self.pings: deque[asyncio.Future[bool]] = deque()
        self.groups: dict[str, None] = {}
        self.heard = asyncio.Event()

    async def run(self) -> None:
        if self.terminal:
            self._remark(input.help_text() if self.speaks_json else "Every line is sent as it is. Ctrl-D ends.")
        reader = asyncio.create_task(self._read())
        typist = asyncio.create_task(self._type_at_terminal() if self.terminal else self._type_from_pipe())
        try:
            await asyncio.wait({reader, typist}, return_when=asyncio.FIRST_COMPLETED)
            said_goodbye = self.connection.state is State.OPEN
            if said_goodbye:
                # What came before the service's goodbye is still shown.
                await self.connection.close()
            await reader
            if typist.done():
                with suppress(ConnectionClosed):
                    typist.result()
        finally:
            for task in (reader, typist):
                task.cancel()
            await asyncio.gather(reader, typist, return_exceptions=True)
        if not said_goodbye or self.connection.close_code in _FAULTS:
            raise Error(self._how_it_ended())

    def _how_it_ended(self) -> str:
        code = self.connection.close_code or 1006
        reason = printable(self.connection.close_reason or "") or _ENDINGS.get(code, "no reason given")
        return f"The connection ended: {code}, {reason}"

    # What arrives

    async def _read(self) -> None:
        with suppress(ConnectionClosed):
            while True:
                self._arrived(await self.connection.recv())

    def _arrived(self, message: str | bytes) -> None:
        self.heard.set()
        answer = self._answered(message) if self.speaks_json and isinstance(message, str) else None
        if self.out.form == "json":
            self._show(rendering.as_json(message))
        elif isinstance(message, bytes):
            self._show(rendering.binary_line(message))
        else:
            self._show(answer or rendering.line_for(message))

    def _answered(self, message: str) -> str | None:
        """Note what a frame answers. Gives the line to show for an ack, None for other frames."""
        frame = rendering.frame_of(message)
        match frame:
            case {"type": "pong"} if self.pings:
                self._settle(self.pings.popleft(), True)
            case {"type": "ack", "ackId": int(ack_id), "success": bool(success)}:
                if ack_id not in self.unanswered:
                    return None
                line, waiting = self.unanswered.pop(ack_id)
                self._settle(waiting, success)
                shown = printable(line[:80]) + ("…" if len(line) > 80 else "")
                if success:
                    return f"OK: {shown}"
                error = frame.get("error") if frame else None
                error = error if isinstance(error, dict) else {}
                reason = " – ".join(str(error[part]) for part in ("name", "message") if error.get(part))
                return f"Refused: {shown}: {printable(reason or 'no reason given')}"
        return None

    @staticmethod
    def _settle(waiting: asyncio.Future[bool], success: bool) -> None:
        # Who waited may have given up.
        if not waiting.done():
            waiting.set_result(success)

    # What is typed

    async def _type_at_terminal(self) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.patch_stdout import patch_stdout
        from prompt_toolkit.shortcuts import CompleteStyle

        # As in a shell: Tab completes, and no room is kept free for a menu.
        session: PromptSession[str] = PromptSession(
            completer=_completer(self.groups),
            complete_style=CompleteStyle.READLINE_LIKE,
            complete_while_typing=False,
            reserve_space_for_menu=0,
        )
        with patch_stdout():
            while True:
                try:
                    line = await session.prompt_async("> ")
                except (EOFError, KeyboardInterrupt):
                    return
                if self._quits(line):
                    return
                # Bytes that are no UTF-8 come as halves of surrogate pairs, which no frame can carry.
                await self._do(line.encode(errors="replace").decode())

    async def _type_from_pipe(self) -> None:
        failed = 0
        count = 0
        async with aclosing(_lines(sys.stdin.fileno())) as lines:
            async for line in lines:
                if self._quits(line):
                    break
                if not line.strip():
                    continue
                count += 1
                answer = await self._do(line)
                failed += not (answer if isinstance(answer, bool) else await self._succeeds(answer))
        if not self.speaks_json:
            await self._silence()
        if failed:
            raise Error(f"{failed} of {count} lines failed.")

    async def _silence(self) -> None:
        """Wait a little for what the last lines may bring: without a subprotocol nothing is acknowledged."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECS):
                while True:
                    self.heard.clear()
                    async with asyncio.timeout(SILENCE_SECS):
                        await self.heard.wait()

    async def _succeeds(self, answer: asyncio.Future[bool]) -> bool:
        try:
            return await asyncio.wait_for(answer, ANSWER_SECS)
        except TimeoutError:
            raise Error(f"The service did not answer within {ANSWER_SECS} seconds.") from None

    def _quits(self, line: str) -> bool:
        return self.speaks_json and line.strip().lower() in input.QUIT_WORDS

    async def _do(self, line: str) -> bool | asyncio.Future[bool]:
        """Carry out one line. Gives True when it is done, False when it made no sense, or the coming answer."""
        if not self.speaks_json:
            await self.connection.send(line)
            return True
        if not line.strip():
            return True
        if line.strip().lower() == input.HELP_WORD:
            self._remark(input.help_text())
            return True
        try:
            verb, frame = input.read(line)
        except input.TypoError as problem:
            self._remark(printable(str(problem)))
            return False
        return await self._send(line.strip(), verb, frame)

    async def _send(self, line: str, verb: input.Verb, frame: input.Frame) -> asyncio.Future[bool]:
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if verb.acknowledged:
            self.last_ack_id += 1
            frame = frame | {"ackId": self.last_ack_id}
            self.unanswered[self.last_ack_id] = (line, answer)
        else:
            self.pings.append(answer)
        if self.terminal and "group" in frame:
            self.groups[frame["group"]] = None
        await self.connection.send(json.dumps(frame, ensure_ascii=False))
        return answer

    # What is shown

    def _show(self, text: str) -> None:
        if self.terminal:
            # Looked up now: while somebody types, it is the one that writes above the prompt.
            sys.stdout.write(f"{text}\n")
        else:
            self.out.stdout.write(text)
            # Who reads the pipe wants it now, not when a buffer is full.
            self.out.stdout.flush()

    def _remark(self, text: str) -> None:
        if self.terminal:
            sys.stdout.write(f"{text}\n")
        else:
            self.out.note(text)


async def _lines(descriptor: int) -> AsyncGenerator[str, None]:
    """Give the lines of a pipe or file as they come.

    Not by a thread in readline(): one that waits for a line nobody writes would keep the process from ending.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pending = ""
    while chunk := await _chunk(descriptor):
        pending += decoder.decode(chunk)
        *lines, pending = pending.split("\n")
        for line in lines:
            yield line.removesuffix("\r")
        if len(pending) > MAX_LINE_CHARACTERS:
            raise Error(f"A line has more than {MAX_LINE_CHARACTERS:,} characters.")
    if pending:
        yield pending


async def _chunk(descriptor: int) -> bytes:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    try:
        loop.add_reader(descriptor, readable.set)
    except PermissionError:
        # A regular file: reading never waits.
        return os.read(descriptor, 65536)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, 65536)


def _completer(groups: dict[str, None]) -> Any:
    """Complete words, and the groups that were named before."""
    from prompt_toolkit.completion import Completer, Completion

    class WordsAndGroups(Completer):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
            before = document.text_before_cursor.lstrip()
            word, space, rest = before.partition(" ")
            if not space:
                choices: Iterable[str] = input.WORDS
            elif " " not in rest and word.lower() in input.VERBS and "group" in input.VERBS[word.lower()].parameters:
                choices = [group for group in groups if " " not in group]
            else:
                return
            typing = rest if space else word
            for choice in choices:
                if choice.startswith(typing):
                    yield Completion(choice, start_position=-len(typing))

    return WordsAndGroups()
