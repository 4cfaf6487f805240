"""What TensorRT compiles of rewritten graphs: plans that take further inputs or weights, and plans of changed weights.

A default would make a constant of an input, so here inputs have none.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from latentrt.engines.backends.compiler import Target
from latentrt.engines.backends.tensorrt.build import PlanGraph
from latentrt.engines.bundle.bundle import BundleFolder
from latentrt.engines.bundle.changed_weights import changed_initializers
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.manifests.engine_manifest import CHANGES, EngineManifest
from latentrt.engines.bundle.records.named_weights import StoredWeight
from latentrt.engines.bundle.weights import ComponentWeights
from latentrt.engines.changes import Changes
from latentrt.engines.errors import BundleError, EngineError
from latentrt.engines.files import locked
from latentrt.engines.graphs.editor import load_graph, serialized
from latentrt.engines.graphs.variants.denoise_step import steps_of
from latentrt.engines.shapes import Loop
from latentrt.engines.store.compile import Seen, new_engine
from latentrt.engines.store.key import EngineIdentity
from latentrt.engines.store.store import engine_folder, identity_of, read_engine, stored_engine

if TYPE_CHECKING:
    import onnx_ir as ir

    from latentrt.engines.backends.tensorrt.backend import TensorRT


def graph_for(component: Component, target: Target) -> PlanGraph:
    """The graph that a component's plan is built of, with added inputs and weights as inputs where they are asked for.

    Raises:
        EngineError: onnx or onnx_ir is missing, or the graph is not built as the exporter builds it.
        BundleError: the graph does not hold the bundle's weights.
    """
    takes_weights = target.takes_weights(component)
    if not takes_weights and not _rewritten(component):
        return PlanGraph(path=component.onnx)
    inputs: Mapping[str, StoredWeight] = {}
    try:
        model = _graph(component)
        if takes_weights:
            inputs = _weights_as_inputs(component, model)
        return PlanGraph(path=component.onnx, content=_content(component, model), weight_inputs=inputs)
    except ImportError as error:
        raise _graph_packages_missing(component, error) from error


def _rewritten(component: Component) -> bool:
    """Whether the bundle's graph cannot be taken: rounded attention, added inputs, defaults, or a step around it."""
    quantization = component.record.quantization
    rounded = quantization is not None and quantization.attention is not None and quantization.attention.rounded
    changed = rounded or bool(component.added) or component.loop is Loop.DEVICE
    return changed or any(row.neutral is not None for row in component.record.inputs.values())


def _graph(component: Component) -> "ir.Model":
    """The component's graph with its added inputs, without defaults, and with the products of rounded attention."""
    from latentrt.engines.graphs.quantization.attention import multiply_rounded
    from latentrt.engines.graphs.summed_outputs import require_inputs
    from latentrt.engines.graphs.variants.variant import add_inputs

    model = load_graph(component.onnx)
    require_inputs(model, component.record.inputs)
    if component.added:
        add_inputs(model, component.structure, component.added, optional=False)
    multiply_rounded(model)
    return model


def _content(component: Component, model: "ir.Model") -> bytes:
    """The graph as TensorRT parses it, with the step around it where it makes steps."""
    content = serialized(model)
    return steps_of(content) if component.loop is Loop.DEVICE else content


def _weights_as_inputs(component: Component, model: "ir.Model") -> Mapping[str, StoredWeight]:
    from latentrt.engines.graphs.adapted_weights import take_weights_as_inputs

    weights = BundleFolder(root=component.root, manifest=component.manifest).weights(component.name)
    return take_weights_as_inputs(model, weights)


def folder_of_changed(
    compiler: "TensorRT", component: Component, plain: Path, weights: ComponentWeights, changes: Changes
) -> Path:
    """The folder of this machine's plan with changed weights; where there is none, it is compiled, with a warning.

    Args:
        compiler: of the backend.
        component: whose weights change.
        plain: the folder of the engine with the bundle's weights.
        weights: those, by name.
        changes: what differs.

    Raises:
        RequestError: weights that the component does not have or cannot take.
        EngineError: TensorRT refuses the graph, or onnx or onnx_ir is missing.
        BusyError: another process compiles the same plan.
        OutputError: the disk is full or read-only.
    """
    engine = read_engine(plain)
    target = Target(machine=engine.machine, workspace_mb=engine.workspace_mb)
    identity = identity_of(component, compiler, target.machine, {CHANGES: changes.key})
    folder = engine_folder(component.root, identity)
    if not _whole(component, identity):
        with locked(folder):
            if not _whole(component, identity):
                _warn(compiler, component, engine)
                _compile_changed(compiler, component, target, identity, weights, changes)
    return folder


def _whole(component: Component, identity: EngineIdentity) -> bool:
    try:
        stored_engine(component.root, identity)
    except BundleError:
        return False
    return True


def _warn(compiler: "TensorRT", component: Component, plain: EngineManifest) -> None:
    took = "" if plain.seconds is None else f", which takes about {plain.seconds:.0f} s"
    warnings.warn(
        f"building a {compiler.backend} plan of {component.name} with these adapters{took}; it is kept for the next "
        "time, and engines that were built with --lora-ready need none",
        stacklevel=2,
    )


def _compile_changed(
    compiler: "TensorRT",
    component: Component,
    target: Target,
    identity: EngineIdentity,
    weights: ComponentWeights,
    changes: Changes,
) -> None:
    def fill(staging: Path) -> Seen:
        from latentrt.engines.graphs.adapted_weights import change_weights

        with TemporaryDirectory(dir=staging) as name:
            folder = Path(name)
            model = _graph(component)
            change_weights(model, changed_initializers(weights, changes), folder)
            graph = PlanGraph(path=folder / component.onnx.name, content=_content(component, model))
            return compiler.build_plan(component, target, staging, None, graph), None

    try:
        new_engine(component.root, identity, target.workspace_mb, fill)
    except ImportError as error:
        raise _graph_packages_missing(component, error) from error


def _graph_packages_missing(component: Component, error: ImportError) -> EngineError:
    return EngineError(
        f"this plan of {component.label} is made of a rewritten graph, which needs onnx and onnx_ir ({error}); install "
        "latentrt[export], or take engines from a machine that has it, for LoRAs such as were built with --lora-ready"
    )
