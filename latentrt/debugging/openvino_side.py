"""A component in OpenVINO on the CPU."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from latentrt.debugging.parts import Feed, Part
from latentrt.debugging.side import Shown
from latentrt.engines.backends.openvino.compile import compile_graph, rewritten_onnx
from latentrt.engines.backends.openvino.library import core, settings
from latentrt.engines.spec import Array
from latentrt.engines.tensors.dtypes import stored_dtype


@dataclass(frozen=True)
class OpenVinoSide:
    """A ``Side`` of a component's ONNX, compiled for every size as the engine is."""

    part: Part
    work: Path

    @property
    def label(self) -> str:
        """With the arithmetic that it was asked for."""
        return f"openvino ({settings(self.part.precision)['INFERENCE_PRECISION_HINT']})"

    @cached_property
    def tensors(self) -> frozenset[str]:
        """What the model has by name once it is read; values of constants are none of them."""
        component = self.part.component
        with rewritten_onnx(component, self.work, component.added) as onnx:
            model = core().read_model(onnx)
        ports = (port for node in model.get_ops() if node.get_type_name() != "Constant" for port in node.outputs())
        return frozenset(name for port in ports for name in port.names)

    def shown(self, tensors: Sequence[str], feeds: Sequence[Feed]) -> Shown:
        """Compiles the graph with them as results."""
        component = self.part.component
        with rewritten_onnx(component, self.work, component.added) as onnx:
            chosen = settings(self.part.precision, self.part.threads)
            results = {*component.record.outputs}
            compiled = compile_graph(component, onnx, {}, chosen, shown=[one for one in tensors if one not in results])
        return Shown(_runner(compiled, self.label), {name: name for name in tensors})


def _runner(compiled: Any, label: str) -> Any:
    from polygraphy.backend.base import BaseRunner
    from polygraphy.common import TensorMetadata

    class OpenVinoRunner(BaseRunner):  # type: ignore[misc]  # the package is known at run time alone
        """Runs OpenVINO's compiled model."""

        def get_input_metadata_impl(self) -> Any:
            """Names and types; every dimension may change."""
            metadata = TensorMetadata()
            for port in compiled.inputs:
                metadata.add(port.any_name, dtype=port.element_type.to_dtype(), shape=[None] * len(port.partial_shape))
            return metadata

        def infer_impl(self, feed_dict: Mapping[str, Any]) -> Any:
            """Results by every name that they have."""
            start = perf_counter()
            request = compiled.create_infer_request()
            request.infer(dict(feed_dict))
            results = OrderedDict(
                (name, _numbers(request.get_output_tensor(index)))
                for index, port in enumerate(compiled.outputs)
                for name in port.names
            )
            self.inference_time = perf_counter() - start
            return results

    return OpenVinoRunner(name=label)


def _numbers(tensor: Any) -> Array:
    """A tensor's; NumPy has no bfloat16, whose bits OpenVINO calls float16."""
    if tensor.element_type.get_type_name() == "bf16":
        return stored_dtype("bfloat16").values(tensor.data.view(np.uint16))
    return np.array(tensor.data)
