"""Who draws under the load: a server of ours with its clients, or a peer in a loop with one lock, as its server is."""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Protocol

from latentrt.benchmarks.bench.workers.process import Worker
from latentrt.benchmarks.serving.asked import Asked
from latentrt.benchmarks.serving.clients import ask_by_clients
from latentrt.benchmarks.serving.compared import Compared
from latentrt.benchmarks.serving.schema import Round
from latentrt.benchmarks.serving.server import Server

_ANSWER_SECONDS = 300.0


class Contender(Protocol):
    """Draws what is asked for."""

    name: str

    def draw(self, pictures: Sequence[Asked], clients: int) -> Round:
        """All of them, asked for by so many clients."""


class Served:
    """A server; every picture of it is compared."""

    def __init__(self, name: str, server: Server, compared: Compared) -> None:
        """A contender of this name."""
        self.name, self._server, self._compared = name, server, compared

    def draw(self, pictures: Sequence[Asked], clients: int) -> Round:
        """By clients over HTTP."""
        worked = self._server.processor_seconds
        seconds, delivered = ask_by_clients(self._server.url, pictures, clients)
        worked = self._server.processor_seconds - worked
        self._compared.take(delivered)
        return Round(
            clients=clients,
            seconds=seconds,
            latencies=tuple(one.seconds for one in delivered),
            processor_seconds=worked,
            refusals=sum(one.refusals for one in delivered),
        )


class Looped:
    """A peer's library, without HTTP: it draws one picture after the other, and clients wait for their turn."""

    def __init__(self, name: str, python: Path, adapter: str, model: Path, sizes: Sequence[tuple[int, int]]) -> None:
        """Opens it for these sizes.

        Raises:
            WorkerError: it cannot be opened.
        """
        self.name = name
        self._worker = Worker(python, adapter, timeout=_ANSWER_SECONDS)
        try:
            opening = {"do": "open", "model": str(model), "options": {"sizes": list(sizes)}}
            self.versions: dict[str, str] = self._worker.ask(opening)["versions"]
        except BaseException:
            self._worker.close()
            raise

    def draw(self, pictures: Sequence[Asked], clients: int) -> Round:
        """In turn. A client asks for its next picture as it has one, so the wait is for the others' and its own."""
        worked, begin = self._worker.processor_seconds, perf_counter()
        ends = [begin] * clients
        for asked in pictures:
            self._worker.ask(
                {
                    "do": "draw",
                    "prompts": [asked.prompt],
                    "seeds": [asked.seed],
                    "steps": asked.num_inference_steps,
                    "guidance": asked.guidance_scale,
                    "width": asked.width,
                    "height": asked.height,
                    "output": None,
                }
            )
            ends.append(perf_counter())
        return Round(
            clients=clients,
            seconds=ends[-1] - begin,
            latencies=tuple(end - asked for asked, end in zip(ends, ends[clients:], strict=False)),
            processor_seconds=self._worker.processor_seconds - worked,
        )

    def close(self) -> None:
        """Ends its process."""
        self._worker.close()
