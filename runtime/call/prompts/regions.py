"""The keyword ``regions``: parts of the pictures with prompts of their own."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from latentrt.engines.bundle.records.latent_space import LatentSpace
from latentrt.engines.errors import RequestError, shown
from latentrt.engines.shapes import Profile
from latentrt.engines.spec import Array
from latentrt.runtime.call.keywords.options import Options
from latentrt.runtime.checks import number, numbers, share, texts
from latentrt.runtime.metadata.added import RegionMetadata
from latentrt.runtime.pictures.crop import Crop
from latentrt.runtime.pictures.mask import grey_values, masks_from_argument
from latentrt.runtime.pictures.soft_mask import at_latents, feathered, layer_of_box, layer_of_mask
from latentrt.runtime.prompts.encoder import Prompts
from latentrt.runtime.prompts.plan import PromptPlan
from latentrt.runtime.prompts.region import Region
from latentrt.runtime.prompts.syntax.tree import LoraTag

_FORM = "latentrt.Region(prompt, box=(left, top, right, bottom)), or a list of them"
_STRETCHED = 0.05  # how far a mask's proportions may be off: sizes are rounded
_NOTHING = 1e-6  # a weight below this is a rounding error
_HASH = 10  # digits of a mask's SHA-256


@dataclass(frozen=True, kw_only=True, eq=False)
class UsedRegion:
    """A region that counts, checked. ``grey`` is its mask (H, W) uint8, ``what`` its name in errors."""

    prompt: str
    prompt_2: str | None
    box: tuple[float, ...] | None
    grey: Array | None
    weight: float
    feather: float
    what: str

    def layer(self, width: int, height: int) -> Array:
        """Where it is in a picture of a size in pixels: (height, width) float64, 0 to 1."""
        if self.grey is not None:
            layer = layer_of_mask(self.grey, width, height)
        else:
            assert self.box is not None  # as it was checked
            layer = layer_of_box(self.box, width, height)
        return feathered(layer, self.feather)

    @cached_property
    def metadata(self) -> RegionMetadata:
        """What a picture's metadata say of it."""
        digest = None
        if self.grey is not None:
            digest = hashlib.sha256(repr(self.grey.shape).encode() + self.grey.tobytes()).hexdigest()[:_HASH]
        return RegionMetadata(
            prompt=self.prompt,
            prompt_2=self.prompt_2,
            box=self.box,
            mask=digest,
            weight=self.weight,
            feather=self.feather,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class CallRegions:
    """The regions of N pictures, those of weight 0 left out.

    Attributes:
        of_pictures: of each picture, or of all alike.
        prompts: what each text encoder reads for each region, N texts; a picture of fewer regions than another repeats
            its own prompt, which counts nothing.
    """

    of_pictures: tuple[tuple[UsedRegion, ...], ...]
    prompts: tuple[tuple[Prompts, ...], ...]

    def check_proportions(self, width: int, height: int) -> None:
        """Refuses masks that would have to be stretched to fit a picture.

        Raises:
            RequestError: naming both sizes.
        """
        for region in (region for of_picture in self.of_pictures for region in of_picture):
            if region.grey is not None:
                rows, columns = region.grey.shape
                if abs(math.log(columns * height / (rows * width))) > _STRETCHED:
                    raise RequestError(
                        f"got a mask of {columns}x{rows} for {region.what} and a picture of {width}x{height}, expected "
                        "the same proportions; crop or redraw the mask"
                    )

    def weights(
        self, plan: PromptPlan, space: LatentSpace, profile: Profile, crops: Sequence[Crop] = ()
    ) -> tuple[Array, ...]:
        """How much each positive pass of a plan counts at each place: (N or 1, 1, h, w) float32.

        With masks mᵣ of weights wᵣ and s = Σ wᵣ·mᵣ, region r has wᵣ·mᵣ / max(s, 1) and the prompt of the call
        max(1 − s, 0), so that they sum up to 1 everywhere.

        Args:
            plan: of the run.
            space: of the latents.
            profile: of the pictures.
            crops: which parts of their pictures they are, where those are cropped: one for all, or one for each.

        Raises:
            RequestError: a mask in other proportions than the picture that is cropped.
        """
        for crop in crops:
            self.check_proportions(*crop.size)
        count = max(len(self.of_pictures), len(crops), 1)
        shares = [
            self._shares(
                self._of_picture(index),
                space,
                profile,
                crops[index % len(crops)] if crops else None,
            )
            for index in range(count)
        ]
        areas = np.stack(shares, axis=1)[:, :, None].astype(np.float32)
        return tuple(weight * areas[area] for weight, area in zip(plan.weights, plan.areas, strict=True))

    def check_loras(self, tags: Mapping[str, tuple[LoraTag, ...]]) -> None:
        """Refuses LoRAs in the prompts of regions.

        Args:
            tags: of every prompt.

        Raises:
            RequestError: naming one.
        """
        for index in range(len(self.prompts[0][0].positives)):
            for region, of_encoders in zip(self._of_picture(index), self.prompts, strict=False):
                for lora in (lora for one in of_encoders for lora in tags[one.positives[index]]):
                    raise RequestError(
                        f"got LoRA {lora.name!r} in the prompt of {region.what}, expected it in the prompt of the "
                        "call, as it holds for the whole picture; move it there"
                    )

    def metadata(self, index: int) -> tuple[RegionMetadata, ...]:
        """What a picture's metadata say of its regions."""
        return tuple(
            replace(
                region.metadata,
                prompt=of_encoders[0].positives[index],
                prompt_2=None if region.prompt_2 is None else of_encoders[-1].positives[index],
            )
            for region, of_encoders in zip(self._of_picture(index), self.prompts, strict=False)
        )

    def _of_picture(self, index: int) -> Sequence[UsedRegion]:
        return self.of_pictures[index % len(self.of_pictures)]

    def _shares(self, regions: Sequence[UsedRegion], space: LatentSpace, profile: Profile, crop: Crop | None) -> Array:
        """Of one picture: (1 + R, h, w), the share of its own prompt first."""
        size = (profile.width, profile.height) if crop is None else crop.size
        masks = np.zeros((len(self.prompts), *space.size(profile)))
        for place, region in enumerate(regions):
            masks[place] = region.weight * at_latents(region.layer(*size), space, profile, crop)
        total = masks.sum(0)
        shares = np.concatenate([np.maximum(1.0 - total, 0.0)[None], masks / np.maximum(total, 1.0)])
        return np.where(shares < _NOTHING, 0.0, shares)


def regions_from_keywords(keywords: Options, of_encoders: Sequence[Prompts], repeats: int) -> CallRegions | None:
    """Checks the regions of a call.

    Args:
        keywords: those that were set.
        of_encoders: the prompts of all pictures.
        repeats: pictures per prompt.

    Returns:
        None where there is none, or all have weight 0.

    Raises:
        RequestError: something that is no region, another number of lists than of prompts, or a region that cannot be
            served.
    """
    given: Any = keywords.get("regions")
    listed = [given] if isinstance(given, Region) else given
    if not isinstance(listed, (list, tuple)):
        raise RequestError(f"got regions {shown(given)}, expected {_FORM}; give that")
    nested = bool(listed) and all(isinstance(one, (list, tuple)) for one in listed)
    of_prompts = list(listed) if nested else [listed]
    if not all(isinstance(region, Region) for regions in of_prompts for region in regions):
        raise RequestError(f"got regions {shown(given)}, expected {_FORM}; give that")
    if "prompt_embeds" in keywords:
        raise RequestError("got regions with prompt_embeds, expected the prompt as text beside theirs; give prompt")
    count = len(of_encoders[0].positives)
    if nested and len(of_prompts) * repeats != count:
        raise RequestError(
            f"got {len(of_prompts)} lists of regions for {count // repeats} prompts, expected one for each; give as "
            "many, or one list of regions for all"
        )
    checked = [
        [used for place, region in enumerate(regions) if (used := _used(region, place, len(of_encoders)))]
        for regions in of_prompts
    ]
    of_pictures = tuple(tuple(regions) for regions in checked for _ in range(repeats if nested else 1))
    most = max(map(len, of_pictures))
    if most == 0:
        return None
    prompts = []
    for place in range(most):
        of_place = [
            regions[place] if place < len(regions) else None
            for regions in (of_pictures if nested else of_pictures * count)
        ]
        first = [
            own if one is None else one.prompt for one, own in zip(of_place, of_encoders[0].positives, strict=True)
        ]
        others = [
            [
                own if one is None else one.prompt_2 or one.prompt
                for one, own in zip(of_place, encoder.positives, strict=True)
            ]
            for encoder in of_encoders[1:]
        ]
        prompts.append(tuple(Prompts(positives=positives, negatives=None) for positives in (first, *others)))
    return CallRegions(of_pictures=of_pictures, prompts=tuple(prompts))


def _used(region: Region, place: int, encoders: int) -> UsedRegion | None:
    """One of them, checked; None where it has no weight.

    Args:
        region: the region.
        place: in its list.
        encoders: how many text encoders the model has.
    """
    what = f"region {place + 1}"
    if not isinstance(region.prompt, str):
        raise RequestError(f"got prompt {shown(region.prompt)} of {what}, expected a text; give one")
    texts(region.prompt, "prompt")
    what = f"{what} ({region.prompt[:40]!r})"
    if region.prompt_2 is not None:
        if not isinstance(region.prompt_2, str):
            raise RequestError(f"got prompt_2 {shown(region.prompt_2)} of {what}, expected a text; give one")
        texts(region.prompt_2, "prompt_2")
        if encoders == 1:
            raise RequestError(f"got prompt_2 of {what} with a model that has one text encoder; leave it out")
    weight = number(region.weight, f"weight of {what}")
    if not (math.isfinite(weight) and weight >= 0.0):
        raise RequestError(f"got weight {weight:g} of {what}, expected a number of at least 0; 1.0 is common")
    feather = share(region.feather, f"feather of {what}")
    if (region.box is None) == (region.mask is None):
        got = "neither box nor mask" if region.box is None else "box and mask"
        raise RequestError(f"got {got} of {what}, expected one of them; say where it is")
    box = None if region.box is None else _box(region.box, what)
    grey = None if region.mask is None else _grey(region.mask, what)
    if weight == 0.0:
        return None
    return UsedRegion(
        prompt=region.prompt,
        prompt_2=region.prompt_2,
        box=box,
        grey=grey,
        weight=weight,
        feather=feather,
        what=what,
    )


def _box(given: Any, what: str) -> tuple[float, ...]:
    box = numbers(given, f"box of {what}")
    if len(box) != 4:
        raise RequestError(
            f"got box {shown(given)} of {what}, expected four numbers, (left, top, right, bottom); give these"
        )
    left, top, right, bottom = box
    sides = f"({', '.join(f'{one:g}' for one in box)})"
    if not all(0.0 <= one <= 1.0 for one in box):
        advice = "divide pixels by the picture's width and height" if max(box) > 2.0 else "keep it in the picture"
        raise RequestError(f"got box {sides} of {what}, expected shares of the width and height, 0 to 1; {advice}")
    if left >= right or top >= bottom:
        raise RequestError(
            f"got box {sides} of {what}, which has no area, expected (left, top, right, bottom) with left < right and "
            "top < bottom; correct it"
        )
    return box


def _grey(given: Any, what: str) -> Array:
    masks = masks_from_argument(given, f"mask of {what}")
    if len(masks) != 1:
        raise RequestError(f"got {len(masks)} masks of {what}, expected one; give a region for each of them")
    grey = grey_values(masks[0])
    if not grey.any():
        raise RequestError(f"got a mask of {what} that is black everywhere, expected white where it is; paint it")
    return grey
