"""Asking before sending: whether the owner of a URL wants events there.

Anybody who administers a hub can write any URL into it. So before the first event goes to one, its
owner is asked with an OPTIONS request and has to name this service in the answer; the request is the
business of webhooks.py, what became of it is kept here.

    never asked        events wait for the answer; all that come meanwhile wait for the same one
    allowed            for 60 seconds
    not allowed        for 1 second, then 2, 4 … 60 while it stays so; events fail at once

The question names the host that the events will come from, and the answer holds for that host: the service
may have several, and stock middlewares refuse those they do not know.

When that time is over the next event asks anew, in the background: it and those that come before the
answer still go by the old one. So an owner who is busy for a moment delays nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from hubs.upstream.concurrency import HandlerProblem

logger = logging.getLogger(__name__)

ALLOWED_SECS = 60.0
FIRST_REFUSED_SECS = 1.0
MAX_REFUSED_SECS = 60.0

# Far more than any installation has URLs and names; each costs a few hundred bytes.
MAX_URLS = 1000


class NotAllowed(HandlerProblem):
    """The owner of the URL did not allow events there."""


@dataclass(slots=True)
class _Known:
    """What is known of one URL and name. `problem` None: not answered yet; "": allowed."""

    problem: str | None = None
    until: float = 0.0
    refused_secs: float = 0.0
    asking: asyncio.Task[None] | None = None


class AbuseProtection:
    """What was asked. `ask(url, origin)` raises HandlerProblem unless the URL's owner allows events from that host."""

    def __init__(self, ask: Callable[[str, str], Awaitable[None]], clock: Callable[[], float]) -> None:
        self._ask = ask
        self._clock = clock
        self._known: OrderedDict[tuple[str, str], _Known] = OrderedDict()

    async def check(self, url: str, origin: str) -> None:
        """Return if events may go to `url` from `origin`, asking its owner if that is not known. Raises NotAllowed."""
        asked = (url, origin)
        known = self._known.get(asked)
        if known is None:
            known = self._known[asked] = _Known()
            self._make_room()
        else:
            self._known.move_to_end(asked)
        if known.asking is None and self._clock() >= known.until:
            known.asking = asyncio.create_task(self._find_out(asked, known), name="abuse protection")
        if known.problem is None and known.asking is not None:
            # Shielded: who stops waiting must not take the answer from the others.
            await asyncio.shield(known.asking)
        if known.problem:
            raise NotAllowed(known.problem)

    async def _find_out(self, asked: tuple[str, str], known: _Known) -> None:
        try:
            await self._ask(*asked)
        except HandlerProblem as problem:
            self._refuse(known, f"abuse protection: {problem}")
        except Exception:
            logger.exception("An event handler could not be asked whether it takes events")
            self._refuse(known, "abuse protection: asking failed")
        else:
            known.problem, known.refused_secs = "", 0.0
            known.until = self._clock() + ALLOWED_SECS
        finally:
            known.asking = None

    def _refuse(self, known: _Known, problem: str) -> None:
        known.problem = problem
        known.refused_secs = min(known.refused_secs * 2, MAX_REFUSED_SECS) or FIRST_REFUSED_SECS
        known.until = self._clock() + known.refused_secs

    def _make_room(self) -> None:
        if len(self._known) > MAX_URLS:
            # Those who wait for its answer still have it; the URL would only be asked about again.
            self._known.popitem(last=False)

    async def close(self) -> None:
        """Stop asking."""
        asking = [known.asking for known in self._known.values() if known.asking is not None]
        self._known.clear()
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
