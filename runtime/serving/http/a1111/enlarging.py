"""What A1111's extras do here: enlarge pictures by a filter, or by an upscaler of the catalog."""

from collections.abc import Iterator
from threading import Lock

from PIL import Image

from latentrt.engines.errors import RequestError, shown
from latentrt.runtime.pictures.crop import cover
from latentrt.runtime.serving.http.a1111.bodies import ExtrasBody
from latentrt.runtime.serving.http.a1111.ordering.hires import NO_UPSCALER
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.jobs.errors import CostError
from latentrt.runtime.upscaling.upscaler import Tell, Upscaler, upscaler_from_path

FILTERS = {
    "Lanczos": Image.Resampling.LANCZOS,
    "Bicubic": Image.Resampling.BICUBIC,
    "Nearest": Image.Resampling.NEAREST,
}
"""Pillow's, by A1111's titles."""
_TO_SIZE = 1  # resize_mode
_NEUTRAL = {
    "gfpgan_visibility": 0.0,
    "codeformer_visibility": 0.0,
    "extras_upscaler_2_visibility": 0.0,
}


class Enlarging:
    """Enlarges pictures, with upscalers that stay open once they were asked for. Thread-safe."""

    def __init__(self, catalog: Catalog) -> None:
        """Opens nothing yet."""
        self._catalog = catalog
        self._opened: dict[str, Upscaler] = {}
        self._lock = Lock()

    def check(self, body: ExtrasBody) -> None:
        """Refuses what cannot be served, before anything is enlarged.

        Raises:
            RequestError: all of it, at once.
        """
        reasons = list(self._reasons(body))
        if reasons:
            raise RequestError(". Also ".join(reasons))

    def enlarged(self, body: ExtrasBody, image: Image.Image, pixels: int, tell: Tell) -> Image.Image:
        """A picture, enlarged.

        Args:
            body: the request, checked.
            image: the picture.
            pixels: most of the result.
            tell: called after every tile; what it raises ends the work.

        Raises:
            CostError: the result would be larger.
        """
        if body.upscaler_1 == NO_UPSCALER:
            return image
        scale = _scale(body, *image.size)
        if scale**2 * image.width * image.height > pixels:
            raise CostError(
                f"got {image.width}x{image.height} times {scale:g}, expected a result of at most {pixels} pixels; ask "
                "for less"
            )
        size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
        if body.upscaler_1 in FILTERS or scale < 1.0:
            larger = image.resize(size, FILTERS.get(body.upscaler_1, Image.Resampling.LANCZOS))
        else:
            larger = self._upscaler(body.upscaler_1).upscale(image, scale, progress=tell)
        wanted = body.upscaling_resize_w, body.upscaling_resize_h
        cut = body.resize_mode == _TO_SIZE and body.upscaling_crop and larger.size != wanted
        return cover(larger, *wanted) if cut else larger

    def _reasons(self, body: ExtrasBody) -> Iterator[str]:
        known = (NO_UPSCALER, *FILTERS, *self._catalog.upscalers)
        if body.upscaler_1 not in known:
            yield f"got upscaler_1 {shown(body.upscaler_1)}, expected one of {', '.join(known)}; choose one of these"
        for name, neutral in _NEUTRAL.items():
            value = getattr(body, name)
            if value != neutral:
                yield f"got {name} {value:g}, expected {neutral:g}; leave it out"

    def _upscaler(self, name: str) -> Upscaler:
        with self._lock:
            if name not in self._opened:
                self._opened[name] = upscaler_from_path(self._catalog.upscalers[name])
            return self._opened[name]


def _scale(body: ExtrasBody, width: int, height: int) -> float:
    """How many times as wide and high a picture becomes, before it is cut."""
    if body.resize_mode == _TO_SIZE:
        return max(body.upscaling_resize_w / width, body.upscaling_resize_h / height)
    return body.upscaling_resize
