"""Control pictures made without a network: edges, tiles, palettes, masked pictures.

A picture is PIL or one array, read as the pipeline reads it (``rgb_array``): grey in three channels, transparency on
white, 16 bits as 8. Maps are PIL pictures in RGB of the picture's size. ``resolution`` resizes the picture first.
"""

from typing import Any

import numpy as np
from PIL import Image

from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array
from latentrt.runtime.arrays import is_array
from latentrt.runtime.checks import number, whole
from latentrt.runtime.pictures.arrays import rgb_array, size_of
from latentrt.runtime.pictures.image import Picture, images_from_pixels, rgb_from_image
from latentrt.runtime.pictures.mask import inpaint_input_from_pictures, masks_from_argument

_STEEPEST = 1530  # |dx| + |dy| of 3×3 Sobel filters over 8 bits: six weights of one sign times 255
_WIDEST_BLUR = 256  # pixels
_MOST_SHRUNK = 64
_MOST_CELLS = 512
_LARGEST_GRID = 1024  # pixels
_MULTIPLE = 64  # pixels: the autoencoder's factor of 8 times the U-Net's three halvings
_RESOLUTIONS = (64, 8192)
_MOST_PIXELS = 178_956_970  # of a picture that Pillow opens
_LONGEST_REMAPPED = 32766  # pixels that OpenCV's remap counts in 16 bits
_LANCZOS = Image.Resampling.LANCZOS


def canny(image: Any, low: float = 100, high: float = 200, *, resolution: int | None = None) -> Image.Image:
    """Edges by Canny's method, white on black, as OpenCV finds them.

    Args:
        image: the picture.
        low: an edge that was begun goes on while the gradient is above this. Gradients are |dx| + |dy| of 3×3 Sobel
            filters, 0 to 1530, of the channel that changes most.
        high: an edge begins where the gradient is above this.
        resolution: the shorter side in pixels to resize to first; both sides become multiples of 64.

    Raises:
        RequestError: no picture, thresholds out of range or swapped, or OpenCV is missing.
    """
    low, high = number(low, "low"), number(high, "high")
    if not 0 <= low <= high <= _STEEPEST:
        raise RequestError(
            f"got thresholds low {low:g} and high {high:g}, expected 0 <= low <= high <= {_STEEPEST}; "
            f"{'swap them' if 0 <= high < low <= _STEEPEST else 'set them in this range, such as 100 and 200'}"
        )
    cv2 = _opencv("canny")
    return _of_grey(cv2.Canny(_pixels(image, resolution), low, high))


def tile(image: Any, *, resolution: int | None = None, downscale: float = 1.0, blur: float = 0.0) -> Image.Image:
    """The picture itself, for nets that redraw its details: resized, and with fewer details if asked for.

    Args:
        image: the picture.
        resolution: the shorter side in pixels; None keeps it. Both sides become multiples of 64, at least 64.
        downscale: shrink the picture by this factor, 1 to 64, and enlarge it again.
        blur: standard deviation in pixels of a Gaussian blur, 0 to 256. OpenCV is needed unless it is 0.

    Raises:
        RequestError: no picture, or a number out of range.
    """
    factor, deviation = number(downscale, "downscale"), number(blur, "blur")
    if not 1.0 <= factor <= _MOST_SHRUNK:
        raise RequestError(f"got downscale {factor:g}, expected 1 to {_MOST_SHRUNK}; set it in this range")
    if not 0.0 <= deviation <= _WIDEST_BLUR:
        raise RequestError(f"got blur {deviation:g}, expected 0 to {_WIDEST_BLUR} pixels; set it in this range")
    picture = _picture(image)
    picture = _resized(picture, min(picture.size) if resolution is None else _resolution(resolution))
    if factor > 1.0:
        small = max(round(picture.width / factor), 1), max(round(picture.height / factor), 1)
        picture = picture.resize(small, Image.Resampling.BOX).resize(picture.size, _LANCZOS)
    return _blurred(picture, deviation) if deviation > 0.0 else picture


