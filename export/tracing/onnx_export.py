"""Torch modules to ONNX: one graph with named dimensions that serves every profile."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from latentrt.engines.bundle.records.component import TensorRecord
from latentrt.engines.bundle.records.named_weights import WeightRecord
from latentrt.engines.graphs.editor import SCOPES
from latentrt.engines.graphs.half import halve
from latentrt.engines.graphs.islands import Island
from latentrt.engines.spec import BATCH
from latentrt.export.quiet import quiet
from latentrt.export.tracing.named_weights import GraphWeights
from latentrt.export.tracing.operators import translated_operators_kept
from latentrt.export.tracing.optimizer import optimize
from latentrt.export.tracing.reruns import programs_run_once
from latentrt.export.tracing.shapes import shapes_told
from latentrt.export.tracing.versions import OPSET

MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"
# From 64 samples on diffusers' upsampling makes them contiguous, which leaves nothing in a graph. But the tracer sees a
# branch, and without this limit, of which nothing is left either, refuses and begins again.
_TRACED_BATCH = 63
_INSIDE = 256  # bytes of a constant that stays in the graph, where shapes are inferred from it


@dataclass(frozen=True, kw_only=True)
class Graph:
    """What a component's graph takes and gives.

    ``multiples`` says by how many the traced number of each named dimension is a multiple of, so that the
    tracer can prove that down- and upsampling meet again.
    """

    inputs: Mapping[str, TensorRecord]
    outputs: Mapping[str, TensorRecord]
    multiples: Mapping[str, int]


class Written(NamedTuple):
    """The names of the files that were written, how many nodes each island keeps in fp32, and where each weight is.

    ``weights`` are by the module's names, with files relative to the folder.
    """

    files: list[str]
    islands: dict[str, int]
    weights: dict[str, WeightRecord]


def export_onnx(
    module: torch.nn.Module,
    example: Mapping[str, torch.Tensor],
    graph: Graph,
    folder: Path,
    islands: Sequence[Island] | None = None,
) -> Written:
    """Traces ``module`` and writes ``model.onnx`` with its weights beside it.

    Args:
        module: takes the graph's inputs in order and returns its outputs as a tuple.
        example: inputs to trace with; batch at least 2, so that it is not taken for a constant.
        graph: names, shapes and dtypes.
        folder: where to write; created.
        islands: None writes fp32; else fp16 with these parts in fp32. The weights are halved as they are written.

    Raises:
        CheckpointError: weights that fp16 cannot hold, or that are found nowhere in the graph.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with quiet(), torch.inference_mode():
        program = traced(module, example, graph)
        weights = GraphWeights(program.model.graph, module)
        with weights.kept_apart():
            optimize(program)
        _name_dimensions(program.model, graph)
        _forget_tracing(program.model)
        kept = {} if islands is None else halve(program.model, islands)
        _save(program.model, folder, weights.initializers)
        records = weights.records(folder)
        for value in program.model.graph.initializers.values():
            value.const_value = None  # torch keeps its last program
    return Written(sorted(path.name for path in folder.iterdir()), kept, records)


def traced(module: torch.nn.Module, example: Mapping[str, torch.Tensor], graph: Graph) -> Any:
    """The ``torch.onnx.ONNXProgram`` of a module, not optimised; its initializers have the names of its parameters."""
    dimensions: dict[str, Any] = {}

    def dynamic(record: TensorRecord) -> dict[int, Any] | None:
        axes = {}
        for axis, name in enumerate(record.shape):
            if isinstance(name, str):
                multiple = graph.multiples.get(name, 1)
                most = _TRACED_BATCH if name == BATCH else None
                unit = f"{name}_units" if multiple > 1 else name
                base = dimensions.setdefault(name, torch.export.Dim(unit, min=1, max=most))
                axes[axis] = multiple * base if multiple > 1 else base
        return axes or None

    with translated_operators_kept(), programs_run_once(), shapes_told():
        return torch.onnx.export(
            module,
            tuple(example[name] for name in graph.inputs),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=tuple(dynamic(record) for record in graph.inputs.values()),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            verbose=False,
            optimize=False,
        )


def _save(model: Any, folder: Path, weights: Collection[str]) -> None:
    """Writes the graph with its weights, and whatever else is large, beside it."""
    import onnx_ir as ir

    values = [
        value
        for value in model.graph.initializers.values()
        if value.name in weights or value.const_value.nbytes > _INSIDE
    ]
    external = ir.external_data.convert_tensors_to_external([value.const_value for value in values], folder, DATA_FILE)
    for value, tensor in zip(values, external, strict=True):
        value.const_value = tensor
    ir.save(model, folder / MODEL_FILE)


def _name_dimensions(model: Any, graph: Graph) -> None:
    """Gives inputs and outputs our dimension names and drops the tracer's guesses in between."""
    import onnx_ir as ir

    for node in model.graph.all_nodes():
        for value in node.outputs:
            value.shape = None
    for values, records in ((model.graph.inputs, graph.inputs), (model.graph.outputs, graph.outputs)):
        for value, record in zip(values, records.values(), strict=True):
            value.shape = ir.Shape(list(record.shape))


def _forget_tracing(model: Any) -> None:
    """Drops what the tracer tells of this machine and of Python code; which module a node came from stays."""
    for node in model.graph.all_nodes():
        scopes = node.metadata_props.get(SCOPES)
        node.metadata_props.clear()
        if scopes is not None:
            node.metadata_props[SCOPES] = scopes
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def batch_record(dtype: str, *rest: int | str) -> TensorRecord:
    """A tensor whose first dimension is the batch."""
    return TensorRecord(shape=(BATCH, *rest), dtype=dtype)
