"""DeepCache on the CPU: the engines over the graphs that ``cached_graphs`` made."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from latentrt.engines.backends.ort_cpu.model import KEEPING_FILE, OrtCpuModel
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.unet.deep_cache import deep_feature, kept_feature
from latentrt.engines.engine import Engine
from latentrt.engines.shapes import CachePart, CacheRole, Shapes

_DTYPES: Mapping[str, np.dtype[Any]] = {"tensor(float)": np.dtype("float32"), "tensor(float16)": np.dtype("float16")}


def shallow_file(branch: int) -> str:
    """The name of a branch's graph."""
    return f"shallow-{branch}.onnx"


def cached_engine(component: Component, model: OrtCpuModel, shapes: Shapes, part: CachePart) -> Engine:
    """A U-Net that keeps a feature, or goes on from one.

    Args:
        component: it.
        model: opened; its graphs beside the whole one are opened when they are first asked for.
        shapes: of the calls.
        part: which graph, and the branch.

    Raises:
        EngineError: the model was closed, or was compiled without these graphs.
    """
    keeps, name = part.role is CacheRole.KEEPS, deep_feature(part.branch)
    graph = model.of_graph(KEEPING_FILE if keeps else shallow_file(part.branch))
    spec = component.spec_of_any_batch(shapes)
    dtype = _DTYPES[(graph.given if keeps else graph.taken)[name]]
    feature = kept_feature(component.structure, part.branch, spec, dtype)
    if keeps:
        return graph.engine(replace(spec, outputs={**spec.outputs, **feature}))
    taken = {name: tensor for name, tensor in spec.inputs.items() if name in graph.taken}
    return graph.engine(replace(spec, inputs={**taken, **feature}))
