"""Detectors: YOLO's outputs in all of their layouts, the letterbox, and what overlaps, against loops."""

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image
from tiny_detectors import NAMES, save_detector

import latentrt
from latentrt.engines.errors import EngineError, LatentrtError, RequestError
from latentrt.runtime.pictures.detail.detections import (
    Candidates,
    Layout,
    candidates_from_output,
    letterboxed,
    output_layout,
    suppressed,
)

RED, BLUE = (48, 16, 96, 64), (16, 80, 32, 96)  # in a picture of 128x96, on the cells of what it is shrunk to


@pytest.fixture(scope="module")
def detector_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A detector's file of a layout."""
    folder = tmp_path_factory.mktemp("detectors")

    def saved(layout: str = "columns", **options: Any) -> Path:
        return save_detector(folder / f"{layout}-{len(list(folder.iterdir()))}.onnx", layout, **options)

    return saved


@pytest.fixture
def picture() -> Image.Image:
    """A large red patch and a small blue one."""
    image = Image.new("RGB", (128, 96), "white")
    image.paste((255, 0, 0), RED)
    image.paste((0, 0, 255), BLUE)
    return image


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        ("columns", {}),
        ("columns", {"half": True}),
        ("columns", {"dynamic": True, "metadata": {"names": "['red', 'blue']", "imgsz": "[64, 64]"}}),
        ("rows", {}),
        ("objectness", {}),
        ("final", {}),
    ],
    ids=["columns", "half", "dynamic", "rows", "objectness", "final"],
)
def test_finds_patches_where_they_are(
    detector_file: Callable[..., Path], picture: Image.Image, layout: str, options: dict[str, Any]
) -> None:
    """In the picture's own pixels, the surest first; as PIL and as an array; elsewhere as the patches move."""
    detector = latentrt.Detector(detector_file(layout, **options), confidence=0.4)
    assert detector.classes == ("red", "blue")
    for shift in (0, 16):
        moved = Image.new("RGB", picture.size, "white")
        moved.paste(picture, (shift, 0))
        found = detector(moved)
        assert {one.label for one in found} == {"red", "blue"}
        assert list(found) == sorted(found, key=lambda one: -one.score)
        for one in found:
            target = RED if one.label == "red" else BLUE
            middle = (one.box[0] + one.box[2]) / 2 - shift, (one.box[1] + one.box[3]) / 2
            assert target[0] <= middle[0] <= target[2]
            assert target[1] <= middle[1] <= target[3]
            assert 0.4 < one.score <= 1.001
        assert detector(np.asarray(moved)) == found


def test_classes_and_confidence(detector_file: Callable[..., Path], picture: Image.Image) -> None:
    """By name or number; nothing is found in an empty picture."""
    for classes in ("blue", 1, ["blue"], [1, "blue"]):
        found = latentrt.Detector(detector_file(), classes=classes)(picture)
        assert {one.label for one in found} == {"blue"}
    assert latentrt.Detector(detector_file(), classes=[])(picture) == ()
    detector = latentrt.Detector(detector_file(), confidence=1.0)
    assert detector(picture) == ()
    assert latentrt.Detector(detector_file())(Image.new("RGB", (10, 300))) == ()
    nameless = latentrt.Detector(detector_file(metadata={}), classes=0)
    assert (nameless.classes, {one.label for one in nameless(picture)}) == ((), {"0"})


def test_threads_share_it_and_it_travels(detector_file: Callable[..., Path], picture: Image.Image) -> None:
    """Pickled, it opens its file again with its settings."""
    detector = latentrt.Detector(detector_file(), confidence=0.5, classes="red", threads=1)
    expected = detector(picture)
    assert expected
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: detector(picture), range(8))) == {expected}
    assert pickle.loads(pickle.dumps(detector))(picture) == expected


