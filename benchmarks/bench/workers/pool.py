"""The running workers: all of them at once where the memory allows it, otherwise one."""

from collections.abc import Sequence
from typing import Any

from latentrt.benchmarks.bench.contenders import Entrant
from latentrt.benchmarks.bench.plan import Case
from latentrt.benchmarks.bench.workers.process import Worker, WorkerError

_WARMING_STEPS = 2


class Pool:
    """Opens entrants as they are needed, and warms each up for a case before its first draw that counts.

    A worker is warm for its latest case alone: some of them compile or allocate anew for every other one. One that
    fails (``WorkerError``) is given up.
    """

    def __init__(self, *, timeout: float, resident: bool) -> None:
        """Nothing is opened yet; ``timeout`` are an answer's seconds, ``resident`` keeps open all that were opened."""
        self._timeout, self.resident = timeout, resident
        self._workers: dict[str, Worker] = {}
        self._warm: dict[str, Case] = {}
        self.opened: dict[str, dict[str, Any]] = {}

    def worker(self, entrant: Entrant) -> Worker:
        """The entrant's worker, open."""
        if entrant.name not in self._workers:
            if not self.resident:
                self.close()
            self._workers[entrant.name] = Worker(entrant.python, entrant.adapter, timeout=self._timeout)
            self.opened[entrant.name] = self._ask(entrant, entrant.opening)
        return self._workers[entrant.name]

    def warm(self, entrant: Entrant, case: Case, request: dict[str, Any]) -> None:
        """An uncounted draw of the case, if the worker's latest one was of another."""
        if self._warm.get(entrant.name) != case:
            self._ask(entrant, {**request, "steps": min(_WARMING_STEPS, case.steps), "output": None})
            self._warm[entrant.name] = case

    def draw(self, entrant: Entrant, case: Case, request: dict[str, Any]) -> dict[str, Any]:
        """Draws, warm."""
        self.warm(entrant, case, request)
        return self._ask(entrant, request)

    def _ask(self, entrant: Entrant, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return self.worker(entrant).ask(request)
        except WorkerError:
            self._warm.pop(entrant.name, None)
            if entrant.name in self._workers:
                self._workers.pop(entrant.name).close()
            raise

    def others(self, entrant: Entrant) -> Sequence[Worker]:
        """The workers that wait while an entrant works."""
        return [worker for name, worker in self._workers.items() if name != entrant.name]

    def close(self) -> None:
        """Ends all."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()
        self._warm.clear()
