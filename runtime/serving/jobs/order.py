"""An order: what one request asks for, in the pipeline's own words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from latentrt.engines.bundle.records.manifest import BundleManifest

if TYPE_CHECKING:
    from latentrt.runtime.prompts.region import Region

_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """Pictures to draw with a model.

    Attributes:
        prompt: as ``Pipeline.submit`` takes it.
        model: a name of the catalog; None: the first.
        keywords: those of ``Pipeline.submit``, pictures among them; LoRAs, nets and upscalers by their names in the
            catalog.
    """

    prompt: str | Sequence[str] | None
    model: str | None = None
    keywords: Mapping[str, Any] = field(default_factory=lambda: _NONE)

    @property
    def prompts(self) -> tuple[str, ...]:
        """All texts that the prompts are made of, negative ones and those of regions and of a second pass as well."""
        hires, regions = self.keywords.get("hires"), _flat(self.keywords.get("regions") or ())
        texts = [
            self.prompt,
            *(self.keywords.get(name) for name in ("prompt_2", "negative_prompt", "negative_prompt_2")),
            *((hires.prompt, hires.negative_prompt) if hires is not None else ()),
            *(text for region in regions for text in (region.prompt, region.prompt_2)),
        ]
        return tuple(
            text for one in texts if one is not None for text in ((one,) if isinstance(one, str) else tuple(one))
        )


def _flat(regions: Any) -> "Iterator[Region]":
    """One region, a list, or a list of lists, as one after the other."""
    if not isinstance(regions, Sequence):
        yield regions
        return
    for one in regions:
        yield from _flat(one)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What an order asks of the machine: pictures of so many pixels, each in so many steps; a second pass counts."""

    pictures: int
    pixels: int
    steps: int

    @property
    def total(self) -> float:
        """Steps × pixels × pictures, in millions."""
        return self.steps * self.pixels * self.pictures / 1e6


def cost_of(order: Order, manifest: BundleManifest) -> Cost:
    """What an order asks for, reckoned from its keywords alone; nothing is checked.

    Args:
        order: it.
        manifest: of its model.
    """
    keywords, first = order.keywords, manifest.profiles[0]
    prompts = 1 if order.prompt is None or isinstance(order.prompt, str) else len(order.prompt)
    image = keywords.get("image")
    width, height = image.size if image is not None else (first.width, first.height)
    width, height = keywords.get("width") or width, keywords.get("height") or height
    steps = keywords.get("num_inference_steps") or manifest.defaults.num_inference_steps
    for levels in (keywords.get("timesteps"), keywords.get("sigmas")):
        if levels is not None and not isinstance(levels, str):
            steps = len(levels)
    hires, pixels = keywords.get("hires"), width * height
    if hires is not None:  # the second pass, in steps of the first one's size
        steps += round((hires.steps or steps) * hires.scale**2)
    return Cost(pictures=prompts * (keywords.get("num_images_per_prompt") or 1), pixels=pixels, steps=steps)
