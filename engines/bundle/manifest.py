"""``bundle.json`` and ``engine.json`` as frozen models: unknown keys and newer schemas are refused."""

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError, model_validator

from latentrt.engines.bundle.conditioning import ConditioningRecord
from latentrt.engines.bundle.kinds import UNET, VAE_DECODER, VAE_ENCODER, ComponentKind
from latentrt.engines.bundle.latent_space import LatentSpace
from latentrt.engines.bundle.parity import Parity
from latentrt.engines.bundle.record import Record
from latentrt.engines.bundle.schedule_config import ScheduleConfig
from latentrt.engines.bundle.seamless import Seamless
from latentrt.engines.errors import BundleError, LatentrtError
from latentrt.engines.graphs.quantization.recipe import Recipe
from latentrt.engines.precision import Backend, Precision
from latentrt.engines.shapes import Profile, Shapes, profile_from_text
from latentrt.engines.spec import BATCH, Array, EngineSpec, TensorSpec

SCHEMA = 2
BUNDLE_FILE = "bundle.json"
ENGINE_FILE = "engine.json"
CONTEXT_LENGTH = "context_length"


def _profile(value: object) -> object:
    return profile_from_text(value) if isinstance(value, str) else value


ProfileText = Annotated[Profile, BeforeValidator(_profile), PlainSerializer(str)]


class FileRecord(Record):
    """Size in bytes and SHA-256 of one file."""

    size: int
    sha256: str


class TensorRecord(Record):
    """One tensor of a component; dimensions are numbers or the names in ``dimensions``."""

    shape: tuple[Annotated[int, Field(gt=0)] | str, ...]
    dtype: Literal["float32", "int64"]


class ParityRecord(Record):
    """The worst figures of a component against torch, over all of its probes."""

    relative_error: float
    psnr: float
    cases: int

    @property
    def parity(self) -> Parity:
        """The two figures."""
        return Parity(relative_error=self.relative_error, psnr=self.psnr)


class QuantizedNodeRecord(Record):
    """One node that could be computed in eight bits.

    ``score`` is by how much its rounding alone moves the final latents (root mean square, to first order), or of a
    decoder's the picture in [−1, 1]; ``error``
    the share of energy that the results of its input's nodes lose, ``alpha`` the strength of SmoothQuant.
    """

    int8: bool
    score: float
    error: float
    alpha: float | None


class QuantizationRecord(Record):
    """How a component became int8, and how good its pictures are: PSNR in dB against the fp32 engine's.

    The U-Net's are drawn with all that is int8; the decoder's are decoded of the same latents, and its ``quality`` is
    higher than what was asked of pictures.

    ``nodes`` are by the path of their torch module. ``prompts_sha256`` tells prompts, steps and seed, ``source_sha256``
    the graph in fp32 with its weights.
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


class ComponentRecord(Record):
    """One ONNX graph of the bundle with its weights, tensors, probes and parity.

    ``islands`` says what stays in fp32 inside of an fp16 component: how many nodes, by the reason. ``named_weights`` is
    the file that tells where each of the checkpoint's parameters lies.
    """

    kind: ComponentKind
    onnx: str
    weights: str | None
    named_weights: str
    precision: Precision
    islands: dict[str, int] = Field(default_factory=dict)
    quantization: QuantizationRecord | None = None
    inputs: dict[str, TensorRecord]
    outputs: dict[str, TensorRecord]
    probes: str
    parity: ParityRecord
    batch_per_picture: Annotated[int, Field(gt=0)]
    parameters: int


class DecisionRecord(Record):
    """One thing that was worked out about a model or chosen by the user, and how."""

    value: str
    reason: str


class SourceRecord(Record):
    """Where the weights came from: a name, a revision if it has one, what was decided, a digest of every file read."""

    name: str
    revision: str | None
    decisions: dict[str, DecisionRecord]
    files: dict[str, FileRecord]


class PreviewRecord(Record):
    """A linear map from scaled latents to colours: rgb = latent · matrix + bias, in [0, 1].

    ``matrix`` is (channels, 3), ``bias`` (3,); ``psnr`` in dB is against pictures that it was not fitted to, averaged
    down to the latents' size.
    """

    matrix: tuple[tuple[float, float, float], ...]
    bias: tuple[float, float, float]
    psnr: float


class TokenizerRecord(Record):
    """A CLIP tokenizer's folder in the bundle and the number of tokens per prompt."""

    folder: str
    length: Annotated[int, Field(gt=2)]


