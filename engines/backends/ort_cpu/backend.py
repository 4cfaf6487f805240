"""ONNX Runtime's CPU provider: compiled once with packed weights, then mapped.

Optimising a full-size U-Net takes 17 s and reads all of it; opening what that produced, with optimisation
off, takes about 1 s and maps the weights. The result is bound to the CPU's features and to the version of
ONNX Runtime, which is why both are in the engine's key.

Optimising takes about four times the memory of the weights in fp32. A component for which that is too much is saved as
it is: its weights are mapped, and run some percent slower. The engine's record says so, and the next build optimises it
if there is memory then.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from latentrt.engines.backends.compiler import Target, refuse_workspace
from latentrt.engines.backends.ort_cpu.model import KEEPING_FILE, MODEL_FILE, STEP_FILE, OrtCpuModel, version
from latentrt.engines.backends.weights_record import WEIGHTS_FILE
from latentrt.engines.bundle.checked_files import HASHED_AT_OPEN
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.component import ParityRecord
from latentrt.engines.bundle.records.manifests.engine_manifest import ContentsRecord, EngineManifest
from latentrt.engines.engine import Engine
from latentrt.engines.errors import RequestError
from latentrt.engines.machine import cpu_features
from latentrt.engines.precision import Backend, Precision
from latentrt.engines.progress import Progress
from latentrt.engines.shapes import Loop, Profile, Shapes

if TYPE_CHECKING:
    from latentrt.engines.bundle.checks.probes import Probe
    from latentrt.engines.bundle.weights import ComponentWeights
    from latentrt.engines.changes import Changes

FLAGS = {"optimization": "all", "prepacked": "1", "attention": "fused", "group_norm": "expanded", "recipe": "7"}


class _OpenComponent:
    """A ``Model``: any shapes over one session."""

    def __init__(self, component: Component, model: OrtCpuModel) -> None:
        self._component = component
        self._model = model

    @property
    def own_bytes(self) -> int:
        """The changed weights, and what ONNX Runtime packs of them; all others are mapped from the engine's file."""
        return self._model.own_bytes

    def engine(self, shapes: Shapes) -> Engine:
        """The component at these shapes; the profile need not be one of the bundle's."""
        if shapes.cached is not None:
            from latentrt.engines.backends.ort_cpu.cached import cached_engine  # loaded by those who use it

            return cached_engine(self._component, self._model, shapes, shapes.cached)
        if shapes.loop is Loop.DEVICE:
            from latentrt.engines.backends.ort_cpu.steps import step_engine  # loaded by those who use it

            return step_engine(self._model, self._component.spec_of_any_batch(shapes))
        return self._model.of_graph(MODEL_FILE).engine(self._component.spec_of_any_batch(shapes))

    def changed(self, weights: "ComponentWeights", changes: "Changes") -> "_OpenComponent":
        """A session of its own over the same file, with the changed weights in the place of its own."""
        from latentrt.engines.backends.ort_cpu.changed import compiled_changes

        replaced = compiled_changes(self._component.name, self._model.opening.folder, weights, changes)
        # Packed, they would be in memory twice; what that costs a step is in docs/rooms/engines.md
        packs = self._component.record.precision is Precision.INT8 or not self._component.kind.many_rows
        return _OpenComponent(self._component, self._model.with_weights(replaced, packs=packs))

    def close(self) -> None:
        """Unmaps the weights."""
        self._model.close()


