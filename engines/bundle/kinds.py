"""The kinds of components that a bundle holds: one row says all that the rest needs to know about a kind."""

from dataclasses import dataclass
from enum import StrEnum


class Opening(StrEnum):
    """When a pipeline opens a component: with the bundle, or at the first call that needs it."""

    WITH_BUNDLE = "with-bundle"
    ON_DEMAND = "on-demand"


class Planes(StrEnum):
    """How large the planes are that a component's norms take sums over.

    A picture's planes are so large that plain sums in float32 lose digits. So on the CPU their norms are computed in
    two passes, and the gate allows more as pictures grow. Such a component also serves in tiles: an engine for a
    larger picture stands in where a backend of fixed shapes has none of the size.
    """

    LATENT = "latent"
    PICTURE = "picture"


@dataclass(frozen=True, kw_only=True)
class KindRow:
    """What a kind of component is.

    Attributes:
        opening: when a pipeline opens it.
        planes: what its norms take sums over.
        guided: whether guidance doubles its batch.
        halves: whether the CPU may run the halves of its batch at once.
        quantized_on_cpu: whether a build in eight bits for CPUs quantizes it.
        quantized_on_gpu: whether one for GPUs does.
        weights_rounded_on_cpu: whether one for CPUs rounds its weights alone.
        rounding_moves: what the rounding of its nodes is scored by.
        stretched: the input that fp16's overflow is looked for with, stretched; None for none.
        adaptable: whether adapters such as LoRAs change its weights.
        many_rows: whether so many rows go through its matrices that packing those in every call costs next to nothing.
        added_inputs: whether its engines may take ``AddedInputs`` beside its own.
        exact_batch: whether the rows of a call act on each other, so that a batch must not be padded or split.
    """

    opening: Opening = Opening.WITH_BUNDLE
    planes: Planes = Planes.LATENT
    guided: bool = False
    halves: bool = False
    quantized_on_cpu: bool = False
    quantized_on_gpu: bool = False
    weights_rounded_on_cpu: bool = False
    rounding_moves: str = "latents"
    stretched: str | None = None
    adaptable: bool = False
    many_rows: bool = False
    added_inputs: bool = False
    exact_batch: bool = False


class ComponentKind(StrEnum):
    """A kind of component. A bundle may hold several of one kind, under names of their own: SDXL's text encoders."""

    TEXT_ENCODER = "text_encoder"
    UNET = "unet"
    VIDEO_UNET = "video_unet"
    VAE_ENCODER = "vae_encoder"
    VAE_DECODER = "vae_decoder"
    TEMPORAL_DECODER = "temporal_decoder"
    HINT = "hint"
    CONTROL = "control"
    FEATURES = "features"
    IMAGE_ENCODER = "image_encoder"
    PROJECTION = "projection"
    UPSCALER = "upscaler"

    @property
    def row(self) -> KindRow:
        """What the kind is."""
        return _ROWS[self]


_ROWS = {
    # They run once per picture, and SDXL's are larger than its U-Net in int8
    ComponentKind.TEXT_ENCODER: KindRow(guided=True, adaptable=True, weights_rounded_on_cpu=True),
    ComponentKind.UNET: KindRow(
        guided=True,
        halves=True,
        quantized_on_cpu=True,
        quantized_on_gpu=True,
        stretched="sample",
        adaptable=True,
        many_rows=True,
        added_inputs=True,
    ),
    # Nothing is added to it: its blocks are others
    ComponentKind.VIDEO_UNET: KindRow(
        guided=True,
        halves=True,
        quantized_on_cpu=True,
        quantized_on_gpu=True,
        stretched="sample",
        adaptable=True,
        many_rows=True,
    ),
    ComponentKind.VAE_ENCODER: KindRow(opening=Opening.ON_DEMAND, planes=Planes.PICTURE),
    # On a CPU decoding costs several steps; a GPU's tensor cores decode in fp16
    ComponentKind.VAE_DECODER: KindRow(
        planes=Planes.PICTURE, quantized_on_cpu=True, rounding_moves="picture", stretched="latent_sample"
    ),
    # A video's frames decoded together: the batch of a call is so many frames, in order, of one video
    ComponentKind.TEMPORAL_DECODER: KindRow(
        planes=Planes.PICTURE, exact_batch=True, rounding_moves="picture", stretched="latent_sample"
    ),
    # A control net: the control picture, embedded once, and what is added to the U-Net in every step
    ComponentKind.HINT: KindRow(),
    ComponentKind.CONTROL: KindRow(guided=True, many_rows=True, stretched="sample"),
    # A T2I-Adapter: what is added to the U-Net, made once
    ComponentKind.FEATURES: KindRow(),
    # A picture embedded; and its embedding as an IP-Adapter's keys and values, or with a pose as a token
    ComponentKind.IMAGE_ENCODER: KindRow(),
    ComponentKind.PROJECTION: KindRow(),
    # An upscaler is a bundle of its own
    ComponentKind.UPSCALER: KindRow(planes=Planes.PICTURE),
}

# The components that every model's bundle has one of, by name
UNET, VAE_ENCODER, VAE_DECODER = (
    ComponentKind.UNET.value,
    ComponentKind.VAE_ENCODER.value,
    ComponentKind.VAE_DECODER.value,
)

# Those of add-ons
HINT, CONTROL, FEATURES, IMAGE_ENCODER, PROJECTION = (
    ComponentKind.HINT.value,
    ComponentKind.CONTROL.value,
    ComponentKind.FEATURES.value,
    ComponentKind.IMAGE_ENCODER.value,
    ComponentKind.PROJECTION.value,
)

# That of upscalers
UPSCALER = ComponentKind.UPSCALER.value
