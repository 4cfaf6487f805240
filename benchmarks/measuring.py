"""Times, taken in turn: in every round each contender draws once, A B C A B C …, while the others wait."""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from latentrt.benchmarks.journal import Answer, Journal
from latentrt.benchmarks.peak import PeakMeter
from latentrt.benchmarks.plan import Case, Plan, base_case
from latentrt.benchmarks.pool import Pool
from latentrt.benchmarks.process import WorkerError, cold_start, total_processor_seconds
from latentrt.benchmarks.roster import Entrant

Told = Callable[[str], None]


class Rounds:
    """The phases of a benchmark over its entrants; what they answered is in the journal.

    ``failures`` are reasons by entrant and phase: an entrant that fails in a phase is not asked again in it.
    """

    def __init__(self, plan: Plan, journal: Journal, pool: Pool, peak: PeakMeter, told: Told) -> None:
        self._plan, self._journal, self._pool, self._peak, self._told = plan, journal, pool, peak, told
        self._resident = pool.resident
        self.failures: dict[str, dict[str, str]] = {}

    def latency(self, entrants: Sequence[Entrant]) -> None:
        """One picture a round from each, with the machine's peak between rounds, and the peak memory at the end."""
        case = base_case(self._plan)
        for number in range(self._plan.runs):
            self._told(f"round {number + 1} of {self._plan.runs}")
            self._journal.once(("peak", number), self._peak.seconds)
            for entrant in entrants:
                self._draw("latency", "one", case, number, entrant)
        for entrant in entrants:
            self._after("peak_bytes", entrant, lambda one: {"bytes": self._pool.peaks.get(one.name)})
            self._after("opened", entrant, lambda one: self._pool.opened.get(one.name, {}))
            self._after("packages", entrant, lambda one: self._pool.worker(one).ask({"do": "packages"}))

    def varied(self, phase: str, cases: Mapping[str, Case], entrants: Sequence[Entrant]) -> None:
        """Rounds over several cases."""
        for number in range(self._plan.varied_runs):
            self._told(f"{phase}: round {number + 1} of {self._plan.varied_runs}")
            if self._resident:
                order = [(label, entrant) for label in cases for entrant in entrants]
            else:  # opening costs more than what changes between two cases
                order = [(label, entrant) for entrant in entrants for label in cases]
            for label, entrant in order:
                self._draw(phase, label, cases[label], number, entrant)

    def cold(self, entrants: Sequence[Entrant]) -> None:
        """A PNG from a new process each, once around uncounted so that all files have been read before."""
        request = base_case(self._plan).request(self._plan)
        self._pool.close()
        with tempfile.TemporaryDirectory() as temporary:
            for number in range(-1, self._plan.cold_runs):
                self._told(f"cold start: round {number + 1} of {self._plan.cold_runs}")
                for entrant in entrants:
                    output = Path(temporary) / "cold.png"
                    whole = {**request, **entrant.opening, "output": str(output)}
                    self._ask("cold", ("cold", number, entrant.name), entrant, lambda e, w=whole: self._cold(e, w))  # type: ignore[misc]

    def _cold(self, entrant: Entrant, request: Mapping[str, Any]) -> Answer:
        seconds, answer = cold_start(entrant.python, entrant.adapter, request, timeout=self._plan.timeout)
        return {"seconds": seconds, "open": sum(answer["seconds"].values())}

    def pictures(self, entrants: Sequence[Entrant], folder: Path) -> None:
        """Every prompt once from each, saved as ``folder``/<place of the entrant>-<prompt>.npz."""
        case = base_case(self._plan)
        for place, entrant in enumerate(entrants):
            self._told(f"pictures of {entrant.name}")
            for prompt in range(len(self._plan.prompts)):
                output = folder / f"{place}-{prompt}.npz"
                request = {**case.request(self._plan, prompt), "output": str(output)}
                if not output.is_file():
                    self._attempt("quality", entrant, lambda one, r=request: self._pool.draw(one, case, r))  # type: ignore[misc]

    def own_emoji(self, entrant: Entrant, ask: Callable[[Entrant], Answer]) -> None:
        """The entrant's own-emoji rate, by whatever measures it."""
        self._ask("own_emoji", ("own_emoji", entrant.name), entrant, ask)

    def _draw(self, phase: str, label: str, case: Case, number: int, entrant: Entrant) -> None:
        def ask(one: Entrant) -> Answer:
            self._pool.worker(one)
            return self._watched(one, lambda: self._pool.draw(one, case, case.request(self._plan)))

        self._ask(phase, (phase, label, number, entrant.name), entrant, ask)
        if phase == "latency":
            self._pool.note_peak(entrant)

    def _watched(self, entrant: Entrant, work: Callable[[], Answer]) -> Answer:
        """The work's answer, with the shares of the processors that waiting contenders and other programs took."""
        import psutil

        def readings() -> tuple[float, float, float]:
            times = psutil.cpu_times()
            idle = times.idle + getattr(times, "iowait", 0.0)
            own = os.times()
            waiting = total_processor_seconds(self._pool.others(entrant))
            ours = waiting + total_processor_seconds([self._pool.worker(entrant)]) + own.user + own.system
            return waiting, ours, sum(times[:8]) - idle

        begin, before = perf_counter(), readings()
        answer = work()
        wall, after = perf_counter() - begin, readings()
        waiting, ours, busy = (late - early for late, early in zip(after, before, strict=True))
        whole = wall * (os.cpu_count() or 1)
        return {**answer, "idle_workers": waiting / whole, "background": min(1.0, max(0.0, busy - ours) / whole)}

    def _ask(self, phase: str, key: tuple[object, ...], entrant: Entrant, ask: Callable[[Entrant], Answer]) -> None:
        if self._journal.known(*key) is None:
            answer = self._attempt(phase, entrant, ask)
            if answer is not None:
                self._journal.add(key, answer)

    def _after(self, name: str, entrant: Entrant, ask: Callable[[Entrant], Answer]) -> None:
        """Something about an entrant that drew."""
        if "latency" not in self.failures.get(entrant.name, {}):
            self._ask(name, (name, entrant.name), entrant, ask)

    def _attempt(self, phase: str, entrant: Entrant, ask: Callable[[Entrant], Answer]) -> Answer | None:
        reasons = self.failures.setdefault(entrant.name, {})
        if phase in reasons:
            return None
        try:
            return ask(entrant)
        except WorkerError as failure:
            reasons[phase] = str(failure)
            self._told(f"{entrant.name}: {phase}: {failure}")
            return None
