"""Masks as OpenAI has them: what is transparent is redrawn."""

from PIL import Image

from latentrt.engines.errors import RequestError

_HALF = 128  # of 255


def mask_from_transparency(mask: Image.Image, image: Image.Image) -> Image.Image:
    """The mask of an inpainting call from a picture whose transparent pixels are redrawn.

    Args:
        mask: the picture that was sent as the mask.
        image: what is edited, of the same size.

    Returns:
        Mode L: 255 where the mask is more than half transparent, else 0.

    Raises:
        RequestError: another size, or nothing is transparent.
    """
    if mask.size != image.size:
        raise RequestError(
            f"got a mask of {mask.width}x{mask.height} for an image of {image.width}x{image.height}, expected the same "
            "size; resize it"
        )
    if (redrawn := own_transparency(mask)) is None:
        raise RequestError(
            "got a mask without transparent pixels, expected what shall be redrawn to be transparent; give a PNG whose "
            "alpha is 0 there"
        )
    return redrawn


def own_transparency(image: Image.Image) -> Image.Image | None:
    """The mask that a picture brings with it: 255 where it is more than half transparent; None where nothing is."""
    if not image.has_transparency_data:
        return None
    alpha = image.convert("RGBA").getchannel("A")
    mask = alpha.point(lambda value: 255 if value < _HALF else 0)
    return mask if mask.getbbox() else None