def inpaint(image: Any, mask: Any, *, resolution: int | None = None) -> Array:
    """The picture with −1 wherever it is to be redrawn, for inpainting nets.

    Args:
        image: the picture.
        mask: PIL or one array of the picture's size: 0.5 (128 of 255) and above is redrawn, as in ``inpaint`` of the
            pipeline.
        resolution: the shorter side in pixels to resize both to first; both sides become multiples of 64.

    Returns:
        (H, W, 3) float32 in [0, 1], or −1. No picture of 8 bits can hold it.

    Raises:
        RequestError: no picture, no mask, several of them, or different sizes.
    """
    masks = masks_from_argument(mask)
    if len(masks) != 1:
        raise RequestError(f"got {len(masks)} masks, expected one; prepare the pictures one by one")
    source: Picture = _picture(image) if isinstance(image, Image.Image) or resolution is not None else rgb_array(image)
    size = size_of(source) if resolution is None else _size(size_of(source), _resolution(resolution))
    inputs = inpaint_input_from_pictures([source], masks, *size)
    redrawn = inputs.mask[0, 0, ..., None] == 1.0
    return np.where(redrawn, np.float32(-1.0), inputs.overlays[0].source)


def palette(image: Any, cells: int = 8, *, resolution: int | None = None) -> Image.Image:
    """The picture's colours in ``cells`` × ``cells`` plain fields, for T2I-Adapter's colour.

    Bicubic to that size and back without interpolation, as its authors and diffusers' documentation do.

    Raises:
        RequestError: no picture, or a number of cells out of range.
    """
    count = whole(cells, "cells")
    if not 1 <= count <= _MOST_CELLS:
        raise RequestError(f"got {count} cells, expected 1 to {_MOST_CELLS} on a side; set cells in this range")
    picture = _picture(image, resolution)
    return picture.resize((count, count), Image.Resampling.BICUBIC).resize(picture.size, Image.Resampling.NEAREST)


def blur(image: Any, sigma: float = 9.0, *, resolution: int | None = None) -> Image.Image:
    """The picture under a Gaussian blur of a standard deviation in pixels, as OpenCV blurs.

    Raises:
        RequestError: no picture, a sigma that is not above 0 and up to 256, or OpenCV is missing.
    """
    deviation = number(sigma, "sigma")
    if not 0.0 < deviation <= _WIDEST_BLUR:
        raise RequestError(
            f"got sigma {deviation:g}, expected above 0 and up to {_WIDEST_BLUR} pixels; set it in this range"
        )
    return _blurred(_picture(image, resolution), deviation)


def threshold(image: Any, level: int = 127, *, resolution: int | None = None) -> Image.Image:
    """White where all three channels are above a level, 0 to 255, and black elsewhere, as A1111's threshold.

    Raises:
        RequestError: no picture, or a level out of range.
    """
    limit = whole(level, "level")
    if not 0 <= limit <= 255:
        raise RequestError(f"got level {limit}, expected 0 to 255; set it in this range")
    bright = _pixels(image, resolution).min(axis=2) > limit
    return _of_grey(bright.astype(np.uint8) * np.uint8(255))


def invert(image: Any, *, resolution: int | None = None) -> Image.Image:
    """The negative: a drawing in black on white becomes white on black, as nets for lines expect it.

    Raises:
        RequestError: no picture.
    """
    return Image.fromarray(np.uint8(255) - _pixels(image, resolution))


