"""What a model family is: its parts, how they are told from the others', and what is done with them by default."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from latentrt.engines.bundle.records.conditioning import ConcatenatedRecord, PoseKind, Resizing, TimeIds
from latentrt.engines.bundle.records.manifests.manifest import DefaultsRecord, TraitsRecord

PNDM: Mapping[str, object] = {
    "_class_name": "PNDMScheduler",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}
POSE_PART = "pose_projection"


@dataclass(frozen=True, kw_only=True)
class TextEncoderRow:
    """One text encoder of a family: folders of its weights and its tokenizer, and what the U-Net takes from it.

    ``penultimate`` takes the state before the last layer without the final norm instead of the last with it;
    ``pooled`` adds the projected state of the end-of-text token.
    """

    part: str = "text_encoder"
    tokenizer: str = "tokenizer"
    penultimate: bool = False
    pooled: bool = False


@dataclass(frozen=True, kw_only=True)
class ImageEncoderRow:
    """A family's own image encoder: the folder of its weights, and how a picture is brought to its square."""

    part: str = "image_encoder"
    resizing: Resizing = Resizing.CENTER_CROP


@dataclass(frozen=True, kw_only=True)
class Family:
    """A row of the registry: what a family's parts are and how they are told from the others'.

    Rows are tried in order. ``pipeline_classes`` is the ``_class_name`` in model_index.json; ``unet`` lists keys of the
    U-Net's config with the value that the row wants (a key that is missing counts as None). ``distilled`` is how a
    row's models were distilled to a few steps, where only names and metadata tell. ``steps_offset`` is what the
    family's diffusers pipeline sets in its scheduler, whatever the file says; None leaves it. ``unet_class`` and
    ``vae_class`` are diffusers' classes of the parts.

    A single file has no configs: ``file_scheduler`` is the scheduler that the family's folder on the hub has, without
    the noise schedule; ``sample_size`` in latents, ``sample_size_of_v`` where it predicts v, ``vae_sample_size`` in
    pixels and ``scaling_factor`` are those of its U-Net and its VAE.
    """

    name: str
    label: str
    pipeline_classes: frozenset[str]
    unet: Mapping[str, object]
    unet_class: str = "UNet2DConditionModel"
    vae_class: str = "AutoencoderKL"
    distilled: str | None = None
    text_encoders: tuple[TextEncoderRow, ...] = (TextEncoderRow(),)
    image_encoder: ImageEncoderRow | None = None
    pose: PoseKind | None = None
    concatenated: ConcatenatedRecord | None = None
    time_ids: TimeIds = TimeIds.NONE
    zero_empty_negative: bool = False
    traits: TraitsRecord = field(default_factory=TraitsRecord)
    steps_offset: int | None = None
    defaults: DefaultsRecord
    file_scheduler: Mapping[str, object] = field(default_factory=lambda: PNDM)
    sample_size: int = 64
    sample_size_of_v: int | None = None
    vae_sample_size: int = 512
    scaling_factor: float = 0.18215

    @property
    def encoders(self) -> tuple[str, ...]:
        """The parts that make what the U-Net attends to."""
        of_pictures = () if self.image_encoder is None else (self.image_encoder.part,)
        of_poses = () if self.pose is None else (POSE_PART,)
        return (*(row.part for row in self.text_encoders), *of_pictures, *of_poses)

    @property
    def parts(self) -> tuple[str, ...]:
        """All parts, in the order of drawing."""
        return (*self.encoders, "unet", "vae")

    @property
    def draws_videos(self) -> bool:
        """Whether its pictures have frames."""
        return self.time_ids is TimeIds.MOTION

    @property
    def one_token(self) -> bool:
        """Whether the U-Net attends to one token, so that its cross-attentions are constants of a call."""
        return self.image_encoder is not None


def defaults_record(
    *, strength: float = 0.75, steps: int = 30, guidance: float = 7.5, sampler: str = "dpmpp_2m_k"
) -> DefaultsRecord:
    """What a call uses of a family where nobody says otherwise."""
    return DefaultsRecord(sampler=sampler, num_inference_steps=steps, guidance_scale=guidance, strength=strength)
