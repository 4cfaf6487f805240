"""The line at the device: who runs an engine now, who waits, and whom the one at its head takes along."""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

from latentrt.engines.forks import watch_forks
from latentrt.runtime.serving.lanes.engine_call import EngineCall, gathered


class Line:
    """Calls of engines, oldest first. No thread belongs to it: whose turn it is runs its call and those like it.

    There is no waiting for company: who finds a seat free takes it at once. While seats are taken, calls gather.
    """

    def __init__(self, seats: int) -> None:
        """An empty one.

        Args:
            seats: how many runs the device has room for at once.
        """
        self._seats = seats
        self._lock = Lock()
        self._taken = 0
        self._waiting: deque[EngineCall] = deque()
        self._runs: Counter[int] = Counter()
        watch_forks(self)

    @property
    def runs(self) -> Mapping[int, int]:
        """How many runs there were so far, by how many calls each was made for."""
        with self._lock:
            return dict(self._runs)

    def enter(self, call: EngineCall) -> bool:
        """Takes a seat for a call if there is one, else puts it in the line. ``leave`` must follow, whatever comes."""
        with self._lock:
            if self._taken < self._seats:
                self._runs[1] += 1
                self._taken += 1
                call.seated = True
                return True
            call.waits()
            self._waiting.append(call)
            return False

    def leave(self, call: EngineCall) -> None:
        """Gives the seat of a call to the oldest that waits; takes one that still waits out. May be called twice."""
        with self._lock:
            if call.seated:
                call.seated = False
                self._taken -= 1
                self._seat()
            elif call.wanted and call in self._waiting:
                self._waiting.remove(call)
            call.wanted = False

    def results(self, call: EngineCall) -> dict[str, Any] | None:
        """Waits for a call that was put in the line: what comes of it, where it ran with others; None where it is its
        turn and it is alone."""
        call.sleep()
        if call.results is not None:
            return call.own_results()
        mates = self._mates(call)
        if not mates:
            return None
        # What stayed on a device of a run before lies in this order already, where the same calls meet again
        together = sorted((call, *mates), key=lambda one: one.place)
        try:
            results = call.run(gathered(together))
        except Exception:  # too large for the device, or something is wrong with one of them: each for itself
            self._part(mates)
            return None
        except BaseException:  # this thread ends, the others do not
            self._part(mates)
            raise
        try:
            self.leave(call)  # the next ones run while these are handed out
            begin = 0
            for one in together:
                one.takes(results, begin)
                begin += one.rows
                if one is not call:
                    one.wake()
        except BaseException:
            self._part(mates)
            raise
        return call.own_results()

    def _mates(self, call: EngineCall) -> list[EngineCall]:
        """The calls that run with one, oldest first; they leave the line."""
        with self._lock:
            if call.lane is None:
                self._runs[1] += 1
                return []
            mates, rows = [], call.rows
            for other in self._waiting:
                if other.lane == call.lane and rows + other.rows <= call.most:
                    mates.append(other)
                    rows += other.rows
            for mate in mates:
                self._waiting.remove(mate)
            self._runs[1 + len(mates)] += 1
            return mates

    def _part(self, calls: Sequence[EngineCall]) -> None:
        """Puts calls that got nothing back to the head of the line, to run alone; no other need sleep."""
        with self._lock:
            for call in calls:
                if call.results is not None and call.asleep:
                    call.wake()
            for call in reversed([call for call in calls if call.results is None and call.wanted]):
                call.lane = None
                self._waiting.appendleft(call)
            self._seat()

    def _seat(self) -> None:
        """Gives free seats to those that wait longest; the lock is held."""
        while self._waiting and self._taken < self._seats:
            self._taken += 1
            call = self._waiting.popleft()
            call.seated = True
            call.wake()

    def after_fork(self) -> None:
        """Called in a forked process, where whoever ran or waited is not there."""
        self._lock, self._taken = Lock(), 0
        self._waiting = deque()
