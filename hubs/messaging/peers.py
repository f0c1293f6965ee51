"""The other processes of this service, as far as they have been heard of.

Every process says hello to all others when it starts and once a second from then on. Whoever hears
a newcomer's first hello answers it, so that the newcomer knows everybody a moment later; one that
stops in good order says goodbye. Who has been silent for three seconds is taken for dead.

A process hears its own hellos too. While it does, its line works in both directions; only when that
has been so for a while does it know everybody, and may count answers. So an operation that has to
reach everybody is exact, over any channel layer and with no registry to keep true.

Silence counts only on a line that works: up to the last own hello that came back, and no further.
When a layer comes back, some processes find it later than others; so those known from before get
their three seconds anew.

For the same reason none of them may be taken to hear what is published, only because the layer has
taken it. After a disturbance all others are in doubt until each has answered a hello that was said
since: it heard that one. A process that cannot hear says so, while it can still speak.

Where one alone can neither hear nor speak, that is not known until its silence makes it dead, and what is
published meanwhile counts as success. Nothing that the others see could tell it from one that was killed, whose
clients are gone with it. The count of receivers that Redis gives for a publication falls for both alike, and
for a network that went silent it does not fall; to refuse by it would stop all whenever one is killed, until its
silence has lasted.

Pure: the caller brings the time (monotonic seconds).
"""

from __future__ import annotations

from collections.abc import Iterable

HELLO_SECS = 1.0

# Who misses so many hellos is silent.
SILENT_HELLOS = 3.2


class Peers:
    """When each process was last heard, this one among them."""

    def __init__(self, own: str, hello_secs: float = HELLO_SECS) -> None:
        self._own = own
        self.hello_secs = hello_secs
        self._heard: dict[str, float] = {}
        # Since when the own hellos have been coming back without a gap; None while they do not.
        self._undisturbed_since: float | None = None
        self._doubted: set[str] = set()
        # How often there was a reason to doubt; an answer to a question from before says nothing.
        self.doubts = 0

    @property
    def settled_secs(self) -> float:
        """After so long on a working line one has heard even of those whose answer to the first hello was lost."""
        return 1.5 * self.hello_secs

    def hear(self, process: str, now: float) -> None:
        """Note a hello."""
        if process == self._own and (self._undisturbed_since is None or self._is_deaf(now)):
            self._undisturbed_since = now
        self._heard[process] = now
        if process == self._own:
            self._forget_silent()

    def forget(self, process: str) -> None:
        """It said goodbye."""
        self._heard.pop(process, None)
        self._doubted.discard(process)

    def doubt(self, process: str | None = None) -> None:
        """One of the others, or any of them, may not hear what is published."""
        self.doubts += 1
        self._doubted |= self.alive() if process is None else {process} & self.alive()

    def answered(self, process: str, doubts: int) -> None:
        """A process heard what was said when the `doubts` were so many."""
        if doubts == self.doubts:
            self._doubted.discard(process)

    def hears(self, process: str) -> bool:
        """Whether there is no reason to think that a process does not hear."""
        return process not in self._doubted

    @property
    def all_hear(self) -> bool:
        """Whether there is no reason to think so of any other."""
        return not self._doubted

    def disturbed(self) -> None:
        """The line failed: whoever came or went meanwhile was not heard."""
        self._undisturbed_since = None

    @property
    def is_undisturbed(self) -> bool:
        """Whether an own hello has come back since the line failed last."""
        return self._undisturbed_since is not None

    def is_complete(self, now: float) -> bool:
        """Whether everybody who lives has been heard of."""
        since = self._undisturbed_since
        return since is not None and now - since >= self.settled_secs and not self._is_deaf(now)

    def alive(self) -> set[str]:
        """The other processes that are not known to be dead."""
        return set(self._heard) - {self._own}

    def hears_itself(self, since: float) -> bool:
        """Whether an own hello came back after `since`: till then, at least, the line worked."""
        return self._own_heard > since

    def perhaps_alive(self, processes: Iterable[str], asked_at: float) -> set[str]:
        """Those of `processes`, asked at `asked_at` and not answering, that may live all the same.

        Dead is who ought to have said hello since, and did not.
        """
        back = self._undisturbed_since
        was_due = self._own_heard - asked_at > 1.1 * self.hello_secs
        # Who has not been heard since the line came back may not have found it yet, and has longer.
        return {
            process
            for process in processes
            if (at := self._heard.get(process)) is not None
            and (at > asked_at or not was_due or back is None or at < back)
        }

    @property
    def _own_heard(self) -> float:
        return self._heard.get(self._own, float("-inf"))

    def _is_deaf(self, now: float) -> bool:
        return now - self._own_heard > SILENT_HELLOS * self.hello_secs

    def _forget_silent(self) -> None:
        if self._undisturbed_since is None:
            return
        still = self._own_heard - SILENT_HELLOS * self.hello_secs
        if self._undisturbed_since < still:
            self._heard = {process: at for process, at in self._heard.items() if at >= still}
            self._doubted &= self._heard.keys()
