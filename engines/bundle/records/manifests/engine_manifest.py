"""``engine.json``: what one compiled component is."""

from pydantic import Field

from latentrt.engines.bundle.records.component import FileRecord, ParityRecord
from latentrt.engines.bundle.records.profile_text import ProfileText
from latentrt.engines.bundle.records.record import Record
from latentrt.engines.precision import Backend, Precision

ENGINE_FILE = "engine.json"
LEFT_BY_RUNS = ".cache"
"""How files end that runs leave in an engine's folder. They are no part of it: it is whole without them."""
WEIGHTS, CHANGES, ADDED, IMAGE_PROMPTS, LOOP = "weights", "changes", "added", "image_prompts", "loop"
"""Flags of engines beside the backend's own.

They are what weights are to it, the digest of what was changed about them, the inputs that it takes beside those that
the component was exported with, the number of image prompts with that of their tokens, and where the loop is that it
makes steps of.
"""
SPARSITY = "sparsity"
"""The flag of engines of a pruned component: its pattern."""


class ShapeRecord(Record):
    """One tensor of a compiled engine: numbers alone."""

    shape: tuple[int, ...]
    dtype: str


class ProfileShapesRecord(Record):
    """The tensors of an engine at one of the shapes it was compiled for, and the profiles that run there."""

    profiles: tuple[ProfileText, ...]
    inputs: dict[str, ShapeRecord]
    outputs: dict[str, ShapeRecord]


class ContentsRecord(Record):
    """What was seen of an engine as it was built.

    ``shapes`` are empty where it takes every size. ``unoptimised``: too little memory was free to optimise the graph.
    ``layers`` counts the layers of the typed network by kind and by the dtype of their first output, ``quantized``
    those by kind that take both of their inputs dequantized from eight bits, ``sparse`` those of a pruned component's
    whose weights are 2:4. ``kernels`` counts
    what the builder made of them by kind, and ``device_memory`` is the scratch memory of a run in bytes; both are
    known only where the engine could be opened. ``weight_inputs`` are the initializers of the ONNX that the engine
    takes as inputs; each was compared with the bundle's weight of that name, number by number.
    """

    shapes: tuple[ProfileShapesRecord, ...]
    layers: dict[str, dict[str, int]]
    quantized: dict[str, int] = Field(default_factory=dict)
    sparse: dict[str, int] = Field(default_factory=dict)
    unoptimised: bool = False
    kernels: dict[str, int] | None = None
    device_memory: int | None = None
    weight_inputs: tuple[str, ...] = ()


class EngineManifest(Record):
    """``engine.json``: what one compiled component is and where it can run.

    ``parity`` is None where the engine was built for a machine other than the one that built it: not measured.
    ``shapes`` are the profiles that alone it runs; empty where it takes every size. ``seconds`` is how long compiling
    and measuring took.
    """

    schema_version: int
    key: str
    component: str
    backend: Backend
    backend_version: str
    precision: Precision
    onnx_sha256: str
    machine: str
    flags: dict[str, str]
    shapes: tuple[str, ...]
    workspace_mb: int | None
    contents: ContentsRecord | None
    parity: ParityRecord | None
    seconds: float | None = None
    files: dict[str, FileRecord]

    @property
    def variant(self) -> dict[str, str]:
        """The flags that tell it from the component's plain engine."""
        return {name: self.flags[name] for name in (WEIGHTS, CHANGES, ADDED, IMAGE_PROMPTS) if name in self.flags}
