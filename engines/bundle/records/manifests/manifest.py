"""``bundle.json`` as a frozen model."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, model_validator

from latentrt.engines.bundle.kinds import UNET, VAE_DECODER, VAE_ENCODER
from latentrt.engines.bundle.records.conditioning import ConditioningRecord, Task
from latentrt.engines.bundle.records.manifests.latents_manifest import LatentsManifest
from latentrt.engines.bundle.records.pictures import PicturesRecord
from latentrt.engines.bundle.records.record import Record
from latentrt.engines.bundle.records.schedule_config import ScheduleConfig
from latentrt.engines.bundle.records.seamless import Seamless


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


class BundleManifest(LatentsManifest):
    """All of a model's ``bundle.json``.

    ``loras`` were fused into the weights; ``fused_from`` is a digest of the files of the bundle that this was done to,
    None where it was done to the model. ``pictures`` are the figures of a bundle in bf16, None where LoRAs were fused
    into one.
    """

    loras: tuple[LoraRecord, ...] = ()
    fused_from: str | None = None
    pictures: PicturesRecord | None = None
    schedule: ScheduleConfig
    preview: PreviewRecord
    seamless: Seamless
    conditioning: ConditioningRecord
    traits: TraitsRecord
    tokenizers: dict[str, TokenizerRecord]
    token_embeddings: dict[str, TokenEmbeddingsRecord]
    defaults: DefaultsRecord

    @model_validator(mode="after")
    def _has_frames_where_it_draws_videos(self) -> "BundleManifest":
        videos = self.conditioning.task is Task.VIDEOS
        odd = [str(profile) for profile in self.profiles if (profile.frames > 1) is not videos]
        if odd:
            raise ValueError(f"profiles {', '.join(odd)} of a model that draws {self.conditioning.task}")
        return self

    @property
    def _used(self) -> list[str]:
        return [*super()._used, *(table.file for table in self.token_embeddings.values())]

    @property
    def unet_takes_mask(self) -> bool:
        """Whether the U-Net's input is noised latents, one channel of mask, and the masked picture's latents."""
        return self.components[UNET].inputs["sample"].shape[-3] == 2 * self.latents.channels + 1

    @property
    def guidance_embedding(self) -> int:
        """The size of the embedded guidance scale that the U-Net takes (arXiv 2310.04378); 0 where it takes none."""
        tensor = self.components[UNET].inputs.get("timestep_cond")
        return 0 if tensor is None else int(tensor.shape[1])

    @property
    def needed(self) -> tuple[str, ...]:
        """The components that drawing needs."""
        return (*self.conditioning.components, UNET, VAE_ENCODER, VAE_DECODER)

    @property
    def prompt_length(self) -> int:
        """Tokens per chunk of a prompt, the same for every text encoder; 1 of a model without any."""
        encoders = self.conditioning.text_encoders
        return self.tokenizers[encoders[0].tokenizer].length if encoders else 1

    @property
    def text_layers(self) -> int:
        """Of how many layers every text encoder gives the state; 1 of a model without any."""
        encoders = (self.components[encoder.component] for encoder in self.conditioning.text_encoders)
        return min((int(encoder.outputs["hidden_states"].shape[1]) for encoder in encoders), default=1)
