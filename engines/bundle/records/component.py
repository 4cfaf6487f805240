"""What a bundle says of one component: its files, tensors, probes, parity and quantization."""

from typing import Annotated, Literal

from pydantic import AliasChoices, Field

from latentrt.engines.bundle.checks.parity import Parity, Reference
from latentrt.engines.bundle.kinds import ComponentKind
from latentrt.engines.bundle.records.recipe import Recipe
from latentrt.engines.bundle.records.record import Record
from latentrt.engines.bundle.records.sparsity import SparsityRecord
from latentrt.engines.precision import Backend, Precision


class FileRecord(Record):
    """Size in bytes and SHA-256 of one file."""

    size: int
    sha256: str


class TensorRecord(Record):
    """One tensor of a component; dimensions are numbers or the names in ``dimensions``.

    ``neutral`` is the number that an input is full of where a call leaves it out; None: it may not be left out.
    """

    shape: tuple[Annotated[int, Field(gt=0)] | str, ...]
    dtype: Literal["float32", "int64"]
    neutral: float | None = None


class ParityRecord(Record):
    """The worst figures of a component against its reference, over all of its probes."""

    relative_error: float
    psnr: float
    cases: int

    @property
    def parity(self) -> Parity:
        """The two figures."""
        return Parity(relative_error=self.relative_error, psnr=self.psnr)


class QuantizedNodeRecord(Record):
    """One node that could be computed in eight bits, and whether it is: ``rounded``.

    ``score`` is by how much its rounding alone moves the final latents (root mean square, to first order), or of a
    decoder's the picture in [−1, 1]; ``error``
    the share of energy that the results of its input's nodes lose, ``alpha`` the strength of SmoothQuant.
    """

    rounded: bool = Field(validation_alias=AliasChoices("rounded", "int8"))  # its name while all of them were int8
    score: float
    error: float
    alpha: float | None


class FrontierPointRecord(Record):
    """What a component is with some of its nodes in floating point: how fast, and how near to fp32.

    ``floating`` counts the nodes. ``step`` is the time of a call with guidance, as the fp32 engine's multiple: the
    median of pairs of calls on the machine that built it, one of each. Half of the pairs differ by at most ``spread``
    from it. Both are None where a machine built it that does not compute so: for GPUs. The figures of pictures, in dB,
    are None where a slower one was not drawn with.
    """

    floating: int
    step: float | None
    spread: float | None
    psnr_mean: float | None
    psnr_worst: float | None


class AttentionRecord(Record):
    """What rounding attention, too, does to the pictures: PSNR in dB with it, and whether it stayed: ``rounded``."""

    attentions: int
    rounded: bool
    psnr_mean: float
    psnr_worst: float


class QuantizationRecord(Record):
    """How a component got eight bits, and how good its pictures are: PSNR in dB against the fp32 engine's.

    The U-Net's are drawn with all that is in eight bits; the decoder's are decoded of the same latents, and its
    ``quality`` is higher than what was asked of pictures.

    ``nodes`` are by the path of their torch module. ``prompts_sha256`` tells prompts, steps and seed, ``source_sha256``
    the graph in fp32 with its weights. ``backend`` drew the pictures. ``frontier`` tells what else was tried, by the
    number of nodes in floating point. ``attention`` is None where it was not tried to round it.
    """

    recipe: Recipe
    tool: str
    quality: float
    source_sha256: str
    prompts_sha256: str
    prompts: int
    steps: int
    pictures: int
    psnr_mean: float
    psnr_worst: float
    worst_prompt: str
    nodes: dict[str, QuantizedNodeRecord]
    backend: Backend = Backend.ORT_CPU
    frontier: tuple[FrontierPointRecord, ...] = ()
    attention: AttentionRecord | None = None


class ComponentRecord(Record):
    """One ONNX graph of the bundle with its weights, tensors, probes and parity.

    ``islands`` says what stays in fp32 inside of an fp16 component: how many nodes, by the reason. ``named_weights`` is
    the file that tells where each of the checkpoint's parameters lies; ``remainders`` the one with what the weights of
    a graph in eight bits lost by rounding. ``reference`` is what ran the probes, and what ``parity`` is against.
    ``largest_chunk``: the most frames of a video, decoded together, that an engine of fixed shapes takes at once.
    """

    kind: ComponentKind
    onnx: str
    weights: str | None
    named_weights: str
    remainders: str | None = None
    precision: Precision
    islands: dict[str, int] = Field(default_factory=dict)
    quantization: QuantizationRecord | None = None
    sparsity: SparsityRecord | None = None
    inputs: dict[str, TensorRecord]
    outputs: dict[str, TensorRecord]
    probes: str
    reference: Reference = Reference.TORCH
    parity: ParityRecord
    batch_per_picture: Annotated[int, Field(gt=0)]
    largest_chunk: Annotated[int, Field(gt=0)] | None = None
    parameters: int
