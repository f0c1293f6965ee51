"""The other processes of this service, as far as they have been heard of.

Every process says hello to all others when it starts and once a second from then on. Whoever hears
a newcomer's first hello answers it, so that the newcomer knows everybody a moment later; one that
stops in good order says goodbye. Who has been silent for three seconds is taken for dead.

A process hears its own hellos too. While it does, its line works in both directions; only when that
has been so for a while does it know everybody, and may count answers. So an operation that has to
reach everybody is exact, over any channel layer and with no registry to keep true.

Silence counts only on a line that works. When a layer comes back, some processes find it later than
others; so those known from before get their three seconds anew.

Pure: the caller brings the time (monotonic seconds).
"""

from __future__ import annotations

from collections.abc import Iterable

HELLO_SECS = 1.0


class Peers:
    """When each process was last heard, this one among them."""

    def __init__(self, own: str, hello_secs: float = HELLO_SECS) -> None:
        self._own = own
        self.hello_secs = hello_secs
        self._heard: dict[str, float] = {}
        # Since when the own hellos have been coming back without a gap; None while they do not.
        self._undisturbed_since: float | None = None

    @property
    def settled_secs(self) -> float:
        """After so long on a working line one has heard even of those whose answer to the first hello was lost."""
        return 1.5 * self.hello_secs

    def hear(self, process: str, now: float) -> None:
        """Note a hello."""
        if process == self._own:
            if self._undisturbed_since is None or self._is_silent(process, now):
                self._undisturbed_since = now
            self._forget_silent(now)
        self._heard[process] = now

    def forget(self, process: str) -> None:
        """It said goodbye."""
        self._heard.pop(process, None)

    def disturbed(self) -> None:
        """The line failed: whoever came or went meanwhile was not heard."""
        self._undisturbed_since = None

    def is_complete(self, now: float) -> bool:
        """Whether everybody who lives has been heard of."""
        since = self._undisturbed_since
        return since is not None and now - since >= self.settled_secs and not self._is_silent(self._own, now)

    def alive(self, now: float) -> set[str]:
        """The other processes that are not known to be dead."""
        self._forget_silent(now)
        return set(self._heard) - {self._own}

    def hears_itself(self, since: float) -> bool:
        """Whether an own hello came back after `since`: till then, at least, the line worked."""
        return self._heard.get(self._own, float("-inf")) > since

    def perhaps_alive(self, processes: Iterable[str], asked_at: float, now: float) -> set[str]:
        """Those of `processes`, asked at `asked_at` and not answering, that may live all the same.

        These have been heard since; or not yet, on a line that came back only lately.
        """
        back = self._undisturbed_since
        return {
            process
            for process in processes
            if (at := self._heard.get(process)) is not None
            and (at > asked_at or ((back is None or at < back) and not self._is_silent(process, now)))
        }

    def _forget_silent(self, now: float) -> None:
        self._heard = {
            process: at
            for process, at in self._heard.items()
            if process == self._own or not self._is_silent(process, now)
        }

    def _is_silent(self, process: str, now: float) -> bool:
        at = self._heard.get(process, float("-inf"))
        if process != self._own:
            if self._undisturbed_since is None:
                return False
            at = max(at, self._undisturbed_since)
        return now - at > 3.2 * self.hello_secs
