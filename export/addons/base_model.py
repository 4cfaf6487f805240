"""What an add-on is built for: a model's bundle, as far as an add-on has to fit it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from latentrt.engines.bundle.bundle import Bundle
from latentrt.engines.bundle.checks.probes import Probe
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.bundle.records.component import ComponentRecord, TensorRecord
from latentrt.engines.bundle.unet.structure import UnetStructure
from latentrt.engines.bundle.weights import ComponentWeights
from latentrt.engines.shapes import Profile

TEXT_INPUTS = ("encoder_hidden_states", "text_embeds", "time_ids")
"""What a U-Net is told of the prompt and the picture; a control net is told the same."""
_PROBES = 3  # at one profile: one prompt chunk, two chunks, and another timestep
# Which models attend to prompts so wide, for messages
_LABELS = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL", 1280: "SDXL's refiner"}


@dataclass(frozen=True)
class BaseModel:
    """A model's bundle that an add-on is built for."""

    bundle: Bundle

    @property
    def unet(self) -> ComponentRecord:
        """The U-Net's record."""
        return self.bundle.manifest.components[UNET]

    @cached_property
    def structure(self) -> UnetStructure:
        """Its blocks.

        Raises:
            BundleError: the record of its weights' names is missing or damaged.
        """
        return Component(root=self.bundle.root, manifest=self.bundle.manifest, name=UNET).structure

    @cached_property
    def weights(self) -> ComponentWeights:
        """Its weights by name."""
        return self.bundle.weights(UNET)

    @property
    def context(self) -> int:
        """How wide the prompt's states are."""
        return int(self.unet.inputs["encoder_hidden_states"].shape[2])

    @property
    def label(self) -> str:
        """Which model it is, and of what kind, for messages."""
        return f"{self.bundle.root.name} ({label_of_context(self.context)})"

    @property
    def text_inputs(self) -> dict[str, TensorRecord]:
        """Those of ``TEXT_INPUTS`` that it takes."""
        return {name: self.unet.inputs[name] for name in TEXT_INPUTS if name in self.unet.inputs}

    @cached_property
    def added_width(self) -> int | None:
        """The width of SDXL's pooled prompt beside the embedded sizes; None where it is told none."""
        named = self.weights.named.weights.get("add_embedding.linear_1.weight")
        return None if named is None else named.shape[1]

    @property
    def size_embedding(self) -> int | None:
        """The width of one embedded size; None where it is told none."""
        if self.added_width is None or "text_embeds" not in self.unet.inputs:
            return None
        pooled, sizes = (int(self.unet.inputs[name].shape[1]) for name in ("text_embeds", "time_ids"))
        return (self.added_width - pooled) // sizes

    def probes(self, profiles: Sequence[Profile]) -> Iterator[Probe]:
        """The U-Net's recorded runs, of which the inputs are wanted: the first few of each profile, in its order."""
        recorded = self.bundle.probes(UNET)
        for profile in profiles:
            yield from [probe for probe in recorded if probe.profile == profile][:_PROBES]


def label_of_context(width: int) -> str:
    """Which models attend to prompts of a width."""
    prompts = f"prompts {width} wide"
    return f"{_LABELS[width]}, {prompts}" if width in _LABELS else prompts
