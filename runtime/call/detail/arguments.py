"""What a detail pass is told: where regions are, how masks grow, how much is drawn anew."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from latentrt.engines.choices import choice_if_given
from latentrt.engines.errors import RequestError, shown
from latentrt.runtime.call.detail.result import DetailedRegion
from latentrt.runtime.checks import share, whole
from latentrt.runtime.metadata.further_passes import DetailMetadata
from latentrt.runtime.pictures.arrays import size_of
from latentrt.runtime.pictures.detail.regions import (
    DetailRegion,
    RegionOrder,
    blur_from_argument,
    in_order,
    kernel_from_argument,
    region_of_box,
    regions_from_boxes,
    regions_from_masks,
)
from latentrt.runtime.pictures.image import Picture

if TYPE_CHECKING:
    from latentrt.runtime.pictures.detail.detector import Detector


@dataclass(frozen=True, kw_only=True)
class Detail:
    """How the regions of pictures are found and drawn.

    Attributes:
        boxes: as ``regions_from_boxes`` takes them, or None; so are ``masks`` for ``regions_from_masks``.
        masks: them.
        detector: what finds the regions, or None. One of the three is given.
        strength: how much of the schedule runs.
        padding: pixels around a region that are drawn with it.
        kernel: by which masks grow, in pixels.
        blur: of masks' edges, in pixels.
        order: in which regions are drawn.
        most: so many regions of a picture at most, the largest; None: all.
    """

    boxes: Any
    masks: Any
    detector: "Detector | None"
    strength: float
    padding: int
    kernel: int
    blur: float
    order: RegionOrder
    most: int | None

    def regions(self, picture: Picture) -> list[DetailRegion]:
        """The regions of a picture, in order.

        Raises:
            RequestError: boxes or masks that are not the picture's.
            EngineError: the detector fails.
        """
        width, height = size_of(picture)
        if self.detector is not None:
            found = [region_of_box(one.box, width, height, one.score, one.label) for one in self.detector(picture)]
        elif self.boxes is not None:
            found = regions_from_boxes(self.boxes, width, height)
        else:
            found = regions_from_masks(self.masks, width, height)
        grown = [region for region in (one.dilated(self.kernel) for one in found) if region is not None]
        if self.most is not None:
            largest = set(map(id, in_order(grown, RegionOrder.LARGEST)[: self.most]))
            grown = [region for region in grown if id(region) in largest]
        return in_order(grown, self.order)

    def metadata(self, regions: Sequence[DetailedRegion]) -> DetailMetadata:
        """What a picture's metadata say of the pass."""
        return DetailMetadata(
            boxes=tuple(region.box for region in regions if region.drawn),
            strength=self.strength,
            padding=self.padding,
            dilation=self.kernel,
            mask_blur=self.blur,
            detector=None if self.detector is None else self.detector.name,
            confidence=None if self.detector is None else self.detector.confidence,
        )


def detail_from_arguments(
    *,
    boxes: Any,
    masks: Any,
    detector: Any,
    strength: Any,
    padding: Any,
    dilation: Any,
    mask_blur: Any,
    order: Any,
    max_regions: Any,
) -> Detail:
    """Checks what the keywords of the pass say; they are those of ``Pipeline.detail``.

    Raises:
        RequestError: none or several of boxes, masks and detector, or a value that cannot be served.
    """
    given = [name for name, one in (("boxes", boxes), ("masks", masks), ("detector", detector)) if one is not None]
    if len(given) != 1:
        raise RequestError(
            f"got {' and '.join(given) or 'no regions'}, expected one of boxes, masks and detector; give one of them"
        )
    if detector is not None and not _is_detector(detector):
        raise RequestError(
            f"got detector {shown(detector)}, expected a latentrt.Detector; give latentrt.Detector('face.onnx')"
        )
    most = None if max_regions is None else whole(max_regions, "max_regions")
    if most is not None and most < 1:
        raise RequestError(f"got max_regions {most}, expected at least 1; raise it, or leave it out")
    pixels = whole(padding, "padding")
    if pixels < 0:
        raise RequestError(f"got padding {pixels}, expected a whole number of pixels from 0; give one")
    own = RegionOrder.GIVEN if detector is None else RegionOrder.LEFT_TO_RIGHT
    return Detail(
        boxes=boxes,
        masks=masks,
        detector=detector,
        strength=share(strength, "strength"),
        padding=pixels,
        kernel=kernel_from_argument(dilation),
        blur=blur_from_argument(mask_blur),
        order=choice_if_given(RegionOrder, order, "order") or own,
        most=most,
    )


def _is_detector(given: Any) -> bool:
    from latentrt.runtime.pictures.detail.detector import Detector  # loaded by those who have one

    return isinstance(given, Detector)
