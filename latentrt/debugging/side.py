"""One side of a comparison: a component on a backend, with tensors inside of it as results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from latentrt.debugging.parts import Feed, Part
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.errors import EngineError, RequestError
from latentrt.engines.graphs.quantization.recipe import check_recipe
from latentrt.engines.precision import Backend, check_computes
from latentrt.engines.store.store import compiled_folder

BACKENDS = (Backend.ORT_CPU, Backend.OPENVINO, Backend.ORT_CUDA, Backend.TENSORRT, Backend.TENSORRT_RTX)


class Shown(NamedTuple):
    """A Polygraphy runner, and what its results are called, by the tensors' names."""

    runner: Any
    names: Mapping[str, str]


class Side(Protocol):
    """A component on a backend."""

    @property
    def label(self) -> str:
        """What sentences call it."""
        ...

    @property
    def tensors(self) -> frozenset[str]:
        """The tensors that it can show."""
        ...

    def shown(self, tensors: Sequence[str], feeds: Sequence[Feed]) -> Shown:
        """Opens the component with some tensors as results, for inputs of these shapes.

        Raises:
            EngineError: the backend refuses the graph.
        """
        ...


def suspect_side(backend: Backend, part: Part, work: Path) -> Side:
    """A component as a backend computes it; ``ort-cpu`` stands in for a device that computes in sixteen bits.

    Args:
        backend: one of ``BACKENDS``.
        part: the component.
        work: a folder for graphs and engines, which stays until the side is done with.

    Raises:
        RequestError: another backend, or one that does not compute the component's precision or recipe.
        EngineError: it cannot run here.
    """
    if backend not in BACKENDS:
        raise RequestError(
            f"got backend {backend} to debug on, expected one of {', '.join(BACKENDS)}; choose one of these"
        )
    COMPILERS[backend].here()  # before any graph is made
    if backend is Backend.ORT_CPU:
        from latentrt.debugging.ort_sides import CompiledSide, rounded

        precision = part.sixteen_bits
        return CompiledSide(part, _compiled(part, work)) if precision is None else rounded(part, precision)
    check_computes(backend, part.precision)
    if part.component.record.quantization is not None:
        check_recipe(part.component.record.quantization.recipe, backend)
    if backend is Backend.OPENVINO:
        from latentrt.debugging.openvino_side import OpenVinoSide

        return OpenVinoSide(part, work)
    if backend is Backend.ORT_CUDA:
        from latentrt.debugging.ort_sides import on_cuda

        return on_cuda(part)
    from latentrt.debugging.tensorrt_side import TensorRTSide

    return TensorRTSide(part, backend, work)


def reference_side(backend: Backend, part: Part, work: Path) -> Side:
    """What a suspect is held against: on ``ort-cpu`` in fp32 and not optimised, on others as the suspect itself.

    Raises:
        RequestError: a backend that cannot be debugged on.
        EngineError: it cannot run here.
    """
    if backend is Backend.ORT_CPU:
        from latentrt.debugging.ort_sides import exact

        return exact(part)
    return suspect_side(backend, part, work)


def _compiled(part: Part, work: Path) -> Path:
    """The engine's folder; where the bundle has none for this machine, one that is compiled for this call."""
    compiler = COMPILERS[Backend.ORT_CPU]
    try:
        return compiled_folder(part.component, Backend.ORT_CPU)
    except EngineError:
        folder = work / "engine"
        folder.mkdir(exist_ok=True)
        compiler.compile(part.component, compiler.targets(())[0], folder, None)
        return folder
