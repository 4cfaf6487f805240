"""Orders as JSON: the keywords of a call, with names and encoded pictures in the place of files and objects."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from latentrt.runtime.call.initial_latents import KeptPixels
from latentrt.runtime.call.keywords.options import Options
from latentrt.runtime.pictures.masked_content import MaskedContent
from latentrt.runtime.pictures.tiling import VaeMode
from latentrt.runtime.prompts.style import LongPrompt, PromptSyntax
from latentrt.runtime.serving.jobs.order import Order

if TYPE_CHECKING:
    from PIL.Image import Image

    from latentrt.runtime.serving.jobs.catalog import Catalog

PictureText = Annotated[str, Field(description="A PNG, JPEG or WebP in base64, or as a data URL.", min_length=1)]
ReadPicture = Callable[[str], "Image"]
_LEFT_OUT = frozenset(
    {
        *("callback_on_step_end", "callback_on_step_end_tensor_inputs", "progress", "output_type"),  # functions, arrays
        *("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
        *("latents", "denoising_start", "denoising_end"),  # hand latents over
        "wildcards",  # a path
    }
)


class Json(BaseModel):
    """What a request holds; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SamplerJson(BaseModel):
    """A sampler with options of its own."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    name: str


class RegionJson(Json):
    """A part of the picture with a prompt of its own; it has a box or a mask."""

    prompt: str
    box: tuple[float, float, float, float] | None = None
    mask: PictureText | None = None
    prompt_2: str | None = None
    weight: float = 1.0
    feather: float = 0.0


class HiresJson(Json):
    """A second pass at a larger size."""

    scale: float = 2.0
    strength: float = 0.55
    steps: int | None = None
    upscaler: str = "latent"
    sampler: str | SamplerJson | None = None
    prompt: str | list[str] | None = None
    negative_prompt: str | list[str] | None = None
    guidance_scale: float | None = None


class ControlJson(Json):
    """A control net or T2I-Adapter by its name, and its picture."""

    net: str
    image: PictureText
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    mode: str = "balanced"
    type: str | int | None = None


class ImagePromptJson(Json):
    """An IP-Adapter by its name, and its pictures."""

    adapter: str
    images: PictureText | list[PictureText]
    scale: float = 1.0
    mask: PictureText | None = None
    blocks: str | dict[str, Any] | None = None
    start: float = 0.0
    end: float = 1.0


class OrderFields(Json):
    """What an order has beside the keywords that all ways of drawing share."""

    model: str | None = Field(None, description="A model's name; the first one of the server where it is left out.")
    prompt: str | list[str] | None = Field(None, description="What to draw: one text or several.")
    image: PictureText | None = Field(None, description="A picture to start from, in base64 or as a data URL.")
    mask_image: PictureText | None = Field(None, description="With an image: what to redraw is white.")
    strength: float | None = Field(None, description="With an image: how much of the schedule runs, 0 to 1.")
    image_guidance_scale: float | None = Field(
        None, description="With an image, of a model that draws edits: how closely it is kept, 1 or more."
    )
    padding_mask_crop: int | None = Field(
        None, description="With a mask: draw its surroundings alone, with so many pixels of margin."
    )
    kept_pixels: KeptPixels | None = Field(None, description="With a mask: exact (default) or decoded.")
    masked_content: MaskedContent | None = Field(
        None, description="With a mask and a strength below 1: what the masked part starts from; original (default)."
    )
    wildcards: bool = Field(False, description="Whether __name__ and {a|b} in prompts are chosen by the seed.")


def _keyword_fields() -> dict[str, Any]:
    """A field for every keyword of ``Options`` that JSON can hold, of the type that it has there."""
    stand_ins = {
        "Control": ControlJson,
        "ImagePrompt": ImagePromptJson,
        "Hires": HiresJson,
        "Region": RegionJson,
        "Sampler": SamplerJson,
        "PromptSyntax": PromptSyntax,
        "LongPrompt": LongPrompt,
        "VaeMode": VaeMode,
        **dict.fromkeys(("Apg", "DeepCache", "DynamicThresholding", "FreeU"), Mapping[str, Any]),
        "Array": Any,
        "Path": Path,
    }
    hints = get_type_hints(Options, localns=stand_ins)
    return {name: (hint | None, None) for name, hint in hints.items() if name not in _LEFT_OUT}


JobRequest: type[OrderFields] = create_model("JobRequest", __base__=OrderFields, **_keyword_fields())
"""The body of an order."""


def order_from_json(request: OrderFields, catalog: "Catalog", read: ReadPicture) -> Order:
    """The order that a body stands for.

    Args:
        request: a ``JobRequest``.
        catalog: what it may name.
        read: decodes a picture.

    Raises:
        RequestError: a picture that cannot be read, or a sampler's option that cannot be.
    """
    given = {name: getattr(request, name) for name in request.model_fields_set}
    given = {name: value for name, value in given.items() if value is not None}
    model, prompt, wildcards = given.pop("model", None), given.pop("prompt", None), given.pop("wildcards", False)
    for name in ("image", "mask_image"):
        if name in given:
            given[name] = read(given[name])
    if wildcards:
        given["wildcards"] = catalog.wildcards or ""
    keywords = {name: _READ.get(name, _same)(value, read) for name, value in given.items()}
    return Order(prompt=prompt, model=model, keywords=keywords)


def _same(value: Any, read: ReadPicture) -> Any:
    return value


def _sampler(value: Any, read: ReadPicture) -> Any:
    from latentrt.engines.errors import RequestError
    from latentrt.runtime.sampling.samplers import Sampler

    if not isinstance(value, SamplerJson):
        return value
    try:
        return Sampler(**value.model_dump())
    except TypeError as error:
        raise RequestError(
            f"got sampler {value.name!r} with {', '.join(value.model_extra or {})}, expected options that samplers "
            "have; see latentrt samplers"
        ) from error


def _hires(value: HiresJson, read: ReadPicture) -> Any:
    from latentrt.runtime.call.hires.hires import Hires

    fields = {name: getattr(value, name) for name in HiresJson.model_fields}
    return Hires(**{**fields, "sampler": _sampler(value.sampler, read)})


def _regions(value: Any, read: ReadPicture) -> Any:
    from latentrt.runtime.prompts.region import Region

    if not isinstance(value, RegionJson):
        return [_regions(one, read) for one in value]
    fields = {name: getattr(value, name) for name in RegionJson.model_fields if name != "prompt"}
    return Region(value.prompt, **{**fields, "mask": None if value.mask is None else read(value.mask)})


def _controls(value: Any, read: ReadPicture) -> Any:
    from latentrt.runtime.addons.control import Control

    each: Sequence[ControlJson] = [value] if isinstance(value, ControlJson) else value
    more = [name for name in ControlJson.model_fields if name not in ("net", "image")]
    return [Control(one.net, read(one.image), **{name: getattr(one, name) for name in more}) for one in each]


def _image_prompts(value: Any, read: ReadPicture) -> Any:
    from latentrt.runtime.addons.image_prompt import ImagePrompt

    each: Sequence[ImagePromptJson] = [value] if isinstance(value, ImagePromptJson) else value
    prompts = []
    for one in each:
        images = [read(text) for text in ([one.images] if isinstance(one.images, str) else one.images)]
        prompts.append(
            ImagePrompt(
                one.adapter,
                images,
                scale=one.scale,
                mask=None if one.mask is None else read(one.mask),
                blocks=one.blocks,
                start=one.start,
                end=one.end,
            )
        )
    return prompts


_READ: Mapping[str, Callable[[Any, ReadPicture], Any]] = {
    "sampler": _sampler,
    "hires": _hires,
    "regions": _regions,
    "control": _controls,
    "image_prompt": _image_prompts,
}
"""How the values of keywords become what a call takes, where they are not that already."""
