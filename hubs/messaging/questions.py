"""What a process asks others about connections, and answers.

Questions have two forms. One about a single connection goes to its home, the process whose name
its id begins with, or to where it is known to be (whereabouts.py). One about an audience goes to everybody, and
is answered when all processes known to live (peers.py) have answered; if one that lives does not, the answer is
that it is not known, never a wrong one. Such a question comes back to its asker too. All that was said before it
was heard before it then, the first hello of a newcomer included; and the line is known to work.

What there is to ask is a table, `ANSWERS`, that the operations fill.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from hubs import conf
from hubs.errors import NotFound, Refusal, TooMany, Unavailable
from hubs.messaging.directory import Directory
from hubs.messaging.envelope import EVERYBODY, Answer, Audience, Question, encode, process_address
from hubs.messaging.hearing import Hearing
from hubs.messaging.moves import MAX_FORWARDS
from hubs.messaging.peers import Peers
from hubs.messaging.trunk import UNREACHABLE, Trunk
from hubs.messaging.whereabouts import Whereabouts

logger = logging.getLogger(__name__)

MAX_OPEN_QUESTIONS = 10_000

# What a process does when it is asked: a row per verb, put there by the operations. A row gets the
# members that are meant (exactly one, where a connection was named) and the question's arguments,
# and gives a value that msgpack can carry.
Answering = Callable[[Sequence[Any], dict[str, Any]], Awaitable[Any]]
ANSWERS: dict[str, Answering] = {}

# Refusals that may cross between processes, by the name they travel under.
_PROBLEMS: dict[str, type[Refusal]] = {kind.__name__: kind for kind in (NotFound, TooMany, Unavailable)}


class Questions:
    """The questions of one process, and its answers to those of others."""

    def __init__(
        self, trunk: Trunk, hearing: Hearing, peers: Peers, directory: Directory, whereabouts: Whereabouts
    ) -> None:
        self._trunk = trunk
        self._hearing = hearing
        self._peers = peers
        self._directory = directory
        self._whereabouts = whereabouts
        self._process, self._alone = trunk.process, trunk.alone
        # Those that are not fully answered, by number.
        self.open: dict[int, _Open] = {}
        self._asked = 0

    # To ask

    async def ask(self, verb: str, hub: str, connection_id: str, arguments: dict[str, Any]) -> Any:
        """Have the process where a connection is do `verb`, and give its answer.

        Raises the Refusal it answered with; NotFound when there is no such connection; Unavailable when
        its process lives and does not answer.
        """
        if self._whereabouts.holder(connection_id) == self._process:
            return await self._do(verb, Audience(hub), connection_id, arguments)
        return await self.ask_elsewhere(verb, hub, connection_id, arguments)

    async def ask_elsewhere(self, verb: str, hub: str, connection_id: str, arguments: dict[str, Any]) -> Any:
        """As `ask`, about a connection that is not here, or is only arriving."""
        audience = Audience(hub)
        holder = self._whereabouts.holder(connection_id, elsewhere=True)
        if holder == self._process:
            raise _no_connection(connection_id)
        answers: list[Answer] = []
        if holder in await self._hearing.others():
            answers = await self._put(process_address(holder), {holder}, verb, audience, connection_id, arguments)
        if not answers:
            # Dead, most likely, and its connections with it, unless they have moved; it may have gone just now, with
            # the question passed on or not. Or it is so new that its hello is still to be heard.
            others = await self._hearing.others()
            answers = await self._put(EVERYBODY, others, verb, audience, connection_id, arguments)
        found = next((answer for answer in answers if answer.problem != NotFound.__name__), None)
        if found is None and not answers:
            raise _no_connection(connection_id)
        return _value(found or answers[0])

    async def ask_process(self, process: str, verb: str, arguments: dict[str, Any]) -> Any:
        """Ask one process something that is not about a connection it has. Raises Refusal."""
        nobody = Audience("")
        answers = await self._put(process_address(process), {process}, verb, nobody, None, arguments)
        if not answers:
            raise NotFound("The server that was asked is gone.")
        return _value(answers[0])

    async def ask_everybody(self, verb: str, audience: Audience, arguments: dict[str, Any]) -> list[Any]:
        """Have every process do `verb` for those of its connections that are meant; gives all answers.

        Raises the Refusal one of them answered with; Unavailable when a process that lives does not answer.
        """
        if self._alone:
            return [await self._do(verb, audience, None, arguments)]
        # This process answers, too, when its question comes back: at the same place in what is said as the others do,
        # or a connection that comes here just then would be met by nobody.
        asked = {*await self._hearing.others(), self._process}
        return [*map(_value, await self._put(EVERYBODY, asked, verb, audience, None, arguments))]

    async def _put(
        self,
        address: str,
        asked: set[str],
        verb: str,
        audience: Audience,
        connection_id: str | None,
        arguments: dict[str, Any],
    ) -> list[Answer]:
        """Send a question and wait for `asked` to answer; those that died meanwhile are not waited for."""
        if len(self.open) >= MAX_OPEN_QUESTIONS:
            raise Unavailable("Too many questions to other processes are unanswered; try again later.")
        self._asked += 1
        number = self._asked
        to_everybody = address == EVERYBODY
        question = encode(Question(number, self._process, verb, audience, connection_id, arguments))
        waiting = self.open[number] = _Open(asked, returns=to_everybody)
        sent_at = asyncio.get_running_loop().time()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(conf.settings.ANSWER_SECS):
                    if to_everybody:
                        await self._trunk.send(address, question, origin="")
                    else:
                        await self._trunk.send(address, question, forwards=MAX_FORWARDS)
                    await waiting.complete.wait()
        finally:
            del self.open[number]
        # Silent since well before the time was up: dead. Heard from meanwhile, but no answer: not known.
        # Where this process does not even hear itself, silence says nothing about others.
        if not waiting.complete.is_set() and not self._peers.hears_itself(sent_at):
            raise Unavailable(UNREACHABLE)
        if not waiting.returned or self._peers.perhaps_alive(waiting.missing, sent_at):
            raise Unavailable("Another server of this service did not answer in time; try again.")
        return waiting.answers

    def take_answer(self, answer: Answer, message: Mapping[str, Any]) -> None:
        """Somebody answered."""
        if (asked := self.open.get(answer.number)) is not None:
            asked.take(answer)

    def gone(self, process: str) -> None:
        """A process said goodbye: nobody waits for its answers."""
        for waiting in self.open.values():
            waiting.gone(process)

    # To answer

    def take(self, question: Question, message: Mapping[str, Any]) -> None:
        """Somebody asks; perhaps this process, whose questions to everybody come back to it."""
        if question.asker == self._process:
            if (asking := self.open.get(question.number)) is not None:
                asking.came_back(self._peers.alive())
                if self._process in asking.missing:
                    self._trunk.in_background(self._answer_here(question, asking), f"answer {question.verb}")
        elif not self._passed_on(question, message):
            self._trunk.in_background(self._answer(question, message), f"answer {question.verb}")

    def _passed_on(self, question: Question, message: Mapping[str, Any]) -> bool:
        next_process = self._whereabouts.next_process(question.connection, message)
        if next_process is None:
            return False
        passed_on = msgspec.structs.replace(question, answer_for=question.answer_for or self._process)
        self._trunk.pass_on(next_process, passed_on, message)
        return True

    async def _answer_here(self, question: Question, asking: _Open) -> None:
        asking.take(await self._answered(question))

    async def _answer(self, question: Question, message: Mapping[str, Any]) -> None:
        # What was read just before it may have been the last word to the process where the connection goes.
        if self._passed_on(question, message):
            return
        answered = await self._answered(question)
        try:
            answer = encode(answered)
        except Exception:
            logger.exception("Could not answer another process's question: %s", question.verb)
            answer = encode(Answer(answered.number, answered.process, None, "Refusal", "Internal server error"))
        # Logged where it happened; the asker's patience runs out.
        with suppress(Refusal):
            await self._trunk.send(process_address(question.asker), answer)

    async def _answered(self, question: Question) -> Answer:
        number, asked = question.number, question.answer_for or self._process
        try:
            value = await self._do(question.verb, question.audience, question.connection, question.arguments)
            return Answer(number, asked, value)
        except Refusal as refusal:
            return Answer(number, asked, None, type(refusal).__name__, refusal.message)
        except Exception:
            logger.exception("Could not answer another process's question: %s", question.verb)
            return Answer(number, asked, None, "Refusal", "Internal server error")

    async def _do(self, verb: str, audience: Audience, connection_id: str | None, arguments: dict[str, Any]) -> Any:
        if connection_id is None:
            return await self._do_for_all(verb, audience, arguments)
        # One that is just arriving is neither here nor elsewhere; soon it will be.
        if (arrival := self._directory.arrivals.get(connection_id)) is not None:
            await arrival.settled.wait()
            if connection_id not in self._directory.connections:
                # It is where it was, or with whom else asked for it; or it has just ended.
                raise Unavailable("The connection is changing its server; try again.")
        member = self._directory.connections.get(connection_id)
        if member is None or member.hub != audience.hub:
            raise _no_connection(connection_id)
        return await ANSWERS[verb]([member], arguments)

    async def _do_for_all(self, verb: str, audience: Audience, arguments: dict[str, Any]) -> Any:
        arriving = [arrival for arrival in self._directory.arrivals.values() if arrival.hub == audience.hub]
        # At once: who goes elsewhere while the others arrive would be met by nobody.
        value = await ANSWERS[verb](list(self._directory.meant(audience)), arguments)
        for arrival in arriving:
            await arrival.settled.wait()
        arrived = {arrival.id for arrival in arriving}
        if late := [member for member in self._directory.meant(audience) if member.id in arrived]:
            more = await ANSWERS[verb](late, arguments)
            # A number, or rows in order.
            value = sorted([*value, *more]) if isinstance(value, list) else value + more
        return value


class _Open:
    """A question that is not fully answered yet. `returns`: it will be heard by its asker too."""

    def __init__(self, missing: Iterable[str], *, returns: bool) -> None:
        self.missing = set(missing)
        self.returned = not returns
        self.answers: list[Answer] = []
        self.complete = asyncio.Event()
        self._settled: set[str] = set()

    def came_back(self, alive: set[str]) -> None:
        """Everything said before it has been heard: these live, and are asked."""
        self.missing |= alive - self._settled
        self.returned = True
        self._look()

    def take(self, answer: Answer) -> None:
        """Somebody answered."""
        self.answers.append(answer)
        self.gone(answer.process)

    def gone(self, process: str) -> None:
        """Nothing more comes from a process."""
        self._settled.add(process)
        self.missing.discard(process)
        self._look()

    def _look(self) -> None:
        if self.returned and not self.missing:
            self.complete.set()


def _value(answer: Answer) -> Any:
    """What was answered. Raises the refusal, if it was one."""
    if answer.problem is not None:
        raise _PROBLEMS.get(answer.problem, Refusal)(answer.message)
    return answer.value


def _no_connection(connection_id: str) -> NotFound:
    return NotFound(f"Connection `{connection_id}` is not found.")
