"""ONNX Runtime's CUDA provider: inputs and outputs bound to device memory once per shape, runs replayed as CUDA graphs.

Nothing is compiled. The provider optimises the bundle's ONNX as it opens it; the result could be saved, but only where
the provider is, and what it saves is bound to the provider's choices for that GPU. So an engine is a record: that this
GPU architecture and version passed the gate. A U-Net's has graphs with added inputs, too, over the bundle's weights,
and some that make whole steps.
Each is a session of its own, opened when a call needs it: in one that held them all, an If would skip what is left out,
and such a graph cannot be recorded.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

from latentrt.engines.backends.compiler import Target, refuse_workspace
from latentrt.engines.backends.cuda import architecture, cuda_device
from latentrt.engines.backends.ort_cuda.model import STEPS_WITH, Device, OrtCudaModel, graph_file
from latentrt.engines.bundle.checked_files import HASHED_AT_OPEN, check_files
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.manifests.engine_manifest import EngineManifest
from latentrt.engines.errors import EngineError, RequestError
from latentrt.engines.machine import gpu_machine
from latentrt.engines.precision import Backend
from latentrt.engines.progress import Progress
from latentrt.engines.shapes import AddedInputs, Loop, Profile


class OrtCuda:
    """The ``Compiler`` of ONNX Runtime's CUDA provider."""

    backend = Backend.ORT_CUDA
    maker = "ONNX Runtime"
    flags: Mapping[str, str] = {"recipe": "4", "tf32": "off"}
    lora_ready = False
    added_apart = False
    deep_cache = False
    device_loop = True
    largest_hashed: int | None = HASHED_AT_OPEN
    opens_at_once = False
    opens_after_fork = False

    def version(self) -> str:
        """ONNX Runtime's.

        Raises:
            EngineError: it is not installed, or without its CUDA provider.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineError("backend ort-cuda needs the package onnxruntime-gpu; install latentrt[cuda]") from error
        found = onnxruntime.get_available_providers()
        if Device().provider not in found:
            raise EngineError(
                f"the installed onnxruntime has the providers {', '.join(found)}, expected {Device().provider} for "
                f"backend {self.backend}; install onnxruntime-gpu in its place"
            )
        return str(onnxruntime.__version__)

    def here(self) -> str:
        """The platform and the architecture of the GPU that is present."""
        return gpu_machine(architecture(cuda_device()))

    def targets(self, gpus: Sequence[str], workspace_mb: int | None = None) -> tuple[Target, ...]:
        """The GPU that is present."""
        if gpus:
            raise RequestError(
                f"got gpu {', '.join(gpus)} for backend {self.backend}, which takes the GPU that is present alone; "
                "leave it out, or choose tensorrt-rtx"
            )
        refuse_workspace(self.backend, workspace_mb)
        return (Target(machine=self.here()),)

    def profiles(self, component: Component) -> tuple[Profile, ...]:
        """None: one graph takes every size."""
        return ()

    def compile(self, component: Component, target: Target, folder: Path, progress: Progress | None) -> None:
        """Writes a U-Net's graphs with added inputs and of whole steps; else the bundle's ONNX is opened as it is."""
        if not component.kind.added_inputs or find_spec("onnx_ir") is None:
            return
        from latentrt.engines.graphs.editor import load_graph, serialized
        from latentrt.engines.graphs.variants.denoise_step import steps_of
        from latentrt.engines.graphs.variants.variant import add_inputs

        for added in _combinations():
            model = load_graph(component.onnx)
            add_inputs(model, component.structure, added, optional=False)
            (folder / graph_file(added)).write_bytes(serialized(model))
        for added in STEPS_WITH if component.makes_steps else ():
            model = load_graph(component.onnx)
            add_inputs(model, component.structure, added, optional=False)
            (folder / graph_file(added, Loop.DEVICE)).write_bytes(steps_of(serialized(model)))

    def would_improve(self, component: Component, engine: EngineManifest) -> bool:
        """Where a U-Net's lacks the graphs with added inputs, or of whole steps, which can be made now."""
        lacks_steps = component.makes_steps and graph_file(frozenset(), Loop.DEVICE) not in engine.files
        lacking = component.kind.added_inputs and (not engine.files or lacks_steps)
        return lacking and find_spec("onnx_ir") is not None

    def open(self, component: Component, folder: Path, *, threads: int | None) -> "OrtCudaModel":
        """Opens the bundle's ONNX on the GPU."""
        check_files(component.root, component.onnx_files, largest_hashed=self.largest_hashed)
        return OrtCudaModel(component, Device(), folder, loop=component.loop)


def _combinations() -> Iterator[frozenset[AddedInputs]]:
    """All but none."""
    for count in range(len(AddedInputs)):
        yield from (frozenset(added) for added in combinations(AddedInputs, count + 1))
