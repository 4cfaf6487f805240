"""Components in bf16 for machines that have no engine for it: ONNX Runtime's fp32 with every result rounded."""

from pathlib import Path

from latentrt.engines.backends.ort_cpu.backend import in_halves
from latentrt.engines.backends.ort_cpu.compile import compile_onnx, group_norm_of
from latentrt.engines.backends.ort_cpu.model import OrtCpuModel
from latentrt.engines.bundle.bundle import Bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.changes import Changes
from latentrt.engines.engine import Engine
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import Loop, Shapes
from latentrt.engines.store.changed_models import ChangedModels


class RoundedComponents:
    """A bundle's components, each compiled when it is first asked for; satisfies ``Engines``."""

    backend = Backend.ORT_CPU
    loop = Loop.HOST

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        """Takes the bundle, and an empty folder for what is compiled."""
        self.bundle, self.changed_models = bundle, ChangedModels(0)
        self._folder = folder
        self._models: dict[str, OrtCpuModel] = {}

    def engine(self, component: str, shapes: Shapes, changes: Changes | None = None) -> Engine:
        """The component at these shapes, with the weights that it has."""
        part = Component(root=self.bundle.root, manifest=self.bundle.manifest, name=component)
        if component not in self._models:
            folder = self._folder / component
            folder.mkdir()
            compile_onnx(part.onnx, folder, part.record.parameters, group_norm=group_norm_of(part))
            self._models[component] = OrtCpuModel.of_compiled(folder, threads=None, halves=in_halves(part))
        return self._models[component].engine(part.spec_of_any_batch(shapes))

    def close(self) -> None:
        """Closes all of them."""
        for model in self._models.values():
            model.close()
