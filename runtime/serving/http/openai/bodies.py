"""The bodies of requests, read and checked; and what the OpenAPI document says of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import Request

from latentrt.engines.errors import RequestError
from latentrt.runtime.serving.http.openai.form import values_from_form

_Fields = TypeVar("_Fields", bound=BaseModel)
_FILES = ("image", "mask")
_MOST_FILES, _MOST_FIELDS = 32, 256
_LARGEST_FIELD = 32 << 20  # bytes: pictures of control nets are fields


@dataclass(frozen=True, kw_only=True)
class Form:
    """A form: its texts by name, and the files that came with it by theirs."""

    values: Mapping[str, Any]
    files: Mapping[str, bytes]

    @property
    def digest(self) -> bytes:
        """Of what it holds: sent again, the same form has another boundary between its parts."""
        held = [json.dumps(self.values, sort_keys=True).encode(), *(self.files[name] for name in sorted(self.files))]
        return b"".join(sha256(part).digest() for part in held)


def fields_from(kind: type[_Fields], values: Any) -> _Fields:
    """The fields of a request, checked.

    Raises:
        RequestValidationError: what is wrong with them.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        mistakes = [{**mistake, "loc": ("body", *mistake["loc"])} for mistake in error.errors(include_url=False)]
        raise RequestValidationError(mistakes) from error


async def json_body(request: Request) -> Any:
    """A body of JSON.

    Raises:
        RequestError: something else.
    """
    try:
        return await request.json()
    except ValueError as error:
        raise RequestError("got a body that is no JSON, expected a JSON object; correct it") from error


async def form_body(request: Request) -> Form:
    """A form with one picture, and perhaps a mask.

    Raises:
        RequestError: another type of body, no picture, several, or other files.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise RequestError("got a body of another type, expected multipart/form-data; send the picture as a file")
    async with request.form(max_files=_MOST_FILES, max_fields=_MOST_FIELDS, max_part_size=_LARGEST_FIELD) as form:
        texts = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
        uploads = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
        files: dict[str, bytes] = {}
        for name, upload in uploads:
            field = name.removesuffix("[]")
            if field not in _FILES:
                raise RequestError(f"got a file {field!r}, expected image and mask alone; leave it out")
            if field in files:
                raise RequestError(f"got several files {field!r}, expected one; the models here edit one picture")
            files[field] = await upload.read()
    if "image" not in files:
        raise RequestError("got no image, expected a PNG, JPEG or WebP file in the field image; send it")
    return Form(values=values_from_form(texts), files=files)


def json_document(kind: type[BaseModel]) -> dict[str, Any]:
    """What the OpenAPI document says of a body of JSON."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _schema(kind)}}}}


def form_document(kind: type[BaseModel], *, masked: bool) -> dict[str, Any]:
    """What the OpenAPI document says of a form with a picture."""
    schema = _schema(kind)
    file = {"type": "string", "format": "binary"}
    files = {"image": {**file, "description": "What is edited: a PNG, JPEG or WebP."}}
    if masked:
        files["mask"] = {**file, "description": "A picture of the same size, transparent where image is redrawn."}
    schema["properties"] = {**files, **schema["properties"]}
    schema["required"] = ["image", *schema.get("required", [])]
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def _schema(kind: type[BaseModel]) -> dict[str, Any]:
    """A model's JSON schema, complete in itself."""
    schema = kind.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inlined(part: Any) -> Any:
        if isinstance(part, list):
            return [inlined(one) for one in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return inlined(definitions[part["$ref"].rpartition("/")[2]])
        return {name: inlined(one) for name, one in part.items()}

    whole: dict[str, Any] = inlined(schema)
    return whole
