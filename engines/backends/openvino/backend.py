"""OpenVINO on the CPU: graphs compiled once for the shapes that are drawn with most, then mapped.

It has arithmetic that ONNX Runtime's CPU provider lacks: bfloat16, where the CPU has it. Graphs of fixed shapes are a
quarter faster than one that takes every size; so an engine has both, over one copy of the weights.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from latentrt.engines.backends.compiler import Target, refuse_workspace
from latentrt.engines.backends.openvino.library import this_machine, version
from latentrt.engines.backends.openvino.records import JOINS_FILE
from latentrt.engines.backends.weights_record import WEIGHTS_FILE
from latentrt.engines.bundle.checked_files import HASHED_AT_OPEN
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.manifests.engine_manifest import ContentsRecord, EngineManifest
from latentrt.engines.errors import RequestError
from latentrt.engines.precision import Backend
from latentrt.engines.progress import Progress
from latentrt.engines.shapes import Profile

if TYPE_CHECKING:
    from latentrt.engines.backends.openvino.model import OpenVinoModel


class OpenVino:
    """The ``Compiler`` of OpenVINO's CPU plugin."""

    backend = Backend.OPENVINO
    maker = "OpenVINO"
    flags: Mapping[str, str] = {"recipe": "4"}
    lora_ready = False
    added_apart = False
    deep_cache = True
    device_loop = False
    largest_hashed: int | None = HASHED_AT_OPEN
    opens_at_once = True
    opens_after_fork = True

    def version(self) -> str:
        """The package's."""
        return version()

    def here(self) -> str:
        """The CPU's vector extensions, by which graphs are made, and whether it computes in bfloat16."""
        return this_machine()

    def targets(self, gpus: Sequence[str], workspace_mb: int | None = None) -> tuple[Target, ...]:
        """This CPU."""
        if gpus:
            raise RequestError(
                f"got gpu {', '.join(gpus)} for backend {self.backend}, which runs on the CPU; leave it out, or choose "
                "tensorrt-rtx"
            )
        refuse_workspace(self.backend, workspace_mb)
        return (Target(machine=self.here()),)

    def profiles(self, component: Component) -> tuple[Profile, ...]:
        """None that an engine is made for alone: one of its graphs takes every size."""
        return ()

    def compile(
        self, component: Component, target: Target, folder: Path, progress: Progress | None
    ) -> ContentsRecord | None:
        """Compiles the graphs; what comes back says which arithmetic they use."""
        from latentrt.engines.backends.openvino.compile import compile_component  # drawing needs none of it

        return compile_component(component, folder)

    def would_improve(self, component: Component, engine: EngineManifest) -> bool:
        """Where it was not told where its weights are or its planes are joined, and can be now."""
        wanted = {WEIGHTS_FILE, *(JOINS_FILE,) * component.kind.added_inputs}
        return not wanted <= engine.files.keys() and find_spec("onnx_ir") is not None

    def open(self, component: Component, folder: Path, *, threads: int | None) -> "OpenVinoModel":
        """Maps the weights, and opens the graph that is drawn with most."""
        from latentrt.engines.backends.openvino.model import OpenVinoModel

        model = OpenVinoModel(component, folder, threads=threads)
        model.open_first()
        return model
