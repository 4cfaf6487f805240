"""The result of a benchmark as one JSON document: frozen, strict about keys, versioned.

Seconds, bytes and FLOP unless a name says otherwise. Every sample is kept; medians and percentiles are computed from
them. What a contender or a machine cannot tell is null.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from latentrt.benchmarks.peers.registry import OURS
from latentrt.benchmarks.report.figures import Count as Count
from latentrt.benchmarks.report.figures import Figure as Figure
from latentrt.benchmarks.report.figures import Positive as Positive
from latentrt.benchmarks.report.figures import Strict as Strict
from latentrt.benchmarks.report.figures import Time as Time
from latentrt.benchmarks.report.gpu.schema import GpuResult
from latentrt.engines.documents import read_document
from latentrt.engines.errors import RequestError

SCHEMA = 1


class Latency(Strict):
    """One picture in a warm process, by stage.

    ``step`` and ``unet_call`` have every one of every run but each run's first; ``rest`` is what no stage accounts
    for; ``host_overhead`` is the same steps' time outside the U-Net.
    """

    picture: Time
    encode: Time | None = None
    denoise: Time | None = None
    step: Time | None = None
    unet_call: Time | None = None
    decode: Time | None = None
    rest: Figure | None = None
    host_overhead: Figure | None = None


class Point(Strict):
    """A time at one value of what was varied."""

    value: Positive
    label: str
    seconds: Time


class Scaling(Strict):
    """Times along one axis, and the exponent b of the least-squares fit of a · value^b to their medians."""

    points: Annotated[tuple[Point, ...], Field(min_length=1)]
    exponent: float | None


class PictureQuality(Strict):
    """One prompt against the reference. ``psnr`` in dB is null where the pictures are equal to the last bit.

    ``flip`` is the mean of the picture's FLIP, 0 where nobody sees a difference and 1 at worst; null in results of
    before it was measured.
    Pictures are data URIs, kept for the first prompts and the worst; ``difference`` is grey where there is none, and
    eight times as strong as it is.
    """

    prompt: str
    seed: int
    latent_relative_error: float | None
    psnr: float | None
    ssim: float
    flip: Annotated[float, Field(ge=0, le=1)] | None = None
    clip_score: float | None = None
    reference: str | None = None
    picture: str | None = None
    difference: str | None = None


class OwnEmoji(Strict):
    """The share of pictures nearest to their own emoji among all of them."""

    rate: Annotated[float, Field(ge=0, le=1)]
    pictures: Count
    references: Count
    guidance_scale: float


class Quality(Strict):
    """Against the reference's pictures of the same prompts, seeds and steps."""

    pictures: Annotated[tuple[PictureQuality, ...], Field(min_length=1)]

    @property
    def worst(self) -> PictureQuality:
        """The picture farthest from its reference."""
        return min(self.pictures, key=lambda row: (row.psnr is None, row.psnr or 0.0, row.ssim))

    @property
    def worst_flip(self) -> float | None:
        """The largest FLIP of all pictures; None where it was not measured."""
        return max((row.flip for row in self.pictures if row.flip is not None), default=None)


class Arithmetic(Strict):
    """What a contender's U-Net computes in, as its runtime said once it had drawn, and not what was asked of it.

    ``products`` counts convolutions and matrix products by type, ``source`` is what told them.
    """

    products: Annotated[dict[str, Count], Field(min_length=1)]
    source: str


class Layers(Strict):
    """How many layers something was done to, of those that it can be done to."""

    done: Annotated[int, Field(ge=0)]
    of: Count


class JudgedPictures(Strict):
    """What a build drew to judge its bundle by: PSNR in dB against the bundle that it was made of."""

    pictures: Count
    steps: Count
    psnr_mean: float
    psnr_worst: float


class Weights(Strict):
    """What a bundle of ours says of its U-Net's weights.

    ``pruned`` layers have the pattern 2:4, ``rounded`` ones eight bits. ``averaged`` tells whether they are averages
    over the training, null where the model has one set of weights alone. ``bytes`` are those of graph and weights,
    ``zipped_bytes`` what a zip makes of them, null where nobody asked.
    """

    pruned: Layers | None = None
    rounded: Layers | None = None
    averaged: bool | None = None
    bytes: Count
    zipped_bytes: Count | None = None
    judged: JudgedPictures | None = None

    @property
    def changed(self) -> bool:
        """Whether they are not simply the model's."""
        return self.pruned is not None or self.rounded is not None or self.averaged is not None


