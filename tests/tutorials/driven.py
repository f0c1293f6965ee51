"""A client program that does what a test types, and the facts it prints."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from tests.running import PATIENCE
from tests.tutorials.programs import Program

MESSAGES = ("group message", "server message")


class DrivenClient:
    """One of the programs on a client SDK: told what to do, asked what it was told.

    Every fact is to be taken, each once: what a test has not asked for is found when the client stops.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._facts: list[dict[str, Any]] = []

    def begin(self, operation: str, *details: Any, **options: Any) -> None:
        """Have it start an operation."""
        self._program.type(json.dumps([operation, *details, options]))

    def does(self, operation: str, *details: Any, **options: Any) -> dict[str, Any]:
        """Have it do something, and see that it works; gives what the SDK said of it."""
        self.begin(operation, *details, **options)
        return self.did(operation)

    def did(self, operation: str) -> dict[str, Any]:
        """Wait for an operation that was begun, and see that it works."""
        fact = self.take(lambda fact: operation in (fact.get("did"), fact.get("failed")))
        assert fact.pop("did", None) == operation, fact
        return fact

    def fails(self, operation: str, *details: Any, **options: Any) -> dict[str, Any]:
        """Have it do something, and see that it fails; gives the error."""
        self.begin(operation, *details, **options)
        fact = self.take(lambda fact: operation in (fact.get("did"), fact.get("failed")))
        assert fact.pop("failed", None) == operation, fact
        error: dict[str, Any] = fact["error"]
        return error

    def told(self, what: str) -> dict[str, Any]:
        """Wait for the first fact of a kind."""
        fact = self.take(lambda fact: fact.get("told") == what)
        del fact["told"]
        return fact

    def messages(self, count: int) -> list[dict[str, Any]]:
        """Wait for so many messages. In the order of their sequence ids, for Python hands each to another thread."""
        found = [self.take(lambda fact: fact.get("told") in MESSAGES) for _ in range(count)]
        return sorted(found, key=lambda fact: int(fact.get("sequenceId", 0)))

    def stop(self, connection_id: str) -> None:
        """Stop the client and see it end; it was told nothing that the test does not know of."""
        self.begin("stop")
        self._facts += [_without_nothing(json.loads(line)) for line in self._program.end()]
        told = {"told": "disconnected", "connectionId": connection_id}
        facts = [fact for fact in self._facts if not _is_missed_ack(fact)]
        assert sorted(facts, key=repr) == [told, {"told": "stopped"}], facts

    def take(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for the first fact that is wanted, and take it."""
        for place, fact in enumerate(self._facts):
            if wanted(fact):
                return self._facts.pop(place)
        deadline = time.monotonic() + PATIENCE * 2
        while not wanted(fact := _without_nothing(self._program.object())):
            self._facts.append(fact)
            assert time.monotonic() < deadline, f"not told in time, only: {self._facts}"
        return fact


def _is_missed_ack(fact: dict[str, Any]) -> bool:
    """Python's SDK 1.1 sends and only then begins to wait: it misses an ack that comes in between."""
    return fact.get("told") == "rejoin failed" and fact.get("error") == "Failed to send message."


def _without_nothing(fact: dict[str, Any]) -> dict[str, Any]:
    """For one SDK what is not there is null, for another it is not there."""
    return {name: value for name, value in fact.items() if value is not None}


def eventually(is_so: Callable[[], bool], what: str) -> None:
    """Ask until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.02)
