"""An ONNX file as an upscaler's graph: its input and output checked and named, its sizes freed; tried on pictures."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.engines.backends.ort_cpu.compile import open_onnx
from latentrt.engines.backends.ort_cpu.model import onnxruntime_module
from latentrt.engines.bundle.checks.parity import psnr
from latentrt.engines.bundle.checks.photograph import picture_pixels
from latentrt.engines.bundle.records.manifests.upscaler_manifest import ENLARGED, PICTURE, SCALED_HEIGHT, SCALED_WIDTH
from latentrt.engines.errors import CheckpointError, EngineError
from latentrt.engines.graphs.editor import GraphEditor, load_graph, save_with_weights
from latentrt.engines.shapes import Profile
from latentrt.engines.spec import Array

if TYPE_CHECKING:
    import onnx_ir as ir

EXPECTED = (
    "an upscaler: one input of floats (1, 3, height, width) in [0, 1] and one output, larger by a whole number on both "
    "sides"
)
_MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
_TRIED = 48  # pixels of a side, about, of the pictures that a graph is tried with
_LEAST_LIKENESS = 10.0  # dB of PSNR between a picture and its enlargement, shrunk again; a plain grey has as much
_MOST_SCALE = 16
_SILENT = 4  # ONNX Runtime's log severity


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a graph takes, as it showed on pictures.

    Attributes:
        scale: how many pixels a side of one becomes.
        multiple: what the sides of pictures must be multiples of.
        only: the one size that it takes; None for every size.
    """

    scale: int
    multiple: int
    only: Profile | None = None


def read_onnx(path: Path) -> "ir.Model":
    """An ONNX file's graph, of which one input and one output are as an upscaler's.

    Raises:
        CheckpointError: it is damaged, names files elsewhere, or is something else.
    """
    try:
        with _silence():
            model = load_graph(path)
        places = [tensor for value in model.graph.initializers.values() if (tensor := _external(value)) is not None]
    except ImportError:
        raise
    except Exception as error:  # protobuf's and onnx_ir's share no base
        kind = f"which is cut short or no ONNX model ({_first_line(error)})"
        raise _refused(path, kind, "download it again") from error
    for tensor in places:
        location = Path(str(tensor.location))
        if location.is_absolute() or ".." in location.parts or not (path.parent / location).is_file():
            raise _refused(
                path,
                f"whose weights are said to be in {str(location)[:120]!r}, where they are not or must not be",
                "put the file of weights beside it",
            )
    _check_tensors(path, model.graph)
    return model


def files_of(path: Path, model: "ir.Model") -> list[Path]:
    """The file, and those that hold its weights."""
    tensors = (_external(value) for value in model.graph.initializers.values())
    return [path, *sorted({path.parent / str(tensor.location) for tensor in tensors if tensor is not None})]


def declared_size(model: "ir.Model") -> Profile | None:
    """Width and height that its input has, where these are numbers."""
    height, width = _dimensions(model.graph.inputs[0])[2:]
    if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0:
        return Profile(width=width, height=height)
    return None


def holds_half(model: "ir.Model") -> bool:
    """Whether most of its weights are fp16."""
    import onnx_ir as ir

    sizes = {ir.DataType.FLOAT: 0, ir.DataType.FLOAT16: 0}
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.dtype in sizes:
            sizes[value.dtype] += value.const_value.size
    return sizes[ir.DataType.FLOAT16] > sizes[ir.DataType.FLOAT]


