"""What a call starts from."""

from enum import StrEnum


class Workflow(StrEnum):
    """What a call starts from."""

    TEXT = "text-to-image"
    IMAGE = "image-to-image"
    INPAINT = "inpainting"
