"""OpenVINO's devices beside the CPU: one compiler each over the same code.

What OpenVINO exports for such a device is native code with the weights in it. So an engine has a file per static shape,
as TensorRT's has a plan.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from latentrt.engines.backends.compiler import Target, refuse_workspace
from latentrt.engines.backends.openvino.library import device_name, devices, version
from latentrt.engines.bundle.checked_files import HASHED_AT_OPEN
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.manifests.engine_manifest import ContentsRecord, EngineManifest
from latentrt.engines.errors import EngineError, RequestError
from latentrt.engines.machine import gpu_machine
from latentrt.engines.precision import Backend, Precision
from latentrt.engines.progress import Progress
from latentrt.engines.shapes import Profile

if TYPE_CHECKING:
    from latentrt.engines.backends.openvino.devices.model import DeviceModel


class OpenVinoGpu:
    """The ``Compiler`` of OpenVINO's plugin for Intel's GPUs."""

    backend = Backend.OPENVINO_GPU
    maker = "OpenVINO"
    flags: Mapping[str, str] = {"recipe": "1"}
    lora_ready = False
    added_apart = True
    deep_cache = False
    device_loop = False
    largest_hashed: int | None = HASHED_AT_OPEN  # a graph's whole file is hashed as it is opened
    opens_at_once = False
    opens_after_fork = False
    device = "GPU"
    driver = "Intel's GPU driver with OpenCL"
    precisions: tuple[Precision, ...] = (Precision.FP32, Precision.FP16)

    def version(self) -> str:
        """The package's."""
        return version()

    def here(self) -> str:
        """The platform, and the device's name: graphs are compiled for its model."""
        found = devices()
        if self.device not in {one.partition(".")[0] for one in found}:
            raise EngineError(
                f"backend {self.backend} needs a device {self.device}, but OpenVINO finds {', '.join(found)} here; "
                f"install {self.driver}, or choose another backend"
            )
        return gpu_machine(self.device, device_name(self.device))

    def targets(self, gpus: Sequence[str], workspace_mb: int | None = None) -> tuple[Target, ...]:
        """The device that is present."""
        if gpus:
            raise RequestError(
                f"got gpu {', '.join(gpus)} for backend {self.backend}, which compiles for the device that is present "
                "alone; leave it out, or choose tensorrt-rtx"
            )
        refuse_workspace(self.backend, workspace_mb)
        return (Target(machine=self.here()),)

    def profiles(self, component: Component) -> tuple[Profile, ...]:
        """Those of the bundle."""
        return component.manifest.profiles

    def compile(
        self, component: Component, target: Target, folder: Path, progress: Progress | None
    ) -> ContentsRecord | None:
        """Compiles a graph per static shape; what comes back says which arithmetic they use, where the device tells.

        Raises:
            RequestError: a precision that the device does not compute in.
            EngineError: OpenVINO refuses the graph.
        """
        from latentrt.engines.backends.openvino.devices.compile import compile_shapes  # drawing needs none of it

        precision = component.record.precision
        if precision not in self.precisions:
            raise RequestError(
                f"got {component.label} in {precision} for backend {self.backend}, expected it in "
                f"{' or '.join(self.precisions)}; build with --precision {self.precisions[-1]}"
            )
        return compile_shapes(component, folder, self.device, self.settings(precision))

    def would_improve(self, component: Component, engine: EngineManifest) -> bool:
        """Never."""
        return False

    def open(self, component: Component, folder: Path, *, threads: int | None) -> "DeviceModel":
        """Reads the first graph onto the device; ``threads`` means nothing there."""
        from latentrt.engines.backends.openvino.devices.model import DeviceModel

        settings = self.settings(component.record.precision)
        model = DeviceModel(component, folder, backend=self.backend, device=self.device, settings=settings)
        model.open_first()
        return model

    def settings(self, precision: Precision) -> Mapping[str, str]:
        """How a component of a precision is compiled and opened: float32, or by the types in its graph."""
        if precision is Precision.FP32:
            return {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        return {"PERFORMANCE_HINT": "LATENCY", "EXECUTION_MODE_HINT": "ACCURACY"}


class OpenVinoNpu(OpenVinoGpu):
    """The ``Compiler`` of OpenVINO's plugin for Intel's NPUs, which compute in float16."""

    backend = Backend.OPENVINO_NPU
    device = "NPU"
    driver = "Intel's NPU driver"
    precisions = (Precision.FP16,)

    def settings(self, precision: Precision) -> Mapping[str, str]:
        """Float16."""
        return {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f16"}
