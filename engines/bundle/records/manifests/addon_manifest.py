"""``bundle.json`` of what is added to a model: a control net, a T2I-Adapter, or an adapter for image prompts."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, model_validator

from latentrt.engines.bundle.records.manifests.latents_manifest import LatentsManifest
from latentrt.engines.bundle.records.record import Record


class AddonKind(StrEnum):
    """What is added. Each is used in its own way, and knows its components."""

    CONTROL_NET = "control-net"
    T2I_ADAPTER = "t2i-adapter"
    IMAGE_PROMPT = "image-prompt"

    @property
    def label(self) -> str:
        """Its name for people, with its article."""
        return {"control-net": "a ControlNet", "t2i-adapter": "a T2I-Adapter", "image-prompt": "an IP-Adapter"}[self]


class ControlRecord(Record):
    """What drawing with a control net or a T2I-Adapter needs to know.

    Attributes:
        conditional_only: residuals are averages over their planes, for the conditional half alone (diffusers'
            ``global_pool_conditions``).
        types: union nets: how many kinds of pictures it tells apart; 0 for nets of one kind.
    """

    conditional_only: bool = False
    types: Annotated[int, Field(ge=0)] = 0


class ImagePromptRecord(Record):
    """What drawing with an adapter for image prompts needs to know.

    Attributes:
        tokens: into how many tokens a picture is turned.
        context: how wide the prompts are that the model attends to.
        widths: of its cross-attentions, in the order of ``UnetStructure.cross_attentions``.
        encoder_output: what the projection takes of the image encoder: ``image_embeds``, of which the negative pass
            takes zeros, or ``hidden_states``, of which it takes those of a picture that is 0 everywhere.
        image_size: height and width in pixels that the encoder takes.
        image_mean: what is taken from each channel of pictures in [0, 1].
        image_std: what each is divided by then.
    """

    tokens: Annotated[int, Field(gt=0)]
    context: Annotated[int, Field(gt=0)]
    widths: Annotated[tuple[int, ...], Field(min_length=1)]
    encoder_output: Literal["image_embeds", "hidden_states"]
    image_size: tuple[int, int]
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]


class AddonManifest(LatentsManifest):
    """All of an add-on's ``bundle.json``. ``tokens_per_chunk`` is that of the prompts of the model it was built for."""

    addon: AddonKind
    tokens_per_chunk: Annotated[int, Field(gt=2)]
    control: ControlRecord | None = None
    image_prompt: ImagePromptRecord | None = None

    @model_validator(mode="after")
    def _says_how_it_is_used(self) -> "AddonManifest":
        if (self.addon is AddonKind.IMAGE_PROMPT) != (self.image_prompt is not None):
            raise ValueError("an add-on without what it needs to be used")
        if (self.addon is AddonKind.IMAGE_PROMPT) == (self.control is not None):
            raise ValueError("an add-on of two kinds")
        return self

    @property
    def prompt_length(self) -> int:
        """Tokens per chunk of a prompt."""
        return self.tokens_per_chunk
