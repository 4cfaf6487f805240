"""The result of ``make gpu`` as one JSON document: rows by the stage that measured them, and what became of each stage.

Seconds, bytes and FLOP unless a name says otherwise. What could not be told is null.
"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from latentrt.benchmarks.report.figures import Count, Figure, Positive, Strict, Time
from latentrt.engines.bundle.checks.parity import EXACT
from latentrt.engines.documents import read_document
from latentrt.engines.errors import RequestError

SCHEMA = 1
Counted = Annotated[int, Field(ge=0)]
Loop = Literal["host", "device"]
"""Where the arithmetic between two calls of the U-Net runs."""


WORTH = 1.02
"""How much faster a U-Net's call has to be for layers to be rounded to eight bits."""


class State(StrEnum):
    """What became of a stage. One that was cut off, failed or lacked what others make is tried again."""

    DONE = "done"
    FAILED = "failed"
    CUT_OFF = "cut off"
    LACKING = "lacking"


class StageRecord(Strict):
    """A stage that was tried: seconds, and why it is not done."""

    name: str
    state: State
    seconds: Annotated[float, Field(ge=0)]
    reason: str | None = None


class _Row(Strict):
    """What a stage found out."""

    stage: str


class BackendRow(_Row):
    """Whether a backend works here. ``reason`` says why not."""

    kind: Literal["backend"] = "backend"
    backend: str
    version: str | None
    works: bool
    reason: str | None = None


class PeakRow(_Row):
    """FLOP per second of a large matrix product in a type, and bytes per second of a copy, by torch."""

    kind: Literal["peak"] = "peak"
    what: str
    per_second: Time


class GpuTestRow(_Row):
    """A test that needs a GPU, and what became of it."""

    kind: Literal["test"] = "test"
    name: str
    outcome: Literal["passed", "failed", "skipped"]
    reason: str | None = None


class ParityRow(_Row):
    """How far a component's runs are from the recorded ones. ``component`` is "picture", or text that begins so, for
    pictures: beside a CPU's, or beside whose the text says.

    ``psnr`` in dB is null where nothing differs.
    """

    kind: Literal["parity"] = "parity"
    model: str
    precision: str
    backend: str
    component: str
    relative_error: Annotated[float, Field(ge=0)] | None
    psnr: float | None


class MadeRow(_Row):
    """Something that took a while to make: a checkpoint, a bundle, engines."""

    kind: Literal["made"] = "made"
    model: str
    what: str
    seconds: Positive
    bytes: Counted


class Contender(Strict):
    """Who draws. ``backend`` is null for peers; ``loop`` says where the steps' arithmetic runs."""

    name: str
    precision: str
    backend: str | None = None
    loop: Loop = "host"


class Drawn(Strict):
    """What is drawn; a video has ``frames``. ``sampler`` is null for the model's own."""

    width: Count
    height: Count
    frames: Count = 1
    steps: Count
    batch: Count
    guidance: float | None
    sampler: str | None = None


class SpeedRow(_Row):
    """A warm call. ``step`` and ``unet_call`` are means over a call, one a run.

    ``unet_flop`` is the work of one step's U-Net; ``peak`` the FLOP per second of a matrix product in the contender's
    precision, measured in the same run. ``gpu_bytes`` are the device's memory in use beyond what was before.
    """

    kind: Literal["speed"] = "speed"
    model: str
    contender: Contender
    drawn: Drawn
    call: Time
    step: Time | None = None
    unet_call: Time | None = None
    decode: Time | None = None
    unet_flop: Positive | None = None
    peak: Positive | None = None
    gpu_bytes: Counted | None = None

    @property
    def per_second(self) -> float:
        """Pictures a second."""
        return self.drawn.batch / self.call.median

    @property
    def host_share(self) -> float | None:
        """The part of a step that passes outside the U-Net's call."""
        if self.step is None or self.unet_call is None:
            return None
        return 1.0 - self.unet_call.median / self.step.median

    @property
    def share_of_peak(self) -> float | None:
        """The part of the peak that a step's U-Net reaches."""
        if self.unet_flop is None or self.peak is None or self.step is None:
            return None
        return self.unet_flop / self.step.median / self.peak


class LanesRow(_Row):
    """So many clients of one pipeline, each asking for a picture as soon as it has its own; pictures a second."""

    kind: Literal["lanes"] = "lanes"
    model: str
    contender: Contender
    drawn: Drawn
    clients: Count
    per_second: Time


class PairsRow(_Row):
    """What rounding some layers of a U-Net to eight bits is worth: seconds of its call with them in floating point,
    over those with all in eight bits, one ratio a pair of calls. They stay in eight bits where that is 1.02.
    """

    kind: Literal["pairs"] = "pairs"
    model: str
    precision: str
    backend: str
    layers: str
    count: Count
    ratio: Time

    @property
    def worth(self) -> bool:
        """Whether they should stay in eight bits."""
        return self.ratio.median >= WORTH


class LoraRow(_Row):
    """What a set of LoRAs costs: ``first`` is what a call with it takes longer than one without when it is new,
    ``again`` when it was used before; ``plain`` and ``adapted`` are steps without and with it.
    """

    kind: Literal["lora"] = "lora"
    model: str
    contender: Contender
    first: float
    again: float
    plain: Time
    adapted: Time


Row = BackendRow | PeakRow | GpuTestRow | ParityRow | MadeRow | SpeedRow | LanesRow | LoraRow | PairsRow


class GpuMachine(Strict):
    """Where it ran. ``gpu`` is the model as it is sold, null where there is none: a rehearsal."""

    gpu: str | None
    gpu_bytes: Counted | None
    driver: str | None
    cores: Count
    system: str
    packages: Mapping[str, str]


class GpuResult(Strict):
    """All that was found out so far; ``made_of`` is a digest of what the rows depend on."""

    schema_version: int
    latentrt: str
    created: str
    scale: str
    made_of: str
    machine: GpuMachine
    stages: tuple[StageRecord, ...] = ()
    rows: tuple[Annotated[Row, Field(discriminator="kind")], ...] = ()

    def done(self, stage: str) -> bool:
        """Whether nothing is left to do in a stage."""
        return any(record.name == stage and record.state is State.DONE for record in self.stages)

    def of_kind(self, kind: type[Row]) -> tuple[Row, ...]:
        """The rows of one kind."""
        return tuple(row for row in self.rows if isinstance(row, kind))

    def with_row(self, row: Row) -> "GpuResult":
        """The result with one row more."""
        return self.model_copy(update={"rows": (*self.rows, row)})

    def begun(self, stage: str) -> "GpuResult":
        """The result without what an earlier try of a stage left."""
        return self.model_copy(
            update={
                "stages": tuple(record for record in self.stages if record.name != stage),
                "rows": tuple(row for row in self.rows if row.stage != stage),
            }
        )

    def ended(self, record: StageRecord) -> "GpuResult":
        """The result with what became of a stage."""
        return self.model_copy(update={"stages": (*self.stages, record)})


def read_gpu_result(path: Path) -> GpuResult:
    """Reads and validates a result.

    Raises:
        RequestError: it is missing, damaged, no result, or of a newer latentrt.
    """
    remedy = "name a file that make gpu wrote, or measure again"
    return read_document(path, GpuResult, schema=SCHEMA, error=RequestError, remedy=remedy)


def decibels(psnr: float) -> float | None:
    """A PSNR; None where nothing differs."""
    return psnr if psnr < EXACT.psnr else None


def figure(samples: list[float]) -> Figure | None:
    """The figure of some samples; None of none."""
    return Figure.of(samples) if samples else None
