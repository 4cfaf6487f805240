"""TensorRT and TensorRT-RTX: one code path over two modules with the same API.

TensorRT compiles on the GPU that it compiles for. TensorRT-RTX compiles for any architecture that is named, on a
machine without a GPU or a driver.

This is the API itself: Polygraphy's loaders know neither compute capabilities nor a network's layers, and the rest of
them is these few calls.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentrt.engines.backends.compiler import Target, runs_here
from latentrt.engines.backends.cuda import Driver, architecture, cuda_device
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.manifests.engine_manifest import ContentsRecord, EngineManifest
from latentrt.engines.errors import EngineError, RequestError
from latentrt.engines.machine import gpu_machine, gpu_of_machine
from latentrt.engines.precision import Backend
from latentrt.engines.progress import Progress
from latentrt.engines.shapes import Profile

if TYPE_CHECKING:
    from latentrt.engines.backends.tensorrt.build import PlanGraph
    from latentrt.engines.backends.tensorrt.run import TensorRTModel
    from latentrt.engines.bundle.weights import ComponentWeights
    from latentrt.engines.changes import Changes

PLAN_FILE = "model.plan"


class TensorRT:
    """The ``Compiler`` of the module ``tensorrt``."""

    backend = Backend.TENSORRT
    maker = "TensorRT"
    # TF32 rounds fp32 inputs to 10 bits of mantissa: what is asked for as fp32 would miss its gate
    flags: Mapping[str, str] = {"recipe": "1", "tf32": "off", "attention": "decomposable"}
    lora_ready = True
    added_apart = True
    deep_cache = False
    device_loop = True
    largest_hashed: int | None = None  # a plan is native code, and read as a whole anyway
    opens_at_once = False
    opens_after_fork = False
    module = "tensorrt"
    extra = "tensorrt"

    def version(self) -> str:
        """The module's."""
        return str(self._trt().__version__)

    def here(self) -> str:
        """The platform, and model and architecture of the GPU that is present: a plan is bound to its model."""
        driver = self._driver()
        return gpu_machine(architecture(driver), driver.model())

    def targets(self, gpus: Sequence[str], workspace_mb: int | None = None) -> tuple[Target, ...]:
        """The GPU that is present."""
        if gpus:
            raise RequestError(
                f"got gpu {', '.join(gpus)} for backend {self.backend}, which compiles for the GPU that is present "
                "alone; leave it out, or choose tensorrt-rtx"
            )
        try:
            return (Target(machine=self.here(), workspace_mb=workspace_mb),)
        except EngineError as error:
            raise EngineError(
                f"backend {self.backend} compiles on the GPU that it compiles for: {error}; backend tensorrt-rtx "
                "compiles without one, with --gpu"
            ) from error

    def profiles(self, component: Component) -> tuple[Profile, ...]:
        """Those of the bundle."""
        return component.manifest.profiles

    def compile(
        self, component: Component, target: Target, folder: Path, progress: Progress | None
    ) -> ContentsRecord | None:
        """Builds one plan with a static optimization profile per shape, and looks at what came out.

        Raises:
            RequestError: weights in eight bits as inputs.
            EngineError: the parser or the builder refuses, or the precision is not the one asked for.
        """
        from latentrt.engines.backends.tensorrt.adapted import graph_for

        return self.build_plan(component, target, folder, progress, graph_for(component, target))

    def build_plan(
        self, component: Component, target: Target, folder: Path, progress: Progress | None, graph: "PlanGraph"
    ) -> ContentsRecord:
        """Builds the plan of a component of its ONNX or of a graph that was made of it, as ``compile`` does."""
        from latentrt.engines.backends.tensorrt.build import PlanBuilder
        from latentrt.engines.backends.tensorrt.contents import seen_by_inspector

        trt, machine, plan = self._trt(), target.machine, folder / PLAN_FILE
        builder = PlanBuilder(trt, maker=self.maker, workspace_mb=target.workspace_mb, progress=progress)
        contents = builder.build(component, plan, self._choose_gpu(machine), self._timing_cache(machine), graph)
        if runs_here(self, machine):
            contents = contents.model_copy(update=seen_by_inspector(trt, plan, self.maker))
        return contents

    def would_improve(self, component: Component, engine: EngineManifest) -> bool:
        """Never."""
        return False

    def open(self, component: Component, folder: Path, *, threads: int | None) -> "TensorRTModel":
        """Reads the plan onto the GPU; ``threads`` means nothing there."""
        from latentrt.engines.backends.tensorrt.run import RecompiledModel, TensorRTModel

        trt, driver = self._trt(), self._driver()

        def recompiled(weights: "ComponentWeights", changes: "Changes") -> RecompiledModel:
            from latentrt.engines.backends.tensorrt.adapted import folder_of_changed

            changed = folder_of_changed(self, component, folder, weights, changes)
            return RecompiledModel(trt, driver, component, changed / PLAN_FILE, maker=self.maker)

        return TensorRTModel(trt, driver, component, folder / PLAN_FILE, maker=self.maker, recompiled=recompiled)

    def _choose_gpu(self, machine: str) -> Any | None:
        """What the builder's configuration takes as compute capability; None for the one that is present."""
        return None

    def _timing_cache(self, machine: str) -> Path | None:
        from latentrt.engines.backends.tensorrt.build import user_timing_cache

        return user_timing_cache(self.backend, self.version(), machine)

    def _driver(self) -> Driver:
        return cuda_device()

    def _trt(self) -> Any:
        try:
            return import_module(self.module)
        except (ImportError, OSError) as error:  # OSError: the package is there, a library of its is not
            raise EngineError(
                f"backend {self.backend} needs the package {self.module.replace('_', '-')} ({error}); install "
                f"latentrt[{self.extra}]"
            ) from error


