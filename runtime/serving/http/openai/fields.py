"""The fields of requests: OpenAI's, and beside them the pipeline's by their own names."""

from typing import Any, Literal

from pydantic import Field, create_model

from latentrt.runtime.pictures.picture_file import PictureFormat
from latentrt.runtime.serving.jobs.order_json import JobRequest, Json, OrderFields

_IGNORED = "Accepted, and changes nothing here."
_SAID_OTHERWISE = frozenset({"width", "height", "num_images_per_prompt"})  # by size and n


class ImageFields(Json):
    """What all routes take of OpenAI's fields. What would change the picture and cannot be served is refused."""

    model: str | None = Field(None, description="A name from /v1/models; the first one where it is left out.")
    n: int | None = Field(None, ge=1, le=10, description="How many pictures.")
    size: str | None = Field(None, description="WIDTHxHEIGHT in pixels, or auto.", examples=["512x512"])
    response_format: Literal["b64_json", "url"] | None = Field(
        None, description="b64_json, or url for a data URL: pictures are not kept for later."
    )
    output_format: PictureFormat | None = Field(None, description="png where it is left out.")
    output_compression: int | None = Field(
        None, ge=0, le=100, description="Quality of jpeg and webp; 95 where it is left out."
    )
    user: str | None = Field(None, description="Accepted, not kept.")
    safety_identifier: str | None = Field(None, description="Accepted, not kept.")
    background: Literal["auto", "opaque"] | None = Field(None, description=_IGNORED)
    moderation: Literal["auto", "low"] | None = Field(None, description=_IGNORED)
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = Field(
        None, description=_IGNORED
    )
    complexity: Literal["low", "medium", "high"] | None = Field(None, description=_IGNORED)
    style: Literal["vivid", "natural"] | None = Field(None, description=_IGNORED)
    input_fidelity: Literal["low"] | None = Field(None, description=_IGNORED)

    steps: int | None = Field(None, description="Another name of num_inference_steps.")
    cfg_scale: float | None = Field(None, description="Another name of guidance_scale.")


class StreamFields(ImageFields):
    """What the routes take that can stream."""

    prompt: str = Field(description="What to draw.")
    stream: bool | None = Field(None, description="Whether pictures come as server-sent events.")
    partial_images: int | None = Field(None, ge=0, le=3, description="With stream: how many pictures on the way.")


def _keywords(*own: str) -> dict[str, Any]:
    """The pipeline's keywords that OpenAI has no field for, and some of those that an order has of its own."""
    left_out = {*StreamFields.model_fields, *OrderFields.model_fields, *_SAID_OTHERWISE}.difference(own)
    return {name: (field.annotation, field) for name, field in JobRequest.model_fields.items() if name not in left_out}


GenerationRequest: type[StreamFields] = create_model(
    "GenerationRequest", __base__=StreamFields, **_keywords("wildcards")
)
"""The body of /v1/images/generations."""
EditRequest: type[StreamFields] = create_model(
    "EditRequest",
    __base__=StreamFields,
    **_keywords("wildcards", "strength", "image_guidance_scale", "padding_mask_crop", "kept_pixels", "masked_content"),
)
"""The form of /v1/images/edits, without its files."""
VariationRequest: type[ImageFields] = create_model(
    "VariationRequest", __base__=ImageFields, **_keywords("wildcards", "strength")
)
"""The form of /v1/images/variations, without its file."""
