"""What results are made of: strict records, and measured quantities with all of their samples."""

from collections.abc import Sequence
from statistics import median, quantiles
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """Base of all parts."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _percentile_90(samples: Sequence[float]) -> float:
    """The 90th percentile, interpolated between samples; of few samples it lies near the largest."""
    return quantiles(samples, n=10, method="inclusive")[-1] if len(samples) > 1 else samples[0]


class Figure(Strict):
    """One measured quantity: all samples in the order in which they were taken, their median and 90th percentile."""

    samples: Annotated[tuple[float, ...], Field(min_length=1)]
    median: float
    p90: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Figure":
        """The figure of some samples."""
        return cls(samples=tuple(samples), median=median(samples), p90=_percentile_90(samples))

    @model_validator(mode="after")
    def _agrees_with_its_samples(self) -> "Figure":
        for name, stated, computed in (
            ("median", self.median, median(self.samples)),
            ("p90", self.p90, _percentile_90(self.samples)),
        ):
            if abs(stated - computed) > 1e-9 * max(abs(computed), 1e-12):
                raise ValueError(f"{name} is {stated}, its samples say {computed}")
        return self


def _positive(figure: Figure) -> Figure:
    if min(figure.samples) <= 0:
        raise ValueError("a sample is not above 0")
    return figure


Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
Time = Annotated[Figure, AfterValidator(_positive)]
"""A figure whose samples are all above 0."""
