"""The result of a load as one JSON document: every sample is kept, and all that pages say is computed from them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated

from pydantic import Field

from latentrt.benchmarks.report.schema import Count, Machine, Positive, Strict
from latentrt.engines.documents import read_document
from latentrt.engines.errors import RequestError

SCHEMA = 1


class Round(Strict):
    """So many clients asked for some pictures: seconds in all, and of each from the request to the picture.

    ``refusals`` counts the answers 429 that were asked again, ``processor_seconds`` are those of the server's process.
    """

    clients: Count
    seconds: Positive
    latencies: Annotated[tuple[float, ...], Field(min_length=1)]
    processor_seconds: Annotated[float, Field(ge=0)]
    refusals: Annotated[int, Field(ge=0)] = 0

    @property
    def rate(self) -> float:
        """Pictures a second."""
        return len(self.latencies) / self.seconds


class Server(Strict):
    """One contender and its rounds; or why it was not measured. Rounds of one number were asked for the same."""

    name: str
    versions: Mapping[str, str] = Field(default_factory=dict)
    absent: str | None = None
    rounds: tuple[Round, ...] = ()

    def at(self, clients: int) -> tuple[Round, ...]:
        """The rounds with so many clients."""
        return tuple(one for one in self.rounds if one.clients == clients)


class Comparison(Strict):
    """Contenders that were asked for the same pictures in turn, the one that shares model calls first."""

    title: str
    mix: str
    servers: Annotated[tuple[Server, ...], Field(min_length=1)]

    @property
    def clients(self) -> tuple[int, ...]:
        """The numbers of clients, in their order."""
        return tuple(dict.fromkeys(one.clients for one in self.servers[0].rounds))

    @property
    def measured(self) -> tuple[Server, ...]:
        """Those with rounds."""
        return tuple(server for server in self.servers if server.rounds)

    def ratios(self, server: Server, clients: int) -> tuple[float, ...]:
        """How many times the pictures a second of a server the first one has, round by round."""
        ours, theirs = self.servers[0].at(clients), server.at(clients)
        return tuple(one.rate / other.rate for one, other in zip(ours, theirs, strict=True))


class Pictures(Strict):
    """What was delivered, beside the pictures drawn alone. ``wrong`` has a line for each that is lost or another.

    ``equal`` are equal to the last bit, ``close`` within rounding; ``worst_psnr`` is that of all that are not equal.
    """

    asked: Annotated[int, Field(ge=0)]
    equal: Annotated[int, Field(ge=0)]
    close: Annotated[int, Field(ge=0)]
    worst_psnr: float | None
    wrong: tuple[str, ...]


class Memory(Strict):
    """The resident size of a server over a load."""

    seconds: Annotated[tuple[float, ...], Field(min_length=2)]
    bytes: Annotated[tuple[int, ...], Field(min_length=2)]

    @property
    def halves(self) -> tuple[float, float]:
        """The median of the third quarter and of the last: flat where they are alike."""
        quarter = len(self.bytes) // 4
        return median(self.bytes[2 * quarter : 3 * quarter or None]), median(self.bytes[3 * quarter :])


class Overhead(Strict):
    """Seconds of one picture by its way to the caller, taken in turn; the first is a call in the same process."""

    steps: Count
    seconds: Annotated[dict[str, tuple[float, ...]], Field(min_length=2)]

    @property
    def over_the_call(self) -> dict[str, float]:
        """What each way costs over the call: the median of the differences, round by round."""
        first, *others = self.seconds
        call = self.seconds[first]
        return {
            name: median(one - other for one, other in zip(self.seconds[name], call, strict=True)) for name in others
        }


class ServingResult(Strict):
    """All of a load."""

    schema_version: int
    latentrt: str
    created: str
    command: str
    model: str
    seconds: Positive
    machine: Machine
    comparisons: Annotated[tuple[Comparison, ...], Field(min_length=1)]
    pictures: Pictures
    memory: Memory
    overhead: Overhead | None = None


def percentile(samples: Sequence[float], share: float) -> float:
    """The value below which a share of the samples lies, interpolated."""
    if len(samples) < 2:
        return samples[0]
    cuts = quantiles(samples, n=100, method="inclusive")
    return cuts[min(max(round(100 * share), 1), 99) - 1]


def read_serving_result(path: Path) -> ServingResult:
    """Reads and validates a result.

    Raises:
        RequestError: it is missing, damaged, no result, or of a newer latentrt.
    """
    remedy = "name a file that python -m latentrt.benchmarks.serving load wrote, or measure again"
    return read_document(path, ServingResult, schema=SCHEMA, error=RequestError, remedy=remedy)
