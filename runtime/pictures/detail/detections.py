"""What a detector is given and what its output says: letterbox, layouts of outputs, non-maximum suppression.

The geometry, the layouts and the thresholds are those of ultralytics' exports of YOLO, as their documentation and their
exports' shapes have them.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from PIL import Image

from latentrt.engines.errors import EngineError
from latentrt.engines.spec import Array

MOST_DETECTIONS = 300
_MOST_CANDIDATES = 30_000  # that are compared with each other
_GREY = 114  # of the letterbox's bars, as in YOLO's training
_STRIDES = (8, 16, 32, 64)  # of the grids that anchors lie on; the last one in the largest models alone


@dataclass(frozen=True, kw_only=True)
class Letterbox:
    """How a picture lies in a detector's input: scaled by ``gain``, then moved by ``left`` and ``top`` pixels."""

    gain: float
    left: int
    top: int
    size: tuple[int, int]

    def source_boxes(self, boxes: Array) -> Array:
        """Boxes (N, 4) in the picture, as far as they lie in it, of those in the input."""
        shift, limit = np.array([self.left, self.top] * 2), np.array(self.size * 2)
        return np.asarray(np.clip((boxes - shift) / self.gain, 0.0, limit))


def letterboxed(picture: Image.Image, width: int, height: int) -> tuple[Array, Letterbox]:
    """A picture as large as it fits into a size, in the middle, with grey bars.

    Args:
        picture: RGB.
        width: of the input, in pixels.
        height: in pixels.

    Returns:
        (1, 3, height, width) float32 in [0, 1], and where the picture lies in it.
    """
    gain = min(height / picture.height, width / picture.width)
    inner = max(round(picture.width * gain), 1), max(round(picture.height * gain), 1)
    left, top = (math.floor((outer - side) / 2) for outer, side in zip((width, height), inner, strict=True))
    canvas = Image.new("RGB", (width, height), (_GREY,) * 3)
    resized = picture if picture.size == inner else picture.resize(inner, Image.Resampling.BILINEAR)
    canvas.paste(resized, (left, top))
    pixels = np.asarray(canvas, np.float32).transpose(2, 0, 1)[None] / np.float32(255.0)
    return np.ascontiguousarray(pixels), Letterbox(gain=gain, left=left, top=top, size=picture.size)


class Layout(StrEnum):
    """How a detector's output is laid out.

    Attributes:
        COLUMNS: (4 + classes, anchors): centre, width and height, scores of classes; YOLOv8, 9, 11 and 12.
        ROWS: the same, transposed.
        OBJECTNESS: (anchors, 5 + classes): with a score of there being anything before those of classes; YOLOv5 and 7.
        FINAL: (detections, 6): corners, score, class; exports with NMS, YOLOv10 and 26.
    """

    COLUMNS = "columns"
    ROWS = "rows"
    OBJECTNESS = "objectness"
    FINAL = "final"


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """What may have been found: boxes (N, 4) as corners in the input, scores (N,), and classes (N,) by number."""

    boxes: Array
    scores: Array
    classes: Array

    def of(self, chosen: Array) -> "Candidates":
        """Some of them, by index or by mask."""
        return Candidates(boxes=self.boxes[chosen], scores=self.scores[chosen], classes=self.classes[chosen])


def output_layout(shape: tuple[int, int], width: int, height: int, *, more: bool) -> Layout:
    """The layout of an output, told by its shape: raw outputs have a row for each anchor of their grids.

    Args:
        shape: of the output, without its batch.
        width: of the input, in pixels.
        height: in pixels.
        more: whether what is found has more to it than a box, such as a mask or points.

    Raises:
        EngineError: none that is known.
    """
    rows, columns = shape
    cells = [math.ceil(width / stride) * math.ceil(height / stride) for stride in _STRIDES]
    anchors = {sum(cells[:3]), sum(cells)}
    if columns in anchors and rows > 4:
        return Layout.COLUMNS
    if rows in {3 * count for count in anchors} and columns > 5:
        return Layout.OBJECTNESS
    if rows in anchors and columns > 4:
        return Layout.ROWS
    if columns == 6 or (more and columns > 6 and rows <= MOST_DETECTIONS):
        return Layout.FINAL
    raise EngineError(
        f"got a detector that answers {rows} x {columns} to a picture of {width}x{height}, expected YOLO's 4 + classes "
        f"x {min(anchors)}, {3 * min(anchors)} x 5 + classes, or, with NMS, detections x 6; export it with yolo export "
        "format=onnx"
    )


def candidates_from_output(output: Array, layout: Layout, classes: int | None) -> Candidates:
    """Everything that an output holds.

    Args:
        output: as the layout says, without its batch.
        layout: its layout.
        classes: how many there are; None takes what the output has room for. What comes behind them (masks, points) is
            not read.
    """
    if layout is Layout.FINAL:
        return Candidates(boxes=output[:, :4], scores=output[:, 4], classes=output[:, 5].astype(np.int64))
    rows = output.T if layout is Layout.COLUMNS else output
    first = 5 if layout is Layout.OBJECTNESS else 4
    of_classes = rows[:, first:] if classes is None else rows[:, first : first + classes]
    if layout is Layout.OBJECTNESS:
        of_classes = of_classes * rows[:, 4:5]
    centres, halves = rows[:, :2], rows[:, 2:4] / np.float32(2.0)
    return Candidates(
        boxes=np.concatenate([centres - halves, centres + halves], axis=1),
        scores=of_classes.max(axis=1),
        classes=of_classes.argmax(axis=1),
    )


def suppressed(found: Candidates, iou: float) -> Candidates:
    """The best of what overlaps, by score: greedy non-maximum suppression within each class.

    Args:
        found: any number.
        iou: boxes of one class that share more than this, intersection over union, are one.
    """
    found = found.of(np.argsort(-found.scores, kind="stable")[:_MOST_CANDIDATES])
    areas = _areas(found.boxes)
    left = np.ones(len(areas), np.bool_)
    kept: list[int] = []
    while left.any() and len(kept) < MOST_DETECTIONS:
        best = int(left.argmax())
        kept.append(best)
        low = np.maximum(found.boxes[best, :2], found.boxes[:, :2])
        high = np.minimum(found.boxes[best, 2:], found.boxes[:, 2:])
        shared = np.prod(np.clip(high - low, 0.0, None), axis=1)
        union = np.maximum(areas + areas[best] - shared, np.finfo(np.float32).tiny)
        left &= (shared / union <= iou) | (found.classes != found.classes[best])
        left[best] = False
    return found.of(np.array(kept, np.int64))


def _areas(boxes: Array) -> Array:
    return np.asarray(np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0.0, None), axis=1))