class Contender(Strict):
    """One row: who it is, and what was measured; or why it was not.

    ``model_bytes`` is what it draws from on disk, ``packages_bytes`` the installed packages of which it loads
    something. ``operators`` are the seconds of one U-Net call by operator, from a profiler's run apart from the rounds,
    and those of one half where both run at once. ``failures`` says which phases it did not complete, and why.
    ``sampler`` is null where it drew with that of the settings; ``arithmetic`` where it was not told.
    """

    name: str
    adapter: str
    model: str
    precision: str
    sampler: str | None = None
    arithmetic: Arithmetic | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    command: str = ""
    absent: str | None = None
    failures: dict[str, str] = Field(default_factory=dict)
    latency: Latency | None = None
    cold_start: Time | None = None
    open: Time | None = None
    peak_bytes: Count | None = None
    model_bytes: Count | None = None
    packages_bytes: Count | None = None
    operators: dict[str, Annotated[float, Field(ge=0)]] | None = None
    throughput: Scaling | None = None
    by_pixels: Scaling | None = None
    by_steps: Scaling | None = None
    quality: Quality | None = None
    own_emoji: OwnEmoji | None = None
    weights: Weights | None = None

    @property
    def ours(self) -> bool:
        """Whether it is latentrt."""
        return self.adapter == OURS

    @property
    def computes(self) -> str | None:
        """The types of its products, that of most of them first; None where it was not told."""
        return None if self.arithmetic is None else ", ".join(self.arithmetic.products)


class Settings(Strict):
    """What was drawn, and how often. ``threads`` is null where everyone chose for itself."""

    prompts: Annotated[tuple[str, ...], Field(min_length=1)]
    seed: int
    steps: Count
    guidance_scale: float
    sampler: str
    width: Count
    height: Count
    runs: Count
    cold_runs: Annotated[int, Field(ge=0)]
    resident: bool
    threads: Count | None = None


class Machine(Strict):
    """Where it ran. ``background`` is the share of all processors that other programs took during the runs;
    ``idle_workers`` the share that the waiting contenders took."""

    processor: str
    cores: Count
    memory_bytes: Count
    system: str
    python: str
    features: str
    background: Figure | None = None
    idle_workers: Figure | None = None


class Peak(Strict):
    """FLOP per second of a large float32 matrix product, by library; measured between the contenders' runs."""

    size: Count
    by_library: Annotated[dict[str, Time], Field(min_length=1)]

    @property
    def best(self) -> float:
        """The fastest product of all."""
        return max(max(figure.samples) for figure in self.by_library.values())


class Work(Strict):
    """FLOP (2 · multiply-adds) of one call of each component at the size measured, for one picture.

    ``unet`` counts both halves of a guided step, and the one of a step without guidance.
    """

    text_encoder: Positive
    unet: Positive
    vae_decoder: Positive


class BenchResult(Strict):
    """All of a benchmark. ``gpu`` is what was measured on a machine with a GPU and merged into it."""

    schema_version: int
    latentrt: str
    created: str
    command: str
    model: str
    family: str
    parameters: Count
    note: str
    settings: Settings
    machine: Machine
    peak: Peak | None
    work: Work | None
    reference: str | None
    contenders: Annotated[tuple[Contender, ...], Field(min_length=1)]
    seconds: Annotated[float, Field(ge=0)]
    gpu: GpuResult | None = None

    @property
    def measured(self) -> tuple[Contender, ...]:
        """The contenders that drew."""
        return tuple(row for row in self.contenders if row.latency is not None)

    def share_of_peak(self, row: Contender) -> float | None:
        """The part of the machine's peak that a contender's U-Net step reaches; None where that is unknown."""
        if self.peak is None or self.work is None or row.latency is None or row.latency.step is None:
            return None
        return self.work.unet / row.latency.step.median / self.peak.best


def read_result(path: Path) -> BenchResult:
    """Reads and validates a result.

    Raises:
        RequestError: it is missing, damaged, no result, or of a newer latentrt.
    """
    remedy = "name a file that latentrt bench --json wrote, or measure again"
    return read_document(path, BenchResult, schema=SCHEMA, error=RequestError, remedy=remedy)
