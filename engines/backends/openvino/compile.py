"""Compiles a component for this machine: a graph for each of the shapes it is drawn with most, and for every size."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from latentrt.engines.backends.openvino.blob import BlobWriter
from latentrt.engines.backends.openvino.cached import record_joins
from latentrt.engines.backends.openvino.library import DEVICE, core, first_line, settings
from latentrt.engines.backends.openvino.provenance import record_weights
from latentrt.engines.backends.openvino.records import BLOB_FILE, GRAPHS_FILE, GraphRecord, GraphsRecord, read_xml
from latentrt.engines.backends.openvino.shapes import InputShapes, usual_shapes
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.manifests.engine_manifest import ContentsRecord
from latentrt.engines.bundle.usual_backend import or_ort_cpu
from latentrt.engines.errors import EngineError
from latentrt.engines.shapes import AddedInputs

if TYPE_CHECKING:
    import onnx_ir as ir

_ALL_ADDED = frozenset(AddedInputs)
_SINES = ("Sin", "Cos")


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """A graph to compile: for these shapes, or for every size where they are empty."""

    shapes: InputShapes
    added: bool = False


def compile_component(component: Component, folder: Path) -> ContentsRecord:
    """Compiles all graphs of a component into a folder.

    Args:
        component: what is compiled.
        folder: exists and is empty.

    Raises:
        EngineError: OpenVINO refuses the graph.
    """
    graphs: list[GraphRecord] = []
    layers: dict[str, dict[str, int]] = {}
    wanted = _wanted(component)
    with BlobWriter(folder / BLOB_FILE, component.named_initializers) as blob:
        for one in wanted:
            with rewritten_onnx(component, folder, _ALL_ADDED if one.added else component.added) as onnx:
                compiled = compile_graph(component, onnx, one.shapes, settings(component.record.precision))
            layers = layers or layers_of(compiled)
            place = blob.add(compiled.export_model().getbuffer())
            graphs.append(GraphRecord(**place._asdict(), shapes=one.shapes, added=one.added))
    record = GraphsRecord(**blob.places._asdict(), graphs=tuple(graphs))
    (folder / GRAPHS_FILE).write_text(record.model_dump_json(exclude_defaults=True), "utf-8")
    names, first = component.named_initializers, blob.places.constants
    record_weights(component.onnx, names, blob.constants, folder / BLOB_FILE, first, folder)
    if component.kind.added_inputs:
        record_joins(component, read_xml(folder / BLOB_FILE, graphs), folder)
    return ContentsRecord(shapes=(), layers=layers)


def _wanted(component: Component) -> list[_Wanted]:
    """Graphs for the usual shapes, then for every size, then for every size with all added inputs."""
    wanted = [_Wanted(shapes=shapes) for shapes in usual_shapes(component)] + [_Wanted(shapes={})]
    if component.kind.added_inputs and _edits():
        wanted.append(_Wanted(shapes={}, added=True))
    return wanted


def _edits() -> bool:
    return find_spec("onnx_ir") is not None


def compile_graph(
    component: Component,
    onnx: Path,
    shapes: InputShapes,
    settings: Mapping[str, Any],
    device: str = DEVICE,
    shown: Sequence[str] = (),
) -> Any:
    """OpenVINO's compiled model of a component's ONNX, or of one made of it.

    Args:
        component: whose.
        onnx: the graph.
        shapes: of its inputs; every size where they are empty.
        settings: OpenVINO's.
        device: what it is compiled for.
        shown: tensors that are to be results, too.

    Raises:
        EngineError: OpenVINO refuses the graph.
    """
    try:
        model = core().read_model(onnx)
        if shapes:
            model.reshape({name: list(shape) for name, shape in shapes.items()})
        _keep_sines_exact(model)
        if shown:
            model.add_outputs(list(shown))
        return core().compile_model(model, device, dict(settings))
    except RuntimeError as error:
        raise EngineError(
            f"OpenVINO cannot compile {component.label} for its device {device}: {first_line(error)}; report it"
            f"{or_ort_cpu(component.manifest, 'choose backend')}"
        ) from error


def _keep_sines_exact(model: Any) -> None:
    """Makes results of the sines of timesteps and sizes, which nobody asks for.

    Where it computes in bfloat16, OpenVINO rounds what enters a graph at once: a timestep of 979 becomes 980. But what
    a graph gives it leaves in float32, back to the first layer with weights.
    """
    model.add_outputs([node.output(0) for node in model.get_ops() if node.get_type_name() in _SINES])


@contextmanager
def rewritten_onnx(component: Component, work: Path, added: frozenset[AddedInputs]) -> Iterator[Path]:
    """The component's ONNX; rewritten, in a folder below ``work``, where inputs are added or may be left out.

    OpenVINO takes weights from the graph's folder alone.

    Raises:
        EngineError: it must be rewritten, and onnx or onnx_ir is missing.
    """
    if not added and all(row.neutral is None for row in component.record.inputs.values()):
        yield component.onnx
        return
    from latentrt.engines.graphs.linked_graph import write_linked

    model = rewritten(component, component.onnx, added)
    with TemporaryDirectory(dir=work) as name:
        graph = Path(name) / component.onnx.name
        write_linked(model, graph)
        yield graph


def rewritten(component: Component, onnx: Path, added: frozenset[AddedInputs]) -> "ir.Model":
    """A component's graph without defaults, of which OpenVINO would make constants.

    Args:
        component: whose.
        onnx: its graph, or one made of it.
        added: the inputs that it shall take beside its own.

    Raises:
        EngineError: onnx or onnx_ir is missing.
    """
    try:
        from latentrt.engines.graphs.editor import load_graph
        from latentrt.engines.graphs.summed_outputs import require_inputs
        from latentrt.engines.graphs.variants.variant import add_inputs

        model = load_graph(onnx)
    except ImportError as error:
        raise EngineError(
            f"a graph of {component.label} must be rewritten for OpenVINO, which needs onnx and onnx_ir ({error}); "
            f"install latentrt[export]{or_ort_cpu(component.manifest, 'choose backend')}"
        ) from error
    require_inputs(model, component.record.inputs)
    if added:
        add_inputs(model, component.structure, added, optional=False)
    return model


def layers_of(compiled: Any) -> dict[str, dict[str, int]]:
    """How many nodes of each kind are computed in each type, as the compiled model tells."""
    told = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    arithmetic = Counter((_text(info, "layerType"), _text(info, "runtimePrecision")) for info in told)
    layers: dict[str, dict[str, int]] = {}
    for (kind, dtype), count in sorted(arithmetic.items()):
        layers.setdefault(kind, {})[dtype] = count
    return layers


def _text(info: Any, key: str) -> str:
    return str(info[key].astype(str)) if key in info else "unknown"
