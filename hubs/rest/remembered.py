"""Answers of the database that are kept, for the time when it cannot be asked.

Negotiate reads who a caller is and what that account may do, at each call. While the database is away it goes on by
what the last such call got, which is at most SETTINGS_STALE_SECS old. As long as the database answers nothing here is
used, so a session that has ended or a grant that was taken back counts at once.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from django.db import DatabaseError

from hubs import conf, database, hub_settings
from hubs.errors import DatabaseUnavailable

Answer = TypeVar("Answer")


class Remembered(Generic[Answer]):
    """Answers to one question, by whom or what it is about: at most `capacity`; the oldest are forgotten first.

    `what` (a constant) is what the log says could not be read. Usable from any thread.
    """

    def __init__(self, what: str, capacity: int) -> None:
        self._what = what
        self._capacity = capacity
        self._lock = threading.Lock()
        self._answers: OrderedDict[Hashable, tuple[float, Answer]] = OrderedDict()

    def ask(self, about: Hashable, read: Callable[[], Answer]) -> Answer:
        """Give what `read` reads from the database; what it gave last, while the database is away.

        Raises DatabaseUnavailable where that is not known or too old, and whatever else `read` raises; then, the answer
        that was kept is forgotten. So is one that is None: it would only take the place of others.
        """
        if hub_settings.is_away():
            return self._kept(about)
        asked_at = time.monotonic()
        try:
            answer = read()
        except DatabaseError as problem:
            if not database.is_unavailable(problem):
                raise
            database.report(self._what, problem)
            return self._kept(about)
        except Exception:
            self._keep(about, asked_at, None)
            raise
        self._keep(about, asked_at, answer)
        return answer

    def _kept(self, about: Hashable) -> Answer:
        kept = self._answers.get(about)
        if kept is None or time.monotonic() - kept[0] > conf.settings.SETTINGS_STALE_SECS:
            raise DatabaseUnavailable
        return kept[1]

    def _keep(self, about: Hashable, asked_at: float, answer: Answer | None) -> None:
        with self._lock:
            self._answers.pop(about, None)
            if answer is not None:
                self._answers[about] = (asked_at, answer)
                if len(self._answers) > self._capacity:
                    self._answers.popitem(last=False)

    def forget(self) -> None:
        """Forget everything."""
        with self._lock:
            self._answers.clear()
