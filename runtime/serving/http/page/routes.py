"""The page at ``/`` and its files: a fixed list, read once, told apart by their digests."""

from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Annotated

from fastapi import APIRouter, Header
from starlette.exceptions import HTTPException
from starlette.responses import Response

_INDEX = "index.html"
_TYPES: Mapping[str, str] = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# Every name that is served; whatever else lies in the folder is not
NAMES = (
    "icon.svg",
    "frame.css",
    "controls.css",
    "easel.css",
    "results.css",
    "narrow.css",
    "main.js",
    "api.js",
    "easel.js",
    "elements.js",
    "form.js",
    "jobs.js",
    "lists.js",
    "loras.js",
    "mask.js",
    "options.js",
    "order.js",
    "parameters.js",
    "png_text.js",
    "source.js",
    "stage.js",
)

router = APIRouter(include_in_schema=False)
_IfNoneMatch = Annotated[str | None, Header()]


@router.api_route("/", methods=["GET", "HEAD"])
async def index(if_none_match: _IfNoneMatch = None) -> Response:
    """The page."""
    return _answer(_INDEX, if_none_match)


@router.api_route("/page/{name}", methods=["GET", "HEAD"])
async def file(name: str, if_none_match: _IfNoneMatch = None) -> Response:
    """One of its files.

    Raises:
        HTTPException: 404, there is none of that name.
    """
    if name not in NAMES:
        raise HTTPException(404)
    return _answer(name, if_none_match)


def _answer(name: str, if_none_match: str | None) -> Response:
    content, tag = _read(name)
    # Asked for each time, answered in full after an update only: files of two versions never meet
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if if_none_match is not None and tag in (each.strip().removeprefix("W/") for each in if_none_match.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=_TYPES[name.rpartition(".")[2]], headers=headers)


@cache
def _read(name: str) -> tuple[bytes, str]:
    """A file's bytes and its entity tag."""
    content = (files(__package__) / name).read_bytes()
    return content, f'"{sha256(content).hexdigest()[:32]}"'