def write_graph(source: Path, path: Path) -> Sizes:
    """Writes a graph that takes every size, if it can, under our names, and tries it.

    Args:
        source: the file, which was read before.
        path: where the graph is written, with its weights beside it.

    Raises:
        CheckpointError: pictures show that it is no upscaler.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    declared = declared_size(read_onnx(source))
    _rewrite(source, path, ("height", "width"), (SCALED_HEIGHT, SCALED_WIDTH))
    sizes, fault = _tried(path, [(multiple, _trial(multiple)) for multiple in _MULTIPLES])
    if sizes is None and declared is not None:
        sizes, fault = _tried(path, [(1, declared)])
        if sizes is not None:
            larger = (declared.height * sizes.scale, declared.width * sizes.scale)
            _rewrite(source, path, (declared.height, declared.width), larger)
            sizes = Sizes(scale=sizes.scale, multiple=1, only=declared)
    if sizes is None:
        raise _refused(source, f"which does not enlarge pictures ({fault})", "choose an upscaler")
    return sizes


def answer(path: Path, picture: Array) -> Array:
    """What a graph of ours makes of a picture, on the CPU, not optimised.

    Raises:
        EngineError: ONNX Runtime refuses the graph or fails.
    """
    model = open_onnx(path)
    try:
        return _run(model.session, picture)
    finally:
        model.close()


def _tried(path: Path, trials: Sequence[tuple[int, Profile]]) -> tuple[Sizes | None, str]:
    """What a graph takes by the first trial that it stands, or what was wrong with the last."""
    fault = "it was not run"
    try:
        model = open_onnx(path)
    except EngineError as error:
        return None, _first_line(error)
    try:
        for multiple, size in trials:
            picture = picture_pixels(size)
            try:
                result = _run(model.session, picture)
            except EngineError as error:
                fault = str(error)
                continue
            scale = result.shape[2] // size.height if result.ndim == 4 else 0
            if result.shape != (1, 3, size.height * scale, size.width * scale) or not 1 <= scale <= _MOST_SCALE:
                fault = f"a picture {picture.shape} became {result.shape}"
                continue
            blocks = result.reshape(3, size.height, scale, size.width, scale)
            likeness = psnr(blocks.mean((2, 4)), picture[0], peak=1.0)
            if not likeness >= _LEAST_LIKENESS:  # not so with NaN, either
                fault = f"its result is another picture, {likeness:.0f} dB from what it was given"
                continue
            return Sizes(scale=scale, multiple=multiple), ""
    finally:
        model.close()
    return None, fault


def _trial(multiple: int) -> Profile:
    """A size that is a multiple of this, and of nothing larger that is tried."""
    units = -(-_TRIED // multiple) | 1
    return Profile(width=(units + 2) * multiple, height=units * multiple)


def _run(session: Any, picture: Array) -> Array:
    options = onnxruntime_module().RunOptions()
    options.log_severity_level = _SILENT  # a size that a graph does not take is no error here
    try:
        return np.asarray(session.run([ENLARGED], {PICTURE: picture}, options)[0], np.float32)
    except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
        raise EngineError(f"ONNX Runtime failed: {_first_line(error)}") from error


def _check_tensors(path: Path, graph: "ir.Graph") -> None:
    """Compares input and output with an upscaler's, as far as they are declared."""
    import onnx_ir as ir

    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    sides = f"inputs {_told(inputs)} and outputs {_told(graph.outputs)}"
    fits = len(inputs) == len(graph.outputs) == 1
    for value in (*inputs, *graph.outputs):
        channels = _dimensions(value)[1] if len(_dimensions(value)) == 4 else None
        fits = fits and value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16)
        fits = fits and len(_dimensions(value)) == 4 and (channels == 3 or not isinstance(channels, int))
    if fits and isinstance(first := _dimensions(inputs[0])[0], int):
        fits = first == 1
    if not fits:
        raise _refused(path, f"an ONNX model with {sides}", "of another model give the checkpoint that it was made of")


def _rewrite(source: Path, path: Path, size: tuple[int | str, int | str], larger: tuple[int | str, int | str]) -> None:
    """Writes a file's graph under our names, with its sizes as they are said to be.

    Raises:
        CheckpointError: it is damaged, as its parts do not go together.
    """
    model = read_onnx(source)
    try:
        with _silence():
            _name(model, size, larger)
            save_with_weights(model, path)
    except OSError:
        raise
    except Exception as error:  # onnx_ir's share no base
        kind = f"an ONNX model whose parts do not go together ({_first_line(error)})"
        raise _refused(source, kind, "download it again") from error


def _name(model: "ir.Model", size: tuple[int | str, int | str], larger: tuple[int | str, int | str]) -> None:
    """Gives input and output our names, floats of 32 bits, and sizes; what was known of sizes between them goes."""
    import onnx_ir as ir

    graph = model.graph
    for node in graph.all_nodes():
        for value in node.outputs:
            value.shape = None
    for value in list(graph.inputs):  # older files list their weights among the inputs
        if value.name in graph.initializers:
            graph.inputs.remove(value)
    for value in [value for node in graph.all_nodes() for value in node.outputs]:
        if value.name in (PICTURE, ENLARGED):
            value.name = f"{value.name}.inside"
    editor = GraphEditor(graph)
    given, result = graph.inputs[0], graph.outputs[0]
    given.name = PICTURE if given.dtype is ir.DataType.FLOAT else f"{PICTURE}.half"
    result.name = ENLARGED if result.dtype is ir.DataType.FLOAT else f"{ENLARGED}.half"
    if given.dtype is not ir.DataType.FLOAT:
        picture = ir.Value(name=PICTURE, type=ir.TensorType(ir.DataType.FLOAT))
        graph.inputs[0] = picture
        cast = editor.before(next(iter(graph)), PICTURE).add("Cast", picture, to=ir.DataType.FLOAT16)
        cast.dtype = ir.DataType.FLOAT16
        editor.rewire(given, cast)
        given = picture
    if result.dtype is not ir.DataType.FLOAT:
        cast = editor.after(result, ENLARGED).add("Cast", result, to=ir.DataType.FLOAT)
        cast.name, cast.dtype = ENLARGED, ir.DataType.FLOAT
        graph.outputs[0] = result = cast
    given.shape, result.shape = ir.Shape([1, 3, *size]), ir.Shape([1, 3, *larger])


@contextmanager
def _silence() -> Iterator[None]:
    """Keeps onnx_ir from logging what is wrong with a graph: a refusal says it."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _dimensions(value: "ir.Value") -> list[int | str | None]:
    if value.shape is None:
        return []
    return [size if isinstance(size, int) else getattr(size, "value", None) for size in value.shape]


def _told(values: Sequence["ir.Value"]) -> str:
    texts = (
        f"{value.name} ({', '.join('?' if size is None else str(size) for size in _dimensions(value))}) "
        f"{'unknown' if value.dtype is None else value.dtype.name.lower()}"
        for value in values
    )
    return ", ".join(texts)[:300] or "none"


def _external(value: "ir.Value") -> Any:
    import onnx_ir as ir

    return value.const_value if isinstance(value.const_value, ir.ExternalTensor) else None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _refused(path: Path, kind: str, advice: str) -> CheckpointError:
    return CheckpointError(f"got {str(path)!r}, {kind}, expected {EXPECTED}; {advice}")
