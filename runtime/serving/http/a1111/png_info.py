"""The settings in a picture."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from latentrt.engines.errors import RequestError
from latentrt.runtime.pictures.picture_file import settings_from_parameters
from latentrt.runtime.serving.http.a1111.bodies import PngInfoBody
from latentrt.runtime.serving.http.errors import A1111_RESPONSES
from latentrt.runtime.serving.http.pictures import parameters_from_text
from latentrt.runtime.serving.http.strict import StrictRoute
from latentrt.runtime.serving.http.waiting import in_thread

router = APIRouter(prefix="/sdapi/v1", route_class=StrictRoute, responses=A1111_RESPONSES)
_SIZE = "Size"
_LONGEST = 1 << 16  # characters of settings that are read; those of a picture have hundreds


class PngInfo(BaseModel):
    """A picture's settings: the text in the file, the same by the name of its chunk, and its fields."""

    info: str
    items: dict[str, Any]
    parameters: dict[str, str]


@router.post("/png-info", summary="The settings in a picture")
async def png_info(request: Request, body: PngInfoBody) -> PngInfo:
    """Of a PNG, JPEG or WebP that A1111, latentrt or one of their kin wrote; empty where there are none."""
    text = await in_thread(request, parameters_from_text, body.image, request.app.state.settings.pictures)
    if text is None:
        return PngInfo(info="", items={}, parameters={})
    if len(text) > _LONGEST:
        raise RequestError(
            f"got a picture with settings of {len(text)} characters, expected {_LONGEST} at most; these are no settings"
        )
    return PngInfo(info=text, items={"parameters": text}, parameters=_fields(text))


def _fields(text: str) -> dict[str, str]:
    """The settings by name; A1111 has the width and the height apart."""
    found = settings_from_parameters(text)
    width, separator, height = found.get(_SIZE, "").partition("x")
    if separator:
        found |= {f"{_SIZE}-1": width, f"{_SIZE}-2": height}
        del found[_SIZE]
    return found
