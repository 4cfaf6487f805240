"""What chaos led to, as one JSON document."""

from typing import Annotated

from pydantic import Field

from latentrt.benchmarks.report.schema import Strict

_Number = Annotated[int, Field(ge=0)]


class Part(Strict):
    """One sort of chaos: what was done and what came of it, by kind, and whatever was not as it should be."""

    title: str
    counts: dict[str, _Number]
    seconds: Annotated[float, Field(ge=0)]
    faults: tuple[str, ...]

    @property
    def line(self) -> str:
        """For people."""
        counts = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        verdict = f"{len(self.faults)} faults" if self.faults else "no fault"
        return f"{self.title}: {counts}; {verdict}"


class ChaosResult(Strict):
    """All of it."""

    latentrt: str
    created: str
    parts: Annotated[tuple[Part, ...], Field(min_length=1)]

    @property
    def faults(self) -> tuple[str, ...]:
        """Of all parts."""
        return tuple(fault for part in self.parts for fault in part.faults)
