"""Fuses LoRAs into a bundle: a new one with other weights in the same graphs. Neither torch nor onnx is needed."""

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import numpy as np

from latentrt.arguments.loras import LoraArgument
from latentrt.building.compiling import EnginesToMake, compile_all, compile_missing
from latentrt.building.conversions.source import check_unchanged
from latentrt.building.destination import check_space, existing_bundle
from latentrt.building.loras import changes_from_loras, lora_records, loras_decision
from latentrt.engines.backends.ort_cpu.backend import answers_of_onnx
from latentrt.engines.bundle.bundle import Bundle, open_bundle
from latentrt.engines.bundle.checked_files import record_files
from latentrt.engines.bundle.checks.parity import Reference
from latentrt.engines.bundle.checks.probes import write_probes
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.manifests.components_manifest import BUNDLE_FILE, DecisionRecord
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest, LoraRecord
from latentrt.engines.bundle.records.manifests.manifest_file import write_manifest
from latentrt.engines.changes import Changes
from latentrt.engines.errors import RequestError
from latentrt.engines.files import locked, staged_directory
from latentrt.engines.precision import EIGHT_BITS
from latentrt.engines.progress import StageTimer
from latentrt.engines.store.store import engine_folder, engine_whole, target_identity
from latentrt.runtime.adapters.formats.model_weights import model_weights_of


def fuse_bundle(
    source: Bundle,
    destination: Path,
    loras: Sequence[LoraArgument],
    engines: EnginesToMake,
    timer: StageTimer,
    decided: Callable[[Mapping[str, DecisionRecord]], None] | None = None,
) -> tuple[Bundle, bool]:
    """Makes a bundle of another with LoRAs in its weights, unless it is there already.

    Args:
        source: the other bundle, in fp32, fp16 or bf16.
        destination: where to write.
        loras: what is fused.
        engines: what is compiled of the result.
        timer: receives the stages.
        decided: receives a line on the LoRAs, before the work begins.

    Returns:
        The bundle, and whether it was there already and lacked nothing.

    Raises:
        RequestError: the destination is the source, the source is in eight bits, in a precision that the backend does
            not compute, or has such a LoRA already, or a LoRA that is damaged or for another model.
        ParityError: numbers that its precision cannot hold, or an engine misses its gate.
        BundleError: the source is damaged, or was replaced meanwhile.
    """
    old = source.manifest
    if destination == source.root:
        raise RequestError(
            f"got {str(destination)!r} as the bundle and as the result; choose another folder for the result"
        )
    _check_weights(source)
    engines.check_precision(old.precision)
    records = (*old.loras, *lora_records(loras))
    _check_names(records)
    made = old.model_copy(
        update={
            "loras": records,
            "fused_from": _digest(old),
            "pictures": None,  # those that were judged were drawn without
            "source": old.source.model_copy(update={"decisions": {**old.source.decisions, **loras_decision(records)}}),
        }
    )
    with locked(destination):
        source.check_all()
        existing = existing_bundle(destination, lambda there: _fused_alike(there, made))
        if existing is not None:
            return existing, not compile_missing(existing, engines, timer)
        with timer.stage("LoRAs: read"):
            changes = changes_from_loras(loras, *model_weights_of(source))
        if decided is not None:
            decided(loras_decision(records))
        parameters = sum(record.parameters for record in old.components.values())
        check_space(destination, parameters, old.precision, engines)
        with staged_directory(destination) as root:
            copy_files(source, root)
            made = with_changes(source, made, root, changes, timer)
            _copy_engines(source, made, root, engines)
            made = compile_all(root, made, engines, timer)
            check_unchanged(source)
            write_manifest(root / BUNDLE_FILE, made)
    return open_bundle(destination), False