def shuffle(image: Any, scale: int = 256, seed: int = 0, *, resolution: int | None = None) -> Image.Image:
    """The picture's colours, flowing about at random, for the shuffle net.

    Every pixel is taken from a random place; places vary smoothly, by bicubic interpolation over a grid. With the seed
    that ``numpy.random.seed`` was given, the map is that of controlnet-aux's ``ContentShuffleDetector``.

    Args:
        image: the picture.
        scale: the grid's spacing in pixels, 1 to 1024.
        seed: 0 to 2^32 − 1.
        resolution: the shorter side in pixels to resize to first; both sides become multiples of 64.

    Raises:
        RequestError: no picture, a number out of range, or OpenCV is missing.
    """
    spacing, start = whole(scale, "scale"), whole(seed, "seed")
    if not 1 <= spacing <= _LARGEST_GRID:
        raise RequestError(f"got scale {spacing}, expected 1 to {_LARGEST_GRID} pixels; set it in this range")
    if not 0 <= start < 2**32:
        raise RequestError(f"got seed {start}, expected 0 to 2^32 − 1; choose one in this range")
    cv2 = _opencv("shuffle")
    pixels = _pixels(image, resolution)
    height, width, _ = pixels.shape
    if max(width, height) > _LONGEST_REMAPPED:
        raise RequestError(
            f"got a picture of {width}x{height}, expected sides up to {_LONGEST_REMAPPED} pixels to shuffle; give "
            "resolution, such as 512"
        )
    random = np.random.RandomState(start)
    places = []
    for side in (width, height):
        grid = random.uniform(size=(height // spacing + 2, width // spacing + 2))
        smooth = cv2.resize(grid, (width + 2 * spacing, height + 2 * spacing), interpolation=cv2.INTER_CUBIC)
        smooth = smooth[spacing : spacing + height, spacing : spacing + width]
        smooth = smooth - smooth.min()
        places.append((smooth / max(float(smooth.max()), 1e-12) * float(side - 1)).astype(np.float32))
    return Image.fromarray(cv2.remap(pixels, places[0], places[1], cv2.INTER_LINEAR))


def _picture(image: Any, resolution: int | None = None) -> Image.Image:
    """A caller's picture as RGB of 8 bits, resized if asked for."""
    if isinstance(image, Image.Image):
        picture = image
    else:
        if isinstance(image, (list, tuple)) and any(isinstance(one, Image.Image) or is_array(one) for one in image):
            raise RequestError(f"got a list of {len(image)} pictures, expected one picture; prepare them one by one")
        picture = images_from_pixels(rgb_array(image)[None])[0]
    if 0 in picture.size:
        raise RequestError(
            f"got an empty picture of {picture.width}x{picture.height}, expected one pixel or more; give another"
        )
    picture = rgb_from_image(picture)
    return picture if resolution is None else _resized(picture, _resolution(resolution))


def _pixels(image: Any, resolution: int | None) -> Array:
    """The same as (H, W, 3) uint8."""
    return np.asarray(_picture(image, resolution))


def _resolution(value: Any) -> int:
    resolution = whole(value, "resolution")
    lowest, highest = _RESOLUTIONS
    if not lowest <= resolution <= highest:
        raise RequestError(
            f"got resolution {resolution}, expected {lowest} to {highest} pixels for the shorter side; set it in this "
            "range"
        )
    return resolution


def _resized(picture: Image.Image, resolution: int) -> Image.Image:
    """By Lanczos, as the pipeline resizes pictures."""
    size = _size(picture.size, resolution)
    return picture if size == picture.size else picture.resize(size, _LANCZOS)


def _size(size: tuple[int, int], resolution: int) -> tuple[int, int]:
    """Width and height for a shorter side in pixels, each rounded to a multiple of 64, as controlnet-aux does."""
    width, height = (max(round(side * (resolution / min(size)) / _MULTIPLE), 1) * _MULTIPLE for side in size)
    if width * height > _MOST_PIXELS:
        raise RequestError(
            f"got a picture of {size[0]}x{size[1]}, which would become {width}x{height}, expected at most "
            f"{_MOST_PIXELS // 10**6} megapixels; crop it, or lower the resolution"
        )
    return width, height


def _blurred(picture: Image.Image, sigma: float) -> Image.Image:
    cv2 = _opencv("a blur")
    return Image.fromarray(cv2.GaussianBlur(np.asarray(picture), (0, 0), sigma))


def _of_grey(grey: Array) -> Image.Image:
    """A picture (H, W) uint8 in three equal channels."""
    return Image.fromarray(grey).convert("RGB")


def _opencv(what: str) -> Any:
    """OpenCV, which the extra ``prepare`` brings.

    Raises:
        RequestError: it is not installed, or cannot be loaded.
    """
    try:
        import cv2
    except ImportError as error:
        reason = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be loaded ({error})"
        raise RequestError(
            f"{what} needs OpenCV, which {reason}; install it with pip install 'latentrt[prepare]', or pip install "
            "opencv-python-headless"
        ) from error
    return cv2
