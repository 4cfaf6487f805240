"""The image prompts of a call: pictures seen, and made into what the U-Net attends to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import lcm
from typing import Any

import numpy as np

from latentrt.engines.batches import batch_results, in_batches
from latentrt.engines.bundle.added_inputs import attended_levels, plane_size
from latentrt.engines.bundle.kinds import IMAGE_ENCODER, PROJECTION
from latentrt.engines.bundle.net_inputs import PIXELS, PROMPT_KEYS, PROMPT_VALUES
from latentrt.engines.bundle.records.addon_manifest import ImagePromptRecord
from latentrt.engines.bundle.records.latent_space import LatentSpace
from latentrt.engines.bundle.unet_structure import UnetStructure
from latentrt.engines.shapes import AddedInputs, Profile, Shapes
from latentrt.engines.spec import Array
from latentrt.runtime.addons.addon import Addon
from latentrt.runtime.denoiser.conditions.image_prompt import AttendedImages, ImagePromptCondition
from latentrt.runtime.denoiser.steps import ActiveSteps
from latentrt.runtime.metadata.picture_metadata import ImagePromptMetadata
from latentrt.runtime.pictures.bicubic import resized_bicubic
from latentrt.runtime.pictures.crop import Crop
from latentrt.runtime.pictures.image import Picture
from latentrt.runtime.pictures.mask import white_places


@dataclass(frozen=True, kw_only=True, eq=False)
class ImagePromptUse:
    """One image prompt of a call, checked.

    Attributes:
        addon: the adapter.
        record: what its bundle says of it.
        pixels: its pictures as the image encoder takes them (M, 3, s, s).
        scales: of each cross-attention.
        mask: where it counts; None: everywhere.
        steps: in which it counts.
        metadata: what a picture's metadata say of it.
    """

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
        shapes = Shapes(profile=self.addon.manifest.profiles[0])
        encoder = self.addon.engine(IMAGE_ENCODER, shapes)
        output = self.record.encoder_output
        if output == "image_embeds":  # of the base adapter's negative pass: zeros in place of the embedding
            seen = in_batches(encoder, PIXELS, self.pixels, output)
            seen = np.concatenate([seen, np.zeros_like(seen[:1])])
        else:  # of the others': the embedding of zeros
            seen = in_batches(encoder, PIXELS, np.concatenate([self.pixels, np.zeros_like(self.pixels[:1])]), output)
        pieces = list(batch_results(self.addon.engine(PROJECTION, shapes), {output: seen}))
        keys, values = (np.concatenate([piece[name] for piece in pieces]) for name in (PROMPT_KEYS, PROMPT_VALUES))
        return AttendedImages(
            keys=_side_by_side(keys[:-1]),
            values=_side_by_side(values[:-1]),
            negative_keys=_side_by_side(np.repeat(keys[-1:], len(self.pixels), 0)),
            negative_values=_side_by_side(np.repeat(values[-1:], len(self.pixels), 0)),
            scales=self.scales,
            masks=self._masks(sizes, profile),
            steps=self.steps,
        )

    def _masks(self, sizes: Mapping[int, tuple[int, int]], profile: Profile) -> Mapping[int, Array] | None:
        """The mask at every level's size, as diffusers' ``IPAdapterMaskProcessor`` brings it there."""
        if self.mask is None:
            return None
        white = white_places(self.mask, profile.width, profile.height)
        return {level: resized_bicubic(white, *size).reshape(-1) for level, size in sizes.items()}


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


def _side_by_side(pictures: Array) -> Array:
    """Tokens (M, tokens, ΣC) of several pictures as those of one."""
    return np.ascontiguousarray(pictures.reshape(-1, pictures.shape[-1]))
