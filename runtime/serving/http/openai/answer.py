"""What OpenAI's clients read: pictures in base64, and what is told of them."""

import time
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from latentrt.engines.errors import RequestError
from latentrt.runtime.serving.http.openai.fields import ImageFields
from latentrt.runtime.serving.http.pictures import MEDIA_TYPES, PictureFormat, encoded, pictures_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from latentrt.runtime.call.result import Result


class InputTokens(BaseModel):
    """Tokens of a request, by kind."""

    image_tokens: int = 0
    text_tokens: int = 0


class Usage(BaseModel):
    """Zeros: nothing is charged by tokens here."""

    input_tokens: int = 0
    input_tokens_details: InputTokens = InputTokens()
    output_tokens: int = 0
    total_tokens: int = 0


class ImageData(BaseModel):
    """A picture; with its seed and the same settings it can be drawn again."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None
    seed: int


class ImagesAnswer(BaseModel):
    """The pictures of a request that does not stream."""

    created: int
    data: list[ImageData]
    background: Literal["opaque"] = "opaque"
    output_format: PictureFormat
    size: str
    usage: Usage = Usage()


@dataclass(frozen=True, kw_only=True)
class Packing:
    """The form in which a client wants its pictures.

    Attributes:
        format: of the files.
        quality: 0 to 100, of JPEG and WebP; None: 95.
        field: "b64_json", or "url" for a data URL.
    """

    format: PictureFormat
    quality: int | None
    field: Literal["b64_json", "url"]

    def text(self, image: "Image", parameters: str | None = None) -> str:
        """A picture's file in base64, with the settings that drew it."""
        return b64encode(encoded(image, self.format, parameters, quality=self.quality)).decode("ascii")

    def image_data(self, image: "Image", parameters: str, seed: int) -> ImageData:
        """A picture in the field that is wanted."""
        text = self.text(image, parameters)
        if self.field == "url":
            return ImageData(url=f"data:{MEDIA_TYPES[self.format]};base64,{text}", seed=seed)
        return ImageData(b64_json=text, seed=seed)


def packing_from_fields(fields: ImageFields) -> Packing:
    """The form that a request asks for.

    Raises:
        RequestError: a quality for PNG, which has none.
    """
    format = fields.output_format or PictureFormat.PNG
    quality = fields.output_compression
    if format is PictureFormat.PNG and quality not in (None, 100):
        raise RequestError(
            "got output_compression with png, which loses nothing; leave it out, or ask for jpeg or webp"
        )
    return Packing(format=format, quality=quality, field=fields.response_format or "b64_json")


def images_answer(result: "Result", packing: Packing) -> bytes:
    """The answer with all pictures of a result, as JSON; it takes as long as compressing them."""
    pictures = finished_pictures(result)
    answer = ImagesAnswer(
        created=int(time.time()),
        data=[packing.image_data(*picture) for picture in pictures],
        output_format=packing.format,
        size=size_text(pictures[0][0]),
    )
    return answer.model_dump_json().encode()


def finished_pictures(result: "Result") -> "list[tuple[Image, str, int]]":
    """Each picture with its settings and its seed."""
    parameters = [metadata.parameters() for metadata in result.metadata]
    return list(zip(pictures_of(result), parameters, result.seeds, strict=True))


def size_text(image: "Image") -> str:
    """A picture's size as OpenAI writes it."""
    return f"{image.width}x{image.height}"
