"""``Detector``: finds faces, hands or anything else in a picture with an ONNX file of the user's."""

import ast
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from latentrt.engines.backends.ort_cpu.onnx_file import OnnxFile
from latentrt.engines.errors import EngineError, RequestError, shown
from latentrt.engines.spec import Array
from latentrt.runtime.checks import share, whole
from latentrt.runtime.pictures.arrays import rgb_array
from latentrt.runtime.pictures.detail.detections import (
    MOST_DETECTIONS,
    Layout,
    candidates_from_output,
    letterboxed,
    output_layout,
    suppressed,
)
from latentrt.runtime.pictures.image import Picture, images_from_pixels, rgb_from_image

_REMEDY = "export the detector with yolo export model=FILE.pt format=onnx"
_SIZE = 640  # of an input that leaves its size open and has no imgsz
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_LONGEST_NAMES = 200_000  # characters
_TASKS = ("segment", "pose")  # whose detections have more than a box


@dataclass(frozen=True, kw_only=True)
class Detection:
    """What was found: its box (left, top, right, bottom) in the picture's pixels, how surely, and as what."""

    box: tuple[float, float, float, float]
    score: float
    label: str


class Detector:
    """A detector: an ONNX file as ultralytics exports YOLO, raw or with NMS. Runs on the CPU.

    Threads may share one; pickled, it is the file's path and the settings.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        confidence: float = 0.3,
        iou: float = 0.7,
        classes: str | int | Sequence[str | int] | None = None,
        threads: int | None = None,
    ) -> None:
        """Opens the file.

        Args:
            path: the ONNX file.
            confidence: what is found less surely, 0 to 1, does not count. ADetailer's is 0.3.
            iou: boxes of a class that overlap more than this, 0 to 1, are one; not for files with NMS in them.
            classes: what to look for, by the file's names or by number; None: everything.
            threads: None takes one per core.

        Raises:
            RequestError: no such file or class, or a number out of range.
            EngineError: a file that is no detector.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise RequestError(f"got detector {shown(path)}, expected the path of an ONNX file; give one")
        self.path = Path(path)
        self.confidence, self._iou = share(confidence, "confidence"), share(iou, "iou")
        threads = None if threads is None else whole(threads, "threads")
        if threads is not None and threads < 1:
            raise RequestError(f"got threads {threads}, expected at least 1; raise it")
        self._file = OnnxFile(self.path, threads, "detector", _REMEDY)
        self._type = self._input_type()
        self._names = _names(self._file.metadata.get("names", ""))
        self._wanted = None if classes is None else self._numbers(classes)

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes; none where the file does not tell them."""
        return tuple(self._names.values())

    def __call__(self, image: Picture) -> tuple[Detection, ...]:
        """What is in a picture, the surest first.

        Args:
            image: PIL, or an array as ``Pipeline.img2img`` takes it.

        Raises:
            RequestError: no picture.
            EngineError: an output in a layout that nobody knows.
        """
        pil = image if isinstance(image, Image.Image) else images_from_pixels(rgb_array(image)[None])[0]
        width, height = self._size()
        pixels, box = letterboxed(rgb_from_image(pil), width, height)
        outputs = self._file.run({self._file.inputs[0].name: pixels.astype(self._type)})
        output = self._boxes_of(outputs)
        layout = output_layout(output.shape, width, height, more=self._file.metadata.get("task") in _TASKS)
        found = candidates_from_output(output, layout, self._count(outputs, output, layout))
        chosen = found.scores > self.confidence
        if self._wanted is not None:
            chosen &= np.isin(found.classes, self._wanted)
        found = found.of(chosen & np.isfinite(found.boxes).all(axis=1))
        if layout is Layout.FINAL:
            found = found.of(np.argsort(-found.scores, kind="stable")[:MOST_DETECTIONS])
        else:
            found = suppressed(found, self._iou)
        boxes = box.source_boxes(found.boxes)
        return tuple(
            Detection(box=(left, top, right, bottom), score=score, label=self._label(number))
            for (left, top, right, bottom), score, number in zip(
                boxes.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True
            )
            if left < right and top < bottom
        )

    def _input_type(self) -> Any:
        """The type of the one input.

        Raises:
            EngineError: other inputs than one picture.
        """
        inputs = self._file.inputs
        shape = inputs[0].shape if len(inputs) == 1 else ()
        if len(shape) != 4 or shape[0] not in (1, None) or shape[1] != 3 or inputs[0].type not in _TYPES:
            raise EngineError(
                f"got detector {self.name!r} with inputs {', '.join(map(str, inputs))}, expected one of (1, 3, height, "
                f"width) in float or float16; {_REMEDY}"
            )
        return _TYPES[inputs[0].type]

    def _size(self) -> tuple[int, int]:
        """Width and height of the input: the file's, or what it was exported for."""
        height, width = self._file.inputs[0].shape[2:]
        if height is None or width is None:
            told = _literal(self._file.metadata.get("imgsz", ""))
            if isinstance(told, list) and len(told) == 2 and all(isinstance(one, int) and one > 0 for one in told):
                return width or min(told[1], 4096), height or min(told[0], 4096)
        return width or _SIZE, height or _SIZE

    def _boxes_of(self, outputs: Sequence[Array]) -> Array:
        """The output with the boxes, in float32 and without its batch.

        Raises:
            EngineError: none of three dimensions.
        """
        for output in outputs:
            if output.ndim == 3 and output.shape[0] == 1 and np.issubdtype(output.dtype, np.floating):
                return np.asarray(output[0], np.float32)
        shapes = ", ".join(str(output.shape) for output in outputs)
        raise EngineError(f"got detector {self.name!r} that answers {shapes}, expected (1, rows, columns); {_REMEDY}")

    def _count(self, outputs: Sequence[Array], output: Array, layout: Layout) -> int | None:
        """How many classes there are; of files that do not tell, what masks leave."""
        if self._names:
            return max(self._names) + 1
        masks = [one.shape[1] for one in outputs if one.ndim == 4]
        if masks and layout is not Layout.FINAL:
            return min(map(int, output.shape)) - 4 - int(masks[0]) - (layout is Layout.OBJECTNESS)
        return None

    def _label(self, number: int) -> str:
        return self._names.get(number, str(number))

    def _numbers(self, classes: Any) -> list[int]:
        """The numbers of classes.

        Raises:
            RequestError: one that the file does not have.
        """
        given = [classes] if isinstance(classes, (str, int)) else list(classes)
        by_name = {name: number for number, name in self._names.items()}
        numbers = []
        for one in given:
            number = by_name.get(one) if isinstance(one, str) else whole(one, "classes")
            if number is None or number < 0 or (self._names and number not in self._names):
                some = list(map(str, get_close_matches(str(one), by_name, 3) or list(by_name)[:8]))
                expected = f"one such as {', '.join(some)}" if some else "a number: the file has no names"
                raise RequestError(f"got class {one!r} for detector {self.name!r}, expected {expected}; correct it")
            numbers.append(number)
        return numbers


def _names(text: str) -> dict[int, str]:
    """The names of classes as ultralytics writes them: ``{0: 'face'}``, or a list."""
    told = _literal(text)
    pairs = enumerate(told) if isinstance(told, list) else told.items() if isinstance(told, dict) else ()
    return {number: str(name)[:100] for number, name in pairs if isinstance(number, int) and 0 <= number < 100_000}


def _literal(text: str) -> Any:
    """Python's literal in a text; None of any other."""
    with suppress(Exception):  # whatever a file holds there
        return ast.literal_eval(text) if len(text) <= _LONGEST_NAMES else None
    return None
