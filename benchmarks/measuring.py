"""Times, taken in turn: in every round each contender draws once, A B C A B C …, while the others wait."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from latentrt.benchmarks.journal import Answer, Journal
from latentrt.benchmarks.peak import PeakMeter
from latentrt.benchmarks.plan import Case, Plan, base_case
from latentrt.benchmarks.pool import Pool
from latentrt.benchmarks.process import WorkerError, cold_start, total_processor_seconds
from latentrt.benchmarks.roster import Entrant
from latentrt.engines.errors import LatentrtError

Told = Callable[[str], None]

# Seconds before each picture that counts: the threads of whoever drew before spin on, up to 0.2 s (LLVM's OpenMP)
_QUIET = 0.25


class Rounds:
    """The phases of a benchmark over its entrants; what they answered is in the journal.

    ``failures`` are reasons by entrant and phase: an entrant that fails in a phase is not asked again in it.
    """

    def __init__(self, plan: Plan, journal: Journal, pool: Pool, peak: PeakMeter, pictures: Path, told: Told) -> None:
        self._plan, self._journal, self._pool, self._peak, self._told = plan, journal, pool, peak, told
        self._resident, self._pictures = pool.resident, pictures
        self.failures: dict[str, dict[str, str]] = {}

    def latency(self, entrants: Sequence[Entrant]) -> None:
        """One picture a round from each, with the machine's peak between rounds; the first round's are kept."""
        case = base_case(self._plan)
        for number in range(self._plan.runs):
            self._told(f"round {number + 1} of {self._plan.runs}")
            self._journal.once(("peak", number), self._peak.seconds)
            for entrant in entrants:
                self._draw("latency", "one", case, number, entrant)
        for entrant in entrants:
            if "latency" not in self.failures.get(entrant.name, {}):
                self._ask("packages", ("packages", entrant.name), entrant, self._packages)

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
        """A PNG from a new process each, after all had their files read: in an uncounted round, or just before."""
        request = base_case(self._plan).request(self._plan)
        self._pool.close()
        with tempfile.TemporaryDirectory() as temporary:
            for number in range(-1 if self._resident and self._plan.cold_runs else 0, self._plan.cold_runs):
                self._told(f"cold start: round {number + 1} of {self._plan.cold_runs}")
                for entrant in entrants:
                    output = Path(temporary) / "cold.png"
                    whole = {**request, **entrant.opening, "output": str(output)}
                    self._ask("cold", ("cold", number, entrant.name), entrant, lambda e, w=whole: self._cold(e, w))  # type: ignore[misc]

    def _cold(self, entrant: Entrant, request: Mapping[str, Any]) -> Answer:
        def start() -> tuple[float, Answer]:
            return cold_start(entrant.python, entrant.adapter, request, timeout=self._plan.timeout)

        if not self._resident:  # the others' files may have pushed this one's out of the system's cache
            start()
        seconds, answer = start()
        return {"seconds": seconds, "open": sum(answer["seconds"].values())}

    def picture(self, entrant: Entrant, prompt: int) -> Path:
        """Where an entrant's picture of a prompt is kept."""
        return self._pictures / f"{hashlib.sha256(entrant.name.encode()).hexdigest()[:16]}-{prompt}.npz"

    def pictures(self, entrants: Sequence[Entrant]) -> None:
        """Every prompt once from each."""
        case = base_case(self._plan)
        for entrant in entrants:
            self._told(f"pictures of {entrant.name}")
            for prompt in range(len(self._plan.prompts)):
                output = self.picture(entrant, prompt)
                request = {**case.request(self._plan, prompt), "output": str(output)}
                if not output.is_file():
                    self._attempt("quality", entrant, lambda one, r=request: self._pool.draw(one, case, r))  # type: ignore[misc]

    def once(self, phase: str, entrant: Entrant, ask: Callable[[Entrant], Answer]) -> None:
        """What is measured once of an entrant, by ``ask``."""
        self._ask(phase, (phase, entrant.name), entrant, ask)

    def _draw(self, phase: str, label: str, case: Case, number: int, entrant: Entrant) -> None:
        first = phase == "latency" and number == 0
        output = str(self.picture(entrant, 0)) if first else None

        def ask(one: Entrant) -> Answer:
            opened = self._pool.worker(one)
            request = {**case.request(self._plan), "output": output}
            self._pool.warm(one, case, request)
            sleep(_QUIET)
            answer = self._watched(one, lambda: self._pool.draw(one, case, request))
            return {**answer, "peak_bytes": opened.peak_bytes, "versions": self._pool.opened[one.name]["versions"]}

        self._ask(phase, (phase, label, number, entrant.name), entrant, ask)

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

    def _packages(self, entrant: Entrant) -> Answer:
        return self._pool.worker(entrant).ask({"do": "packages"})

    def _attempt(self, phase: str, entrant: Entrant, ask: Callable[[Entrant], Answer]) -> Answer | None:
        reasons = self.failures.setdefault(entrant.name, {})
        if phase in reasons:
            return None
        try:
            return ask(entrant)
        except (WorkerError, LatentrtError) as failure:
            reasons[phase] = str(failure)
            self._told(f"{entrant.name}: {phase}: {failure}")
            return None