def _check_weights(source: Bundle) -> None:
    """Refuses a bundle whose weights were rounded or pruned.

    Raises:
        RequestError: naming what to do.
    """
    if any(record.sparsity is not None for record in source.manifest.components.values()):
        raise RequestError(
            f"got LoRAs for {str(source.root)!r}, a bundle with zeros among its weights, which LoRAs would fill; fuse "
            "them into the bundle that it was made of, and build with --sparsity of that"
        )
    precision = source.manifest.precision
    if precision in EIGHT_BITS:
        raise RequestError(
            f"got LoRAs for {str(source.root)!r}, a bundle in {precision}, whose weights are rounded as they are; "
            f"fuse them into its bundle in fp32, and build {precision} of that: latentrt build FUSED --precision "
            f"{precision} -o DIR"
        )


def _check_names(records: Sequence[LoraRecord]) -> None:
    """Refuses a LoRA that is in the bundle already.

    Raises:
        RequestError: naming it.
    """
    names = [record.name for record in records]
    twice = next((record for record in records if names.count(record.name) > 1), None)
    if twice is not None:
        raise RequestError(
            f"got LoRA {twice.name!r} for a bundle that has it fused already ({twice}); fuse it into the bundle that "
            "has none, with the whole weight, or rename the file if it is another"
        )


def _digest(manifest: BundleManifest) -> str:
    """SHA-256 of all that a bundle says, digests of its files included, but for the figures, which vary."""
    figures = {"components": {"__all__": {"parity"}}}
    return hashlib.sha256(manifest.model_dump_json(exclude=figures).encode()).hexdigest()


def _fused_alike(there: BundleManifest, made: BundleManifest) -> bool:
    """Whether the same LoRAs were fused into the same files."""
    return (there.fused_from, there.loras, there.latentrt) == (made.fused_from, made.loras, made.latentrt)


def copy_files(source: Bundle, root: Path) -> None:
    """Copies a bundle's portable files."""
    for name in source.manifest.files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.path(name), root / name)


def with_changes(
    source: Bundle, manifest: BundleManifest, root: Path, changes: Mapping[str, Changes], timer: StageTimer
) -> BundleManifest:
    """Writes changed weights into the copied files, and runs what they changed anew; returns the new manifest.

    A component whose graph stays, as where only token embeddings change, keeps its runs in torch.
    """
    written: set[str] = set()
    for name, change in changes.items():
        with timer.stage(f"{name}: new weights"):
            files = _write_weights(source, name, change, root)
        written |= files
        record = manifest.components[name]
        if record.weights not in files:
            continue
        component = Component(root=root, manifest=manifest, name=name)
        with timer.stage(f"{name}: reference"):
            probes = answers_of_onnx(component, source.probes(name))
        write_probes(root / record.probes, probes)
        written.add(record.probes)
        changed = record.model_copy(update={"reference": Reference.ONNX})
        manifest = manifest.model_copy(update={"components": {**manifest.components, name: changed}})
    with timer.stage("digests"):
        digests = {**manifest.files, **record_files(root, written)}
    return manifest.model_copy(update={"files": digests})


def _write_weights(source: Bundle, component: str, changes: Changes, root: Path) -> set[str]:
    """Writes a component's changed weights where its bundle says that they are; returns the files' names.

    Raises:
        RequestError: numbers that the bundle's precision cannot hold.
    """
    weights = source.weights(component)
    files = {}
    with ExitStack() as open_files:
        for name, change in changes.weights.items():
            new = change(np.asarray(weights.array(name), np.float32))
            for place, content in weights.placed(name, new):
                if place.file not in files:
                    files[place.file] = open_files.enter_context((root / place.file).open("r+b"))
                files[place.file].seek(place.offset)
                files[place.file].write(content.data)
    return set(files)


def _copy_engines(source: Bundle, manifest: BundleManifest, root: Path, engines: EnginesToMake) -> None:
    """Takes the source's engines of components that are the same."""
    for name in manifest.components:
        component = Component(root=source.root, manifest=source.manifest, name=name)
        if component.onnx_sha256 != Component(root=root, manifest=manifest, name=name).onnx_sha256:
            continue
        for variant, target in product(engines.variants(component), engines.targets):
            if engine_whole(variant, engines.compiler, target) is not None:
                identity = target_identity(variant, engines.compiler, target)
                shutil.copytree(engine_folder(source.root, identity), engine_folder(root, identity))