class TensorRTRTX(TensorRT):
    """The ``Compiler`` of the module ``tensorrt_rtx``."""

    backend = Backend.TENSORRT_RTX
    maker = "TensorRT-RTX"
    module = "tensorrt_rtx"
    extra = "rtx"

    def here(self) -> str:
        """The platform and the architecture of the GPU that is present: a plan serves all of its models."""
        return gpu_machine(architecture(self._driver()))

    def targets(self, gpus: Sequence[str], workspace_mb: int | None = None) -> tuple[Target, ...]:
        """The architectures asked for, or that of the GPU that is present."""
        known = [name.lower() for name in self._trt().ComputeCapability.__members__ if name.startswith("SM")]
        choice = f"one of {', '.join(known)}"
        if gpus:
            wanted = tuple(dict.fromkeys(gpu.strip().lower() for gpu in gpus))
            unknown = [gpu for gpu in wanted if gpu not in known]
            if unknown:
                raise RequestError(f"got gpu {', '.join(map(repr, unknown))}, expected {choice}; choose among these")
            return tuple(Target(machine=gpu_machine(gpu), workspace_mb=workspace_mb) for gpu in wanted)
        try:
            machine = self.here()
        except EngineError as error:
            raise EngineError(
                f"backend {self.backend} has no GPU to compile for here ({error}); name what to compile for with "
                f"--gpu, {choice}"
            ) from error
        if gpu_of_machine(machine) not in known:
            raise EngineError(
                f"this machine's GPU is {gpu_of_machine(machine)}, expected {choice} for {self.backend}; choose the "
                "backend tensorrt"
            )
        return (Target(machine=machine, workspace_mb=workspace_mb),)

    def _choose_gpu(self, machine: str) -> Any | None:
        return getattr(self._trt().ComputeCapability, gpu_of_machine(machine).upper())

    def _timing_cache(self, machine: str) -> Path | None:
        return None  # it has none: tactics are chosen when a plan is opened
