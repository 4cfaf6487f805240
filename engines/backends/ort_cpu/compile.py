"""Optimises a graph for this CPU and packs its weights."""

import re
from pathlib import Path

from latentrt.engines.backends.ort_cpu.model import (
    DATA_FILE,
    MODEL_FILE,
    OrtCpuModel,
    onnxruntime_module,
    open_session,
    session_options,
)
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import Planes
from latentrt.engines.bundle.unet.structure import UnetStructure
from latentrt.engines.graphs.attention import fuse_attention
from latentrt.engines.graphs.editor import load_graph, serialized
from latentrt.engines.graphs.group_norm import GroupNorm, replace_group_norms
from latentrt.engines.graphs.quantization.attention import multiply_rounded
from latentrt.engines.graphs.rounded_results import round_results
from latentrt.engines.graphs.variants.variant import add_inputs
from latentrt.engines.machine import available_memory
from latentrt.engines.shapes import AddedInputs

_EXTERNAL_FROM = 65536  # bytes; smaller tensors, odd-sized masks among them, stay in the graph
_ALIGNMENT = 64  # bytes: one AVX-512 register, one cache line
_PACKING_PEAK = 4  # times the weights in fp32: SD 2.1's U-Net took 12.9 GB


def memory_to_optimise(parameters: int) -> bool:
    """Whether enough memory is free to optimise a graph with so many weights."""
    return _PACKING_PEAK * 4 * parameters <= available_memory()


def compile_onnx(
    onnx: Path,
    folder: Path,
    parameters: int = 0,
    *,
    group_norm: GroupNorm = GroupNorm.FAST,
    added_to: UnetStructure | None = None,
) -> bool:
    """Optimises ``onnx`` for this machine into ``folder``: a graph and one file of packed weights.

    Args:
        onnx: the graph.
        folder: exists and is empty.
        parameters: how many weights it has; with too many for the memory that is free, nothing is optimised.
        group_norm: how group norms are computed.
        added_to: the structure of a U-Net that shall take every one of the ``AddedInputs``.

    Returns:
        Whether it was optimised.

    Raises:
        EngineError: ONNX Runtime refuses the graph or cannot write the result.
    """
    graph = rewritten_graph(onnx, group_norm, fuses=True, added_to=added_to)
    if not memory_to_optimise(parameters):
        _save_optimised(onnx, graph, folder, prepacked=False, optimised=False)
        return False
    _save_optimised(onnx, graph, folder, prepacked=True)
    if not _packing_aligned(folder / MODEL_FILE):
        _save_optimised(onnx, graph, folder, prepacked=False)
    return True


def _save_optimised(onnx: Path, graph: bytes | None, folder: Path, *, prepacked: bool, optimised: bool = True) -> None:
    levels = onnxruntime_module().GraphOptimizationLevel
    options = session_options(levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL, None, packs=optimised)
    options.optimized_model_filepath = str(folder / MODEL_FILE)
    for key, value in {
        "session.optimized_model_external_initializers_file_name": DATA_FILE,
        "session.optimized_model_external_initializers_min_size_in_bytes": str(_EXTERNAL_FROM),
        "session.save_external_prepacked_constant_initializers": str(int(prepacked)),
    }.items():
        options.add_session_config_entry(key, value)
    open_session(onnx, options, "compile", f"check that {str(folder.parent)!r} has space", graph=graph)
    (folder / DATA_FILE).touch()  # a graph without large weights writes none


def _packing_aligned(model: Path) -> bool:
    """Whether every packed weight lies where the kernels may load it.

    ONNX Runtime 1.31 writes tensors one behind the other without padding and maps packed weights as they
    lie; behind a tensor of odd size its aligned loads end the process. The graph stores each packed weight's
    place as text: ``kernel+hash|offset;length;…``.
    """
    places = re.findall(rb"\+\d+\|(\d+);\d+;", model.read_bytes())
    return all(int(offset) % _ALIGNMENT == 0 for offset in places)


def group_norm_of(component: Component) -> GroupNorm:
    """How a component's group norms are computed."""
    return GroupNorm.EXACT if component.kind.planes is Planes.PICTURE else GroupNorm.FAST


def open_onnx(onnx: Path, group_norm: GroupNorm = GroupNorm.FAST) -> OrtCpuModel:
    """Opens a graph that was not compiled, for a few runs: its weights are mapped and not packed.

    Raises:
        EngineError: the session cannot be created.
    """
    level = onnxruntime_module().GraphOptimizationLevel.ORT_DISABLE_ALL
    graph = rewritten_graph(onnx, group_norm, fuses=False)
    return OrtCpuModel(open_session(onnx, session_options(level, None, packs=False), graph=graph))


def rewritten_graph(
    onnx: Path, group_norm: GroupNorm, *, fuses: bool, added_to: UnetStructure | None = None
) -> bytes | None:
    """The graph with what ONNX Runtime has better kernels for, its weights still in their file; None if it has nothing.

    One in bf16, for which it has no kernels, is computed in fp32 with every result rounded: for figures, not for speed.

    Without onnx and onnx_ir, which drawing does not need, the graph stays as it is, takes no added inputs, and runs
    some percent slower.
    """
    try:
        model = load_graph(onnx)
    except ImportError:
        return None
    if added_to is not None:
        add_inputs(model, added_to, tuple(AddedInputs))
    replaced = replace_group_norms(model, group_norm) + multiply_rounded(model)
    if fuses:
        replaced += fuse_attention(model)
    replaced += round_results(model)
    return serialized(model) if replaced or added_to is not None else None
