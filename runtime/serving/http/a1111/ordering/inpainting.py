"""A1111's masks as ours: alpha or brightness, turned around, blurred; and its ways to fit a picture into a size."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from latentrt.runtime.pictures.crop import cover, fit_and_fill
from latentrt.runtime.pictures.image import rgb_from_image
from latentrt.runtime.pictures.masked_content import MaskedContent
from latentrt.runtime.serving.http.a1111.bodies import Img2ImgBody

_HALF = 128  # of 255
_COVER, _FILL = 1, 2  # resize_mode; 0 leaves the resizing to the pipeline, which stretches
_CONTENTS = (MaskedContent.FILL, MaskedContent.ORIGINAL, MaskedContent.NOISE, MaskedContent.NOTHING)


def inpainting_keywords(
    body: Img2ImgBody, images: Sequence[Image.Image], mask: Image.Image | None, size: tuple[int, int] | None
) -> Mapping[str, Any]:
    """The keywords of the pictures to start from, and of their mask.

    Args:
        body: the request.
        images: its pictures: one for all, or one per picture of a batch.
        mask: its mask; None: it has none.
        size: the width and height wanted; None: the pictures' own.

    Returns:
        ``image`` and ``strength``, and with a mask ``mask_image``, ``padding_mask_crop`` and ``masked_content``.
    """
    strength = {"strength": body.denoising_strength}
    grey = None if mask is None else _grey(mask, body)
    only_masked = grey is not None and body.inpaint_full_res
    if only_masked and grey is not None and int(np.asarray(grey).max()) < _HALF:
        grey, only_masked = None, False  # nothing to crop around: A1111 goes on as image-to-image
    if not only_masked and size is not None:
        images = [_fitted(image, size, body.resize_mode) for image in images]
        grey = None if grey is None else _fitted(grey, size, body.resize_mode)
    keywords: dict[str, Any] = {"image": images[0] if len(images) == 1 else [*images] * body.n_iter, **strength}
    if grey is None:
        return keywords
    keywords["mask_image"] = grey.convert("L")
    if only_masked:
        keywords["padding_mask_crop"] = body.inpaint_full_res_padding
    content = _CONTENTS[body.inpainting_fill]
    if content is not MaskedContent.ORIGINAL and body.denoising_strength < 1:  # at 1 there is noise alone
        keywords["masked_content"] = content
    return keywords


def _grey(mask: Image.Image, body: Img2ImgBody) -> Image.Image:
    """The mask, mode L, white where it is redrawn. Of a transparent picture it is the opaque part."""
    grey = mask.convert("L")
    if mask.mode == "RGBA" and mask.getextrema()[-1] != (255, 255):
        grey = mask.getchannel("A").point(lambda value: 255 if value > _HALF else 0)
    if body.inpainting_mask_invert:
        grey = ImageOps.invert(grey)
    blur = (body.mask_blur_x, body.mask_blur_y) if body.mask_blur is None else (body.mask_blur, body.mask_blur)
    return grey.filter(ImageFilter.GaussianBlur(blur)) if any(blur) else grey


def _fitted(image: Image.Image, size: tuple[int, int], resize_mode: int) -> Image.Image:
    """A picture in a size's proportions: cut to cover it, or its edges carried on to fill it."""
    if image.size == size or resize_mode not in (_COVER, _FILL):
        return image
    return (cover if resize_mode == _COVER else fit_and_fill)(rgb_from_image(image), *size)