def test_the_letterbox_is_ultralytics() -> None:
    """Gains and bars for sizes at random, against the formulas of its ``LetterBox`` and ``scale_boxes``."""
    random = np.random.default_rng(4)
    for _ in range(200):
        (w, h), (width, height) = random.integers(1, 300, 2).tolist(), (random.integers(1, 9, 2) * 32).tolist()
        pixels, box = letterboxed(Image.new("RGB", (w, h), (255, 0, 0)), width, height)
        gain = min(height / h, width / w)
        new = round(w * gain), round(h * gain)
        if 0 in new:  # one pixel of it is shown here
            continue
        dw, dh = (width - new[0]) / 2, (height - new[1]) / 2
        left, top = round(dw - 0.1), round(dh - 0.1)
        assert (box.gain, box.left, box.top) == (gain, left, top)
        expected = np.full((3, height, width), 114 / 255, np.float32)
        expected[:, top : top + new[1], left : left + new[0]] = np.array([1, 0, 0])[:, None, None]
        np.testing.assert_array_equal(pixels[0], expected)
        corners = random.uniform(-10, 310, (5, 4))
        back = np.stack([(corners[:, i] - (left, top)[i % 2]) / gain for i in range(4)], axis=1)
        back[:, 0::2], back[:, 1::2] = back[:, 0::2].clip(0, w), back[:, 1::2].clip(0, h)
        np.testing.assert_allclose(box.source_boxes(corners), back)


def overlap(one: Any, other: Any) -> float:
    """Intersection over union of two boxes."""
    width = max(min(one[2], other[2]) - max(one[0], other[0]), 0.0)
    height = max(min(one[3], other[3]) - max(one[1], other[1]), 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return float(width * height / (sum(areas) - width * height))


@pytest.mark.parametrize("iou", [0.0, 0.3, 0.7, 1.0])
def test_suppression_is_greedy(iou: float) -> None:
    """Against a loop over pairs; classes do not suppress each other."""
    random = np.random.default_rng(1)
    corners = random.uniform(0, 40, (120, 2))
    boxes = np.concatenate([corners, corners + random.uniform(1, 25, (120, 2))], axis=1).astype(np.float32)
    found = Candidates(boxes=boxes, scores=random.uniform(size=120), classes=random.integers(0, 3, 120))
    kept: list[int] = []
    for index in np.argsort(-found.scores).tolist():
        if all(
            found.classes[index] != found.classes[other] or overlap(boxes[index], boxes[other]) <= iou for other in kept
        ):
            kept.append(index)
    result = suppressed(found, iou)
    np.testing.assert_array_equal(result.scores, found.scores[kept])
    np.testing.assert_array_equal(result.boxes, boxes[kept])
    assert len(kept) < 120 or iou == 1.0


@pytest.mark.parametrize(
    ("shape", "size", "more", "layout"),
    [
        ((84, 8400), (640, 640), False, Layout.COLUMNS),  # yolov8n
        ((5, 8400), (640, 640), False, Layout.COLUMNS),  # face_yolov8n
        ((116, 8400), (640, 640), True, Layout.COLUMNS),  # yolov8n-seg
        ((20, 8400), (640, 640), True, Layout.COLUMNS),  # yolov8n-face, a pose model
        ((84, 6300), (640, 480), False, Layout.COLUMNS),
        ((8400, 84), (640, 640), False, Layout.ROWS),
        ((25200, 85), (640, 640), False, Layout.OBJECTNESS),  # yolov5s
        ((25200, 6), (640, 640), False, Layout.OBJECTNESS),  # a yolov5 of one class
        ((102000, 85), (1280, 1280), False, Layout.OBJECTNESS),  # yolov5s6
        ((300, 6), (640, 640), False, Layout.FINAL),  # nms=True, yolov10n, yolo26n
        ((0, 6), (640, 640), False, Layout.FINAL),
        ((300, 38), (640, 640), True, Layout.FINAL),  # yolo26n-seg
    ],
)
def test_layouts_are_told_by_their_shapes(
    shape: tuple[int, int], size: tuple[int, int], more: bool, layout: Layout
) -> None:
    """Those of real exports."""
    assert output_layout(shape, *size, more=more) is layout


@pytest.mark.parametrize("layout", Layout)
def test_outputs_are_read_as_written(layout: Layout) -> None:
    """Box by box, against a loop; masks behind the classes are not scores."""
    random = np.random.default_rng(2)
    rows = random.uniform(0, 1, (30, {Layout.OBJECTNESS: 12, Layout.FINAL: 6}.get(layout, 11))).astype(np.float32)
    found = candidates_from_output(rows.T if layout is Layout.COLUMNS else rows, layout, 3)
    for index, row in enumerate(rows.tolist()):
        if layout is Layout.FINAL:
            expected = row[:4], row[4], int(row[5])
        else:
            x, y, w, h = row[:4]
            scores = [row[4] * score for score in row[5:8]] if layout is Layout.OBJECTNESS else row[4:7]
            expected = [x - w / 2, y - h / 2, x + w / 2, y + h / 2], max(scores), scores.index(max(scores))
        np.testing.assert_allclose(found.boxes[index], expected[0], rtol=1e-5)
        assert found.scores[index] == pytest.approx(expected[1], rel=1e-5)
        assert found.classes[index] == expected[2]


def save_other(path: Path, inputs: list[int], output: list[int]) -> Path:
    """A graph that answers zeros of a shape to anything."""
    shape = helper.make_node(
        "Constant", [], ["shape"], value=helper.make_tensor("", TensorProto.INT64, [len(output)], output)
    )
    graph = helper.make_graph(
        [shape, helper.make_node("ConstantOfShape", ["shape"], ["answer"])],
        "other",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, inputs)],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, output)],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return path