class OrtCpu:
    """The ``Compiler`` of ONNX Runtime's CPU provider."""

    backend = Backend.ORT_CPU
    maker = "ONNX Runtime"
    flags: Mapping[str, str] = FLAGS
    lora_ready = False
    added_apart = False
    deep_cache = True
    device_loop = True
    largest_hashed: int | None = HASHED_AT_OPEN
    opens_at_once = True
    opens_after_fork = True

    def version(self) -> str:
        """ONNX Runtime's."""
        return version()

    def here(self) -> str:
        """The CPU's vector extensions, by which weights are packed."""
        return cpu_features()

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
        """None: one graph takes every size."""
        return ()

    def compile(
        self, component: Component, target: Target, folder: Path, progress: Progress | None
    ) -> ContentsRecord | None:
        """Optimises the graph and packs its weights; what comes back says that there was no memory for it."""
        from latentrt.engines.backends.ort_cpu.cached_graphs import write_cached_graphs  # drawing needs none of it
        from latentrt.engines.backends.ort_cpu.compile import compile_onnx, group_norm_of
        from latentrt.engines.backends.ort_cpu.provenance import record_weights

        optimised = compile_onnx(
            component.onnx,
            folder,
            _weights_to_optimise(component),
            group_norm=group_norm_of(component),
            added_to=component.structure if _takes_added(component) else None,
        )
        record_weights(component.onnx, folder, component.named_initializers)
        if _takes_added(component):
            write_cached_graphs(component, folder)
        return None if optimised else ContentsRecord(shapes=(), layers={}, unoptimised=True)

    def would_improve(self, component: Component, engine: EngineManifest) -> bool:
        """Where it was not optimised for want of memory that is there now, or lacks a file that it would have now."""
        from latentrt.engines.backends.ort_cpu.compile import memory_to_optimise

        wanted = {WEIGHTS_FILE, *(KEEPING_FILE,) * component.kind.added_inputs, *(STEP_FILE,) * component.makes_steps}
        if not wanted <= engine.files.keys() and find_spec("onnx_ir") is not None:
            return True
        unoptimised = engine.contents is not None and engine.contents.unoptimised
        return unoptimised and memory_to_optimise(_weights_to_optimise(component))

    def open(self, component: Component, folder: Path, *, threads: int | None) -> _OpenComponent:
        """Maps the weights."""
        makes_steps = component.loop is Loop.DEVICE and (folder / STEP_FILE).is_file()
        graph = STEP_FILE if makes_steps else MODEL_FILE
        model = OrtCpuModel.of_compiled(folder, threads=threads, halves=in_halves(component), graph=graph)
        return _OpenComponent(component, model)


def _takes_added(component: Component) -> bool:
    """Whether inputs may be added: not in fp8, which nobody draws with here; it judges pictures for GPUs.

    ONNX Runtime's optimiser gives two values one name where a branch takes what fp8 was dequantized to.
    """
    return component.kind.added_inputs and component.record.precision is not Precision.FP8


def in_halves(component: Component) -> bool:
    """Whether the halves of a batch run at once: where a call has both halves of guidance."""
    return component.kind.halves and component.record.batch_per_picture > 1


def _weights_to_optimise(component: Component) -> int:
    """How many weights in fp32 would take as much memory: int8 stays int8, fp16 becomes fp32."""
    parameters, weights = component.record.parameters, component.record.weights
    if component.record.precision is not Precision.INT8 or weights is None:
        return parameters
    return component.manifest.files[weights].size // 4


def measure_onnx(component: Component, probes: "Iterable[Probe]") -> ParityRecord:
    """Gates a component's ONNX itself, on the CPU: where its engines cannot run on the machine that builds them.

    Raises:
        EngineError: ONNX Runtime refuses the graph.
        ParityError: the gate is missed.
    """
    from latentrt.engines.bundle.checks.gate import measure

    with _stored(component) as model:
        return measure(component, model.engine, probes)


def answers_of_onnx(component: Component, probes: "Iterable[Probe]") -> "list[Probe]":
    """The probes with what a component's ONNX answers to their inputs, as it is stored, on the CPU.

    Raises:
        EngineError: ONNX Runtime refuses the graph.
        ParityError: the answers are NaN or infinite.
    """
    from latentrt.engines.bundle.checks.gate import answered

    with _stored(component) as model:
        return [answered(component, model.engine, probe) for probe in probes]


@contextmanager
def _stored(component: Component) -> Iterator[_OpenComponent]:
    """A component's ONNX, not optimised."""
    from latentrt.engines.backends.ort_cpu.compile import group_norm_of, open_onnx

    model = _OpenComponent(component, open_onnx(component.onnx, group_norm_of(component)))
    try:
        yield model
    finally:
        model.close()
