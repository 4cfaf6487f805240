"""A component in TensorRT or TensorRT-RTX, by Polygraphy's loaders and runner."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from latentrt.debugging.library import choose_tensorrt, quiet
from latentrt.debugging.marks import marks_of, show
from latentrt.debugging.parts import Feed, Part
from latentrt.debugging.side import Shown
from latentrt.engines.backends.tensorrt.build import allow_decomposition
from latentrt.engines.graphs.editor import load_graph
from latentrt.engines.graphs.linked_graph import write_linked
from latentrt.engines.graphs.summed_outputs import require_inputs
from latentrt.engines.graphs.widened import widen
from latentrt.engines.precision import Backend


@dataclass(frozen=True)
class TensorRTSide:
    """A ``Side`` of a plan that is built of the component's ONNX with tensors shown.

    A tensor that is shown is not fused away. So such a plan has more kernels than the engine's.

    Attributes:
        part: the component.
        backend: which of the two modules.
        work: a folder for graphs.
        compute_capability: of the GPU to build for; None takes the one that is present.
    """

    part: Part
    backend: Backend
    work: Path
    compute_capability: Any | None = None

    @property
    def label(self) -> str:
        """The backend's name."""
        return str(self.backend)

    @cached_property
    def tensors(self) -> frozenset[str]:
        """All of the component's."""
        return frozenset(mark.tensor for mark in marks_of(load_graph(self.part.component.onnx)))

    def shown(self, tensors: Sequence[str], feeds: Sequence[Feed]) -> Shown:
        """Builds a plan that returns them."""
        names, loaders = self._loaders(tensors, feeds)
        from polygraphy.backend.trt import EngineFromNetwork, TrtRunner

        return Shown(TrtRunner(EngineFromNetwork(*loaders)(), name=self.label), names)

    def plan(self, tensors: Sequence[str], feeds: Sequence[Feed]) -> bytes:
        """The plan alone, as it is built where no GPU is."""
        with quiet():
            _, loaders = self._loaders(tensors, feeds)
            from polygraphy.backend.trt import EngineBytesFromNetwork

            return bytes(EngineBytesFromNetwork(*loaders)())

    def _loaders(self, tensors: Sequence[str], feeds: Sequence[Feed]) -> tuple[dict[str, str], tuple[Any, Any]]:
        """What the results are called, and the loaders of network and configuration."""
        component = self.part.component
        model = load_graph(component.onnx)
        require_inputs(model, component.record.inputs)
        if self.part.islands:
            widen(model, self.part.islands, self.part.precision)
        names = show(model, tensors)
        onnx = self.work / component.onnx.name
        write_linked(model, onnx)
        choose_tensorrt(self.backend)
        from polygraphy.backend.trt import CreateConfig, NetworkFromOnnxPath, Profile

        profile = Profile()
        for name in feeds[0]:
            shapes = [feed[name].shape for feed in feeds]
            largest = tuple(map(max, *shapes)) if len(shapes) > 1 else shapes[0]
            smallest = tuple(map(min, *shapes)) if len(shapes) > 1 else shapes[0]
            profile.add(name, min=smallest, opt=largest, max=largest)
        parsed = NetworkFromOnnxPath(str(onnx), strongly_typed=True)
        configured = CreateConfig(profiles=[profile], tf32=False)

        def network() -> Any:
            builder, network, parser = parsed()
            allow_decomposition(_tensorrt(self.backend), network)
            return builder, network, parser

        def config(builder: Any, network: Any) -> Any:
            chosen = configured(builder, network)
            if self.compute_capability is not None:
                chosen.num_compute_capabilities = 1
                chosen.set_compute_capability(self.compute_capability, 0)
            return chosen

        return names, (network, config)


def _tensorrt(backend: Backend) -> Any:
    return import_module("tensorrt_rtx" if backend is Backend.TENSORRT_RTX else "tensorrt")