def test_refusals(detector_file: Callable[..., Path], picture: Image.Image, tmp_path: Path) -> None:
    """Each in a sentence: no file, no ONNX, no detector, no class, no number."""
    good, text = detector_file(), tmp_path / "face.pt"
    text.write_bytes(b"PK\3\4 a checkpoint")
    wide = save_other(tmp_path / "wide.onnx", [1, 64, 64, 3], [1, 6, 84])
    refused: list[tuple[str, Callable[[], Any]]] = [
        ("which is no file; check the path", lambda: latentrt.Detector(tmp_path / "absent.onnx")),
        ("which is no file", lambda: latentrt.Detector(tmp_path)),
        ("got detector 5, expected the path", lambda: latentrt.Detector(5)),  # type: ignore[arg-type]
        ("yolo export model=FILE.pt format=onnx", lambda: latentrt.Detector(text)),
        ("with inputs input (1, 64, 64, 3) float", lambda: latentrt.Detector(wide)),
        ("got class 'rot'", lambda: latentrt.Detector(good, classes="rot")),
        ("one such as red", lambda: latentrt.Detector(good, classes=["redd"])),
        ("got class 7", lambda: latentrt.Detector(good, classes=7)),
        ("a number: the file has no names", lambda: latentrt.Detector(detector_file(metadata={}), classes="red")),
        ("got confidence 30", lambda: latentrt.Detector(good, confidence=30)),
        ("got threads 0", lambda: latentrt.Detector(good, threads=0)),
        ("expected a PIL picture or an array", lambda: latentrt.Detector(good)("cat.png")),  # type: ignore[arg-type]
    ]
    for output in ([1, 7, 100], [4, 7], [1, 2, 3, 4]):
        other = save_other(tmp_path / f"{len(output)}.onnx", [1, 3, 64, 64], output)
        words = (
            "detector that answers 7 x 100" if output[1:] == [7, 100] else f"answers ({', '.join(map(str, output))})"
        )
        refused.append((words, lambda other=other: latentrt.Detector(other)(picture)))  # type: ignore[misc]
    for words, call in refused:
        with pytest.raises(LatentrtError) as refusal:
            call()
        assert words in str(refusal.value)
        assert isinstance(refusal.value, (RequestError, EngineError))


@pytest.mark.parametrize("names", ["{0: 'face'", "__import__('os')", "7", "(" * 5000, "{'a': 'b'}", "x" * 300_000])
def test_odd_metadata_are_no_names(detector_file: Callable[..., Path], picture: Image.Image, names: str) -> None:
    """Numbers stand for them."""
    detector = latentrt.Detector(detector_file(metadata={"names": names, "imgsz": names}))
    assert detector.classes == ()
    assert {one.label for one in detector(picture)} == set(map(str, NAMES))