class TokenEmbeddingsRecord(Record):
    """The vectors that a text encoder takes for its tokens: a safetensors file with one float32 tensor.

    They lie outside of the graph, so that a prompt may hold vectors that no vocabulary lists.
    """

    file: str
    tensor: str
    rows: Annotated[int, Field(gt=0)]
    width: Annotated[int, Field(gt=0)]


class DefaultsRecord(Record):
    """What a call uses where the caller says nothing."""

    sampler: str
    num_inference_steps: int
    guidance_scale: float
    strength: float


class Start(StrEnum):
    """What a model was made to start from: noise, or a picture or another model's latents."""

    NOISE = "noise"
    PICTURE = "picture"


class TraitsRecord(Record):
    """What sampling needs to know of a family.

    ``ays_table`` names the Align Your Steps table that holds. ``strength_picks_timesteps``: image-to-image takes all of
    its steps, from a part of the distilled timesteps (diffusers' LatentConsistencyModelImg2ImgPipeline).
    """

    starts_from: Start = Start.NOISE
    ays_table: Literal["sd1", "sdxl"] = "sd1"
    strength_picks_timesteps: bool = False


class BundleManifest(Record):
    """All of ``bundle.json``. The files it lists are portable; engines are cache and not among them.

    ``precision`` is what was asked for, but for the components in ``kept_fp32``; what each of them has become, its own
    record says.
    """

    schema_version: int
    latentrt: str
    exporter: dict[str, str]
    family: str
    source: SourceRecord
    precision: Precision
    kept_fp32: tuple[str, ...]
    components: dict[str, ComponentRecord]
    profiles: Annotated[tuple[ProfileText, ...], Field(min_length=1)]
    schedule: ScheduleConfig
    latents: LatentSpace
    preview: PreviewRecord
    seamless: Seamless
    conditioning: ConditioningRecord
    traits: TraitsRecord
    tokenizers: dict[str, TokenizerRecord]
    token_embeddings: dict[str, TokenEmbeddingsRecord]
    defaults: DefaultsRecord
    files: dict[str, FileRecord]

    @model_validator(mode="after")
    def _lists_what_it_uses(self) -> "BundleManifest":
        used = [
            name
            for part in self.components.values()
            for name in (part.onnx, part.weights, part.named_weights, part.probes)
            if name
        ]
        used += [table.file for table in self.token_embeddings.values()]
        missing = [name for name in used if name not in self.files]
        if missing:
            raise ValueError(f"files lacks {', '.join(missing)}")
        return self

    @property
    def unet_takes_mask(self) -> bool:
        """Whether the U-Net's input is noised latents, one channel of mask, and the masked picture's latents."""
        return self.components[UNET].inputs["sample"].shape[1] == 2 * self.latents.channels + 1

    @property
    def guidance_embedding(self) -> int:
        """The size of the embedded guidance scale that the U-Net takes (arXiv 2310.04378); 0 where it takes none."""
        tensor = self.components[UNET].inputs.get("timestep_cond")
        return 0 if tensor is None else int(tensor.shape[1])

    @property
    def needed(self) -> tuple[str, ...]:
        """The components that drawing needs."""
        encoders = (encoder.component for encoder in self.conditioning.text_encoders)
        return (*encoders, UNET, VAE_ENCODER, VAE_DECODER)

    def dimensions(self, shapes: Shapes) -> dict[str, int]:
        """The numbers behind the named dimensions."""
        profile = shapes.profile
        latent_height, latent_width = self.latents.size(profile)
        return {
            CONTEXT_LENGTH: self.prompt_length * shapes.chunks,
            "height": profile.height,
            "width": profile.width,
            "latent_height": latent_height,
            "latent_width": latent_width,
        }

    @property
    def prompt_length(self) -> int:
        """Tokens per chunk of a prompt, the same for every text encoder."""
        return self.tokenizers[self.conditioning.text_encoders[0].tokenizer].length

    @property
    def text_layers(self) -> int:
        """Of how many layers every text encoder gives the state."""
        encoders = (self.components[encoder.component] for encoder in self.conditioning.text_encoders)
        return min(int(encoder.outputs["hidden_states"].shape[1]) for encoder in encoders)

    def chunks(self, component: str, arrays: Mapping[str, Array]) -> int:
        """How many prompt chunks the arrays for a component hold; 1 where it takes no prompt."""
        for name, tensor in self.components[component].inputs.items():
            if CONTEXT_LENGTH in tensor.shape:
                return int(arrays[name].shape[tensor.shape.index(CONTEXT_LENGTH)] // self.prompt_length)
        return 1

    def spec(self, component: str, shapes: Shapes, batches: tuple[int, ...]) -> EngineSpec:
        """The component's tensors at these shapes."""
        record, sizes = self.components[component], self.dimensions(shapes)

        def tensors(records: dict[str, TensorRecord]) -> dict[str, TensorSpec]:
            return {
                name: TensorSpec(
                    shape=tuple(d if d == BATCH else sizes.get(str(d), d) for d in tensor.shape),
                    dtype=np.dtype(tensor.dtype),
                )
                for name, tensor in records.items()
            }

        return EngineSpec(inputs=tensors(record.inputs), outputs=tensors(record.outputs), batches=batches)


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
    those by kind that take both of their inputs dequantized from eight bits. ``kernels`` counts
    what the builder made of them by kind, and ``device_memory`` is the scratch memory of a run in bytes; both are
    known only where the engine could be opened.
    """

    shapes: tuple[ProfileShapesRecord, ...]
    layers: dict[str, dict[str, int]]
    quantized: dict[str, int] = Field(default_factory=dict)
    unoptimised: bool = False
    kernels: dict[str, int] | None = None
    device_memory: int | None = None


class EngineManifest(Record):
    """``engine.json``: what one compiled component is and where it can run.

    ``parity`` is None where the engine was built for a machine other than the one that built it: not measured.
    ``shapes`` are the profiles that alone it runs; empty where it takes every size.
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
    files: dict[str, FileRecord]


_Manifest = TypeVar("_Manifest", BundleManifest, EngineManifest)


def read_manifest(path: Path, kind: type[_Manifest]) -> _Manifest:
    """Reads and checks a manifest file.

    Raises:
        BundleError: the file is missing, cut short, not ours, or of a newer schema.
    """
    try:
        data: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise BundleError(
            f"got {str(path.parent)!r}, which has no readable {path.name}; expected a folder written by latentrt build"
        ) from error
    except ValueError as error:
        raise BundleError(f"{str(path)!r} is cut short or not JSON; build the bundle again") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if not isinstance(version, int):
        raise BundleError(f"{str(path)!r} was not written by latentrt (it has no schema_version); build the bundle")
    if version != SCHEMA:
        newer = version > SCHEMA
        raise BundleError(
            f"{str(path)!r} has schema {version}, this latentrt reads schema {SCHEMA}; "
            + ("update latentrt" if newer else "build the bundle again with this latentrt")
        )
    try:
        return kind.model_validate(data)
    except (ValidationError, LatentrtError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else str(error)
        raise BundleError(f"{str(path)!r} was altered or is damaged ({reason}); build the bundle again") from error


def write_manifest(path: Path, manifest: BundleManifest | EngineManifest) -> None:
    """Writes a manifest as readable JSON."""
    path.write_text(json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n", "utf-8")
