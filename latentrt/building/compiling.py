"""Compiles a bundle's components for the machines that were asked for."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from latentrt.engines.backends.compiler import Compiler, Target, WeightsAs
from latentrt.engines.backends.ort_cpu.backend import measure_onnx
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.bundle import BundleFolder
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.component import ParityRecord
from latentrt.engines.bundle.records.manifests.components_manifest import ComponentsManifest
from latentrt.engines.bundle.records.sparsity import Sparsity
from latentrt.engines.bundle.unet.added_inputs import added_text
from latentrt.engines.errors import RequestError
from latentrt.engines.graphs.quantization.recipe import check_recipe
from latentrt.engines.machine import computes_fp8, gpu_of_machine
from latentrt.engines.precision import EIGHT_BITS, Backend, Precision, check_computes
from latentrt.engines.progress import StageTimer
from latentrt.engines.shapes import AddedInputs, Loop
from latentrt.engines.store.compile import compile_component
from latentrt.engines.store.store import engine_whole

_Manifest = TypeVar("_Manifest", bound=ComponentsManifest)


@dataclass(frozen=True, kw_only=True)
class EnginesToMake:
    """The engines to make of every component: one per target; of U-Nets a second one, where inputs are added.

    So it is where the loop is on the device, for which that one makes whole steps.
    """

    compiler: Compiler
    targets: tuple[Target, ...]
    added: frozenset[AddedInputs] = frozenset()
    loop: Loop = Loop.HOST

    def components(self, bundle: BundleFolder) -> list[Component]:
        """All components of a bundle.

        Raises:
            RequestError: none of them takes the inputs that are to be added.
        """
        components = [Component(root=bundle.root, manifest=bundle.manifest, name=n) for n in bundle.manifest.components]
        if self.added and not any(component.kind.added_inputs for component in components):
            raise RequestError(
                f"got added inputs {added_text(self.added)} for {str(bundle.root)!r}, whose components "
                f"({', '.join(bundle.manifest.components)}) take no such inputs, expected a model's bundle; leave it "
                "out here, and build the model's engines with it"
            )
        if self.loop is Loop.DEVICE and not any(component.makes_steps for component in components):
            raise RequestError(
                f"got loop {self.loop.value!r} for {str(bundle.root)!r}, whose components "
                f"({', '.join(bundle.manifest.components)}) make no whole steps, expected a model's bundle that draws "
                "pictures; leave it out"
            )
        return components

    def variants(self, component: Component) -> tuple[Component, ...]:
        """The component as it is, and with the inputs that are added, or in whole steps, if it is what has them."""
        if not component.kind.added_inputs or not (self.added or self.loop is Loop.DEVICE):
            return (component,)
        return component, replace(component, added=self.added, loop=self.loop)

    def check_precision(self, precision: Precision | None) -> None:
        """Refuses what no bundle of a precision can have.

        Raises:
            RequestError: bf16 or fp8 on a backend that does not compute it, or on such a GPU; or eight-bit weights as
                inputs: TensorRT takes them, but not their scales, which a LoRA changes.
        """
        if precision is not None:
            check_computes(self.compiler.backend, precision)
        if precision is Precision.FP8:
            _check_gpus_compute_fp8(self.targets)
        if precision in EIGHT_BITS and any(target.weights is WeightsAs.INPUTS for target in self.targets):
            raise RequestError(
                f"got lora-ready for {precision}, but TensorRT takes the scales of such weights as constants alone, "
                "and LoRAs change them; leave it out to have a plan built for each set of LoRAs, or build in fp16"
            )

    def check_sparsity(self, sparsity: Sparsity | None) -> None:
        """Refuses what no pruned bundle can have.

        Raises:
            RequestError: weights as inputs, of which a builder cannot see the zeros.
        """
        if sparsity is not None and any(target.weights is WeightsAs.INPUTS for target in self.targets):
            raise RequestError(
                f"got lora-ready for sparsity {sparsity}, but TensorRT leaves zeros out of weights alone that it can "
                "see; leave it out to have a plan built for each set of LoRAs, or build without sparsity"
            )


def _check_gpus_compute_fp8(targets: Sequence[Target]) -> None:
    """Refuses GPUs without products of such numbers, for which TensorRT builds nothing.

    Raises:
        RequestError: naming them.
    """
    older = [gpu for gpu in (gpu_of_machine(target.machine) for target in targets) if not computes_fp8(gpu)]
    if older:
        raise RequestError(
            f"got precision fp8 for {', '.join(older)}, expected GPUs from sm89 (Ada) on; build for "
            "these alone, or in fp16 or int8"
        )


def engines_to_make(
    backend: Backend,
    gpus: Sequence[str],
    workspace_mb: int | None,
    weights: WeightsAs = WeightsAs.CONSTANTS,
    added: frozenset[AddedInputs] = frozenset(),
    loop: Loop = Loop.HOST,
) -> EnginesToMake:
    """Finds out what can be compiled here, before the minutes that an export takes.

    Raises:
        RequestError: a workspace below 1 MB, GPUs that the backend does not compile for, weights as inputs where no
            engine of the backend takes any, or added inputs or a loop where every engine takes them, or none.
        EngineError: the backend is not installed or cannot run here.
    """
    if workspace_mb is not None and workspace_mb < 1:
        raise RequestError(
            f"got a workspace of {workspace_mb} MB, expected at least 1; raise it, or leave it out for no limit"
        )
    compiler = COMPILERS[backend]
    if weights is WeightsAs.INPUTS and not compiler.lora_ready:
        raise RequestError(
            f"got lora-ready for backend {backend}, whose engines take LoRAs as they are; leave it out, or choose "
            "tensorrt or tensorrt-rtx"
        )
    if added and not compiler.added_apart:
        raise RequestError(
            f"got added inputs {added_text(added)} for backend {backend}, whose engines take them as they are; leave "
            "--with out, or choose tensorrt or tensorrt-rtx"
        )
    if loop is Loop.DEVICE and not (compiler.device_loop and compiler.added_apart):
        told = "whose engines make whole steps as they are" if compiler.device_loop else "which makes no whole steps"
        raise RequestError(
            f"got loop {loop.value!r} for backend {backend}, {told}; leave it out, or choose tensorrt or tensorrt-rtx"
        )
    targets = compiler.targets(gpus, workspace_mb)
    compiler.version()  # refuses where the backend is not installed
    targets = tuple(replace(target, weights=weights) for target in targets)
    return EnginesToMake(compiler=compiler, targets=targets, added=added, loop=loop)


def compile_all(root: Path, manifest: _Manifest, engines: EnginesToMake, timer: StageTimer) -> _Manifest:
    """Compiles and gates every component of a new bundle; the figures go into the manifest.

    Where no engine could be run here, the ONNX itself passes the gate.
    """
    bundle = BundleFolder(root=root, manifest=manifest)
    records = {}
    for component in engines.components(bundle):
        name = component.name
        parity, *_ = [_compile(variant, bundle, engines, timer) for variant in engines.variants(component)]
        if parity is None:
            with timer.stage(f"{name}: gate the ONNX"):
                parity = measure_onnx(component, bundle.probes(name))
        records[name] = component.record.model_copy(update={"parity": parity})
    return manifest.model_copy(update={"components": records})


def _compile(
    component: Component, bundle: BundleFolder, engines: EnginesToMake, timer: StageTimer
) -> ParityRecord | None:
    """Compiles one component for every target; returns the figures of an engine that could be run here, if any."""
    measured = None
    _check_recipe(component, engines)
    for target in engines.targets:
        machine = f" for {target.machine}" if len(engines.targets) > 1 else ""
        with timer.stage(f"{component.label}: compile{machine}"):
            engine = compile_component(component, engines.compiler, target, bundle.probes(component.name), timer)
        if engine.contents is not None and engine.contents.unoptimised:
            warnings.warn(
                f"too little memory is free to optimise {component.name} for {engines.compiler.backend}, so it will "
                "run slower; close other programs and build again",
                stacklevel=2,
            )
        measured = engine.parity or measured
    return measured


def _check_recipe(component: Component, engines: EnginesToMake) -> None:
    if component.record.quantization is not None:
        check_recipe(component.record.quantization.recipe, engines.compiler.backend)


def compile_missing(bundle: BundleFolder, engines: EnginesToMake, timer: StageTimer) -> bool:
    """Adds to a whole bundle the engines that it lacks; returns whether there were any.

    Raises:
        RequestError: engines that no bundle of its precision can have.
    """
    engines.check_precision(bundle.manifest.precision)
    for record in bundle.manifest.components.values():
        engines.check_sparsity(None if record.sparsity is None else record.sparsity.pattern)
    lacking = [
        component
        for plain in engines.components(bundle)
        for component in engines.variants(plain)
        if not all(engine_whole(component, engines.compiler, target) for target in engines.targets)
    ]
    for component in lacking:  # all of them before the first is made, which would be of no use alone
        _check_recipe(component, engines)
    for component in lacking:
        _compile(component, bundle, engines, timer)
    return bool(lacking)
