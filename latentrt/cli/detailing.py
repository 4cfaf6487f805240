"""``latentrt detail``: where the regions are, from options."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentrt.engines.errors import RequestError


def regions_from_options(
    boxes: Sequence[str],
    masks: Sequence[Path],
    detector: Path | None,
    confidence: float | None,
    classes: str | None,
    threads: int | None,
) -> dict[str, Any]:
    """The keywords of ``Pipeline.detail`` that say where the regions are.

    Args:
        boxes: each as LEFT,TOP,RIGHT,BOTTOM.
        masks: picture files.
        detector: an ONNX file.
        confidence: below which what it finds does not count; None: its own default.
        classes: what it looks for, with commas between; None: everything.
        threads: of a run of it.

    Raises:
        LatentrtError: none or several of the three, or one that cannot be read.
    """
    given = [name for name, one in (("--box", boxes), ("--mask", masks), ("--detector", detector)) if one]
    if len(given) != 1:
        raise RequestError(
            f"got {' and '.join(given) or 'no regions'}, expected one of --box, --mask and --detector; give one of them"
        )
    if detector is None:
        beside = [name for name, one in (("--confidence", confidence), ("--classes", classes)) if one is not None]
        if beside:
            raise RequestError(f"got {' and '.join(beside)} without --detector; give one, or leave it out")
    if boxes:
        return {"boxes": [_box(text) for text in boxes]}
    if masks:
        from latentrt.runtime.pictures.image import read_image

        return {"masks": [read_image(path) for path in masks]}
    from latentrt.runtime.pictures.detail.detector import Detector

    assert detector is not None  # as one of the three is given; for the type checker
    wanted: dict[str, Any] = {} if confidence is None else {"confidence": confidence}
    if classes is not None:
        names = [name.strip() for name in classes.split(",")]
        wanted["classes"] = [int(name) if name.isdecimal() else name for name in names]
    return {"detector": Detector(detector, threads=threads, **wanted)}


def tell_regions(result: Any) -> None:
    """Says which regions were drawn, one line for each picture."""
    from latentrt.cli.terminal import tell

    for regions in result.regions:
        told = [
            f"{f'{one.label} ({one.score:.0%}) ' if one.score is not None else ''}{','.join(map(str, one.box))}"
            for one in regions
            if one.drawn
        ]
        if told:
            tell(f"drew {'; '.join(told)}")


def _box(text: str) -> tuple[float, ...]:
    try:
        box = tuple(float(part) for part in text.split(","))
    except ValueError:
        box = ()
    if len(box) != 4:
        raise RequestError(
            f"got --box {text!r}, expected LEFT,TOP,RIGHT,BOTTOM in pixels, such as 100,40,180,120; correct it"
        )
    return box
