"""What the bundles of models and of what is added to them say besides: the latents and prompts that they work on."""

from abc import abstractmethod
from collections.abc import Mapping

from latentrt.engines.bundle.records.latent_space import LatentSpace
from latentrt.engines.bundle.records.manifests.components_manifest import ComponentsManifest
from latentrt.engines.shapes import Shapes
from latentrt.engines.spec import Array

CONTEXT_LENGTH, FRAMES = "context_length", "frames"
_LATENT_HEIGHT, _LATENT_WIDTH = "latent_height", "latent_width"
DEEPEST_LEVEL = 5
"""Planes of up to so many halvings have names for their dimensions."""


def level_dimensions(level: int) -> tuple[str, str]:
    """The names of height and width of planes that were halved so often, from the latents' own on."""
    suffix = f"_level_{level}" if level else ""
    return f"{_LATENT_HEIGHT}{suffix}", f"{_LATENT_WIDTH}{suffix}"


class LatentsManifest(ComponentsManifest):
    """What a model's ``bundle.json`` has, and that of an add-on to it. ``latents`` are the model's."""

    latents: LatentSpace

    @property
    @abstractmethod
    def prompt_length(self) -> int:
        """Tokens per chunk of a prompt, the same for every text encoder."""

    def dimensions(self, shapes: Shapes) -> dict[str, int]:
        """The numbers behind the named dimensions."""
        profile = shapes.profile
        height, width = self.latents.size(profile)
        levels: dict[str, int] = {}
        for level in range(DEEPEST_LEVEL + 1):
            levels |= dict(zip(level_dimensions(level), (height, width), strict=True))
            height, width = -(-height // 2), -(-width // 2)  # a convolution of stride 2 with padding 1
        return {
            CONTEXT_LENGTH: self.prompt_length * shapes.chunks,
            FRAMES: profile.frames,
            "height": profile.height,
            "width": profile.width,
            **levels,
        }

    def chunks(self, component: str, arrays: Mapping[str, Array]) -> int:
        """How many prompt chunks the arrays for a component hold; 1 where it takes no prompt."""
        for name, tensor in self.components[component].inputs.items():
            if CONTEXT_LENGTH in tensor.shape:
                return int(arrays[name].shape[tensor.shape.index(CONTEXT_LENGTH)] // self.prompt_length)
        return 1
