"""An order: what one request asks for, in the pipeline's own words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from latentrt.engines.bundle.records.manifests.manifest import BundleManifest

if TYPE_CHECKING:
    from PIL.Image import Image

    from latentrt.runtime.prompts.region import Region

_LARGEST_SCALE = 1000.0  # of a second pass; beyond it, whoever checks it refuses it
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

    @property
    def parts(self) -> tuple[Any, ...]:
        """Its control nets, image prompts and regions, each of which makes every step longer."""
        named = (self.keywords.get(name) or () for name in ("control", "image_prompt", "regions"))
        return tuple(part for value in named for part in _flat(value))

    @property
    def pictures(self) -> "tuple[Image, ...]":
        """All pictures of its keywords."""
        found: list[Image] = []
        for name in _WITH_PICTURES & self.keywords.keys():
            found += _pictures(self.keywords[name])
        return tuple(found)

    @property
    def picture_bytes(self) -> int:
        """What they take, decoded."""
        return sum(image.width * image.height * len(image.getbands()) for image in self.pictures)

    def without_pictures(self) -> "Order":
        """What is left where its pictures are let go: all other keywords."""
        if not self.pictures:
            return self
        kept = {name: value for name, value in self.keywords.items() if not _pictures(value)}
        return Order(prompt=self.prompt, model=self.model, keywords=kept)


_WITH_PICTURES = frozenset({"image", "mask_image", "control", "image_prompt", "regions"})


def first_of(image: Any) -> Any:
    """A picture, or the first of several, whose size counts."""
    return image[0] if isinstance(image, Sequence) else image


def _pictures(value: Any) -> "list[Image]":
    """The pictures in a keyword's value: itself, its items', or those of a net, an image prompt or a region."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [image for one in value for image in _pictures(one)]
    if hasattr(value, "getbands"):  # without loading Pillow
        return [value]
    parts = (getattr(value, name, None) for name in ("image", "images", "mask"))
    return [image for part in parts if part is not None for image in _pictures(part)]


def _flat(regions: Any) -> "Iterator[Region]":
    """One region, a list, or a list of lists, as one after the other."""
    if not isinstance(regions, Sequence):
        yield regions
        return
    for one in regions:
        yield from _flat(one)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What an order asks of the machine: pictures of a size, each in so many steps; a second pass counts."""

    pictures: int
    width: int
    height: int
    steps: int

    @property
    def pixels(self) -> int:
        """Of a picture, in the first pass."""
        return self.width * self.height

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
    width, height = first_of(image).size if image is not None else (first.width, first.height)
    width, height = keywords.get("width") or width, keywords.get("height") or height
    steps = keywords.get("num_inference_steps") or manifest.defaults.num_inference_steps
    for levels in (keywords.get("timesteps"), keywords.get("sigmas")):
        if levels is not None and not isinstance(levels, str):
            steps = len(levels)
    hires = keywords.get("hires")
    if hires is not None and 0 < hires.scale < _LARGEST_SCALE:  # the second pass, in steps of the first one's size
        steps += round((hires.steps or steps) * hires.scale**2)
    pictures = prompts * (keywords.get("num_images_per_prompt") or 1)
    return Cost(pictures=pictures, width=width, height=height, steps=steps)
