"""The image prompts of a call: pictures seen, and made into what the U-Net attends to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import lcm
from typing import Any

import numpy as np

from latentrt.engines.batches import batch_results, in_batches
from latentrt.engines.bundle.kinds import IMAGE_ENCODER, PROJECTION
from latentrt.engines.bundle.records.latent_space import LatentSpace
from latentrt.engines.bundle.records.manifests.addon_manifest import ImagePromptRecord
from latentrt.engines.bundle.unet.added_inputs import attended_levels, plane_size
from latentrt.engines.bundle.unet.net_inputs import PIXELS, PROMPT_KEYS, PROMPT_VALUES
from latentrt.engines.bundle.unet.structure import UnetStructure
from latentrt.engines.engine import Engine
from latentrt.engines.shapes import AddedInputs, Profile, Shapes
from latentrt.engines.spec import Array
from latentrt.runtime.addons.addon import Addon, OpenAddons
from latentrt.runtime.denoiser.conditions.image_prompt import AttendedImages, ImagePromptCondition
from latentrt.runtime.denoiser.steps import ActiveSteps
from latentrt.runtime.metadata.added import ImagePromptMetadata
from latentrt.runtime.pictures.crop import Crop
from latentrt.runtime.pictures.image import Picture
from latentrt.runtime.pictures.interpolation import Interpolation, interpolated
from latentrt.runtime.pictures.mask import white_places


@dataclass(frozen=True, kw_only=True, eq=False)
class ImagePromptUse:
    """One image prompt of a call, checked.

    Attributes:
        opened: the pipeline's add-ons.
        addon: the adapter, one of them.
        record: what its bundle says of it.
        pixels: its pictures as the image encoder takes them (M, 3, s, s).
        scales: of each cross-attention.
        mask: where it counts; None: everywhere.
        steps: in which it counts.
        metadata: what a picture's metadata say of it.
    """

    opened: OpenAddons
    addon: Addon
    record: ImagePromptRecord
    pixels: Array
    scales: tuple[float, ...]
    mask: Picture | None
    steps: ActiveSteps
    metadata: ImagePromptMetadata

    @property
    def tokens(self) -> int:
        """Of all its pictures."""
        return len(self.pixels) * self.record.tokens

    def attended(self, sizes: Mapping[int, tuple[int, int]], profile: Profile) -> AttendedImages:
        """What the U-Net attends to.

        Args:
            sizes: height and width of each level's planes.
            profile: of the pictures drawn.

        Raises:
            EngineError: an engine cannot be opened.
        """
        keys, values = self._projected(self._seen(self.pixels))
        return AttendedImages(
            keys=keys,
            values=values,
            negative=self._negative,
            scales=self.scales,
            masks=self._masks(sizes, profile),
            steps=self.steps,
        )

    def _engine(self, component: str) -> Engine:
        return self.opened.engine(self.addon, component, Shapes(profile=self.addon.manifest.profiles[0]))

    def _seen(self, pixels: Array) -> Array:
        """What the image encoder makes of pictures."""
        return in_batches(self._engine(IMAGE_ENCODER), PIXELS, pixels, self.record.encoder_output)

    def _projected(self, seen: Array) -> tuple[Array, Array]:
        """Keys and values of what was seen: tokens of all pictures side by side (tokens, ΣC)."""
        pieces = list(batch_results(self._engine(PROJECTION), {self.record.encoder_output: seen}))
        keys, values = (np.concatenate([piece[name] for piece in pieces]) for name in (PROMPT_KEYS, PROMPT_VALUES))
        return keys.reshape(-1, keys.shape[-1]), values.reshape(-1, values.shape[-1])

    def _negative(self) -> tuple[Array, Array]:
        """Those of the negative pass: of zeros in place of a base adapter's embedding, of others' encoded pictures."""
        name = self.record.encoder_output
        if name == "image_embeds":
            shape = self._engine(PROJECTION).spec.inputs[name].sized(1)
            keys, values = self._projected(np.zeros(shape, np.float32))
        else:
            keys, values = self._projected(self._seen(np.zeros_like(self.pixels[:1])))
        return np.tile(keys, (len(self.pixels), 1)), np.tile(values, (len(self.pixels), 1))

    def _masks(self, sizes: Mapping[int, tuple[int, int]], profile: Profile) -> Mapping[int, Array] | None:
        """The mask at every level's size, as diffusers' ``IPAdapterMaskProcessor`` brings it there."""
        if self.mask is None:
            return None
        white = white_places(self.mask, profile.width, profile.height)
        return {level: interpolated(white, *size, Interpolation.BICUBIC).reshape(-1) for level, size in sizes.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class ImagePrompts:
    """All image prompts of a call that count anywhere.

    Attributes:
        prompts: they.
        structure: the U-Net's.
        latents: the model's.
    """

    prompts: tuple[ImagePromptUse, ...]
    structure: UnetStructure
    latents: LatentSpace

    @cached_property
    def tokens(self) -> int:
        """The least number that the tokens of every prompt go into."""
        return lcm(*(prompt.tokens for prompt in self.prompts))

    def opened_for(self, shapes: Shapes) -> Shapes:
        """As ``AddonUse.opened_for``."""
        return replace(
            shapes,
            added=shapes.added | {AddedInputs.IMAGE_PROMPT},
            image_prompts=len(self.prompts),
            image_tokens=self.tokens,
        )

    def condition(self, shapes: Shapes, count: int, crops: Sequence[Crop]) -> ImagePromptCondition:
        """As ``AddonUse.condition``; masks are for the picture that is drawn, whatever part of another it is."""
        profile, levels = shapes.profile, attended_levels(self.structure)
        sizes = {level: plane_size(self.latents.size(profile), level) for level in levels}
        return ImagePromptCondition([prompt.attended(sizes, profile) for prompt in self.prompts], self.tokens, levels)

    def metadata(self) -> Mapping[str, Any]:
        """As ``AddonUse.metadata``."""
        return {"image_prompts": tuple(prompt.metadata for prompt in self.prompts)}
