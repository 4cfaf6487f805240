"""``bundle.json`` as a frozen model."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from latentrt.engines.bundle.kinds import UNET, VAE_DECODER, VAE_ENCODER
from latentrt.engines.bundle.records.component import ComponentRecord, FileRecord, TensorRecord
from latentrt.engines.bundle.records.conditioning import ConditioningRecord
from latentrt.engines.bundle.records.latent_space import LatentSpace
from latentrt.engines.bundle.records.profile_text import ProfileText
from latentrt.engines.bundle.records.record import Record
from latentrt.engines.bundle.records.schedule_config import ScheduleConfig
from latentrt.engines.bundle.records.seamless import Seamless
from latentrt.engines.precision import Precision
from latentrt.engines.shapes import Shapes
from latentrt.engines.spec import BATCH, Array, EngineSpec, TensorSpec

BUNDLE_FILE = "bundle.json"
CONTEXT_LENGTH = "context_length"


class DecisionRecord(Record):
    """One thing that was worked out about a model or chosen by the user, and how."""

    value: str
    reason: str


class SourceRecord(Record):
    """Where the weights came from: a name, a revision if it has one, what was decided, a digest of every file read.

    ``unread`` lists tensors that the files hold and nothing reads, by part or by file, but for those known to be idle.
    """

    name: str
    revision: str | None
    decisions: dict[str, DecisionRecord]
    files: dict[str, FileRecord]
    unread: dict[str, tuple[str, ...]] = Field(default_factory=dict)


class LoraRecord(Record):
    """A LoRA's name, its file or folder with a SHA-256, and how much of it was added to U-Net and text encoders."""

    name: str
    file: str
    sha256: str
    weight: float
    text_weight: float

    def __str__(self) -> str:
        """The name and the weights: ``style 0.8``, or ``style 0.8/0.4`` where the text encoders have another one."""
        text = "" if self.text_weight == self.weight else f"/{self.text_weight:g}"
        return f"{self.name} {self.weight:g}{text}"


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
    """What a call uses where the caller says nothing.

    ``sampler_options`` are what the model's own scheduler wants of the sampler otherwise than it does by itself.
    """

    sampler: str
    sampler_options: dict[str, bool | int | float | str | tuple[int, ...]] = Field(default_factory=dict)
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
    record says. The sides of pictures must be multiples of ``pixel_multiple``.

    ``loras`` were fused into the weights; ``fused_from`` is a digest of the files of the bundle that this was done to,
    None where it was done to the model.
    """

    schema_version: int
    latentrt: str
    exporter: dict[str, str]
    family: str
    source: SourceRecord
    loras: tuple[LoraRecord, ...] = ()
    fused_from: str | None = None
    precision: Precision
    kept_fp32: tuple[str, ...]
    components: dict[str, ComponentRecord]
    profiles: Annotated[tuple[ProfileText, ...], Field(min_length=1)]
    pixel_multiple: Annotated[int, Field(gt=0)]
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
            for name in (part.onnx, part.weights, part.named_weights, part.remainders, part.probes)
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
