"""A bundle as plain data: source, profiles, components and engines."""

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from latentrt.engines.backends.compiler import WeightsAs
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.bundle import AddonBundle, AnyBundle, UpscalerBundle, folder_and_seal
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.manifests.components_manifest import ComponentsManifest
from latentrt.engines.bundle.records.manifests.engine_manifest import ADDED, CHANGES, LOOP, WEIGHTS, EngineManifest
from latentrt.engines.bundle.records.manifests.seal import Seal
from latentrt.engines.errors import BundleError, LatentrtError
from latentrt.engines.shapes import Loop
from latentrt.engines.store.choose import best_backend
from latentrt.engines.store.speed import speed_and_seal
from latentrt.engines.store.store import engine_and_seal, engine_folders, identity_of


def describe(root: Path) -> dict[str, Any]:
    """A bundle of any sort as plain data: source, profiles, components with sizes and parity, engines.

    One whose seal is broken is described as it is; ``seal`` says so, of the bundle and of each engine.

    Raises:
        BundleError: no bundle, or damaged.
    """
    bundle, seal = folder_and_seal(root)
    manifest = bundle.manifest
    components = {
        name: {
            "kind": record.kind.value,
            "precision": record.precision.value,
            "islands": record.islands,
            "sparsity": record.sparsity.model_dump(mode="json") if record.sparsity else None,
            "quantization": record.quantization.model_dump(mode="json") if record.quantization else None,
            "parameters": record.parameters,
            "onnx_bytes": sum(manifest.files[file].size for file in (record.onnx, record.weights) if file),
            "remainder_bytes": manifest.files[record.remainders].size if record.remainders else 0,
            "inputs": {key: list(tensor.shape) for key, tensor in record.inputs.items()},
            "outputs": {key: list(tensor.shape) for key, tensor in record.outputs.items()},
            "reference": record.reference.value,
            "parity": record.parity.model_dump(),
        }
        for name, record in manifest.components.items()
    }
    engines = [
        {
            "key": engine.key,
            "component": engine.component,
            "backend": engine.backend.value,
            "version": engine.backend_version,
            "precision": engine.precision.value,
            "machine": engine.machine,
            "profiles": list(engine.shapes),
            "lora_ready": engine.flags.get(WEIGHTS) == WeightsAs.INPUTS,
            "added": engine.flags[ADDED].split(",") if ADDED in engine.flags else [],
            "loop": engine.flags.get(LOOP, Loop.HOST.value),
            "changes": engine.flags.get(CHANGES),
            "workspace_mb": engine.workspace_mb,
            "bytes": sum(file.size for file in engine.files.values()),
            "contents": engine.contents.model_dump(mode="json") if engine.contents else None,
            "parity": engine.parity.model_dump() if engine.parity else None,
            "seal": _described(engine_seal),
            "fits_this_machine": engine_seal.intact and _fits(root, manifest, engine),
        }
        for engine, engine_seal in sorted(_engines(root), key=partial(_place, tuple(manifest.components)))
    ]
    return {
        "bundle": str(root),
        "seal": _described(seal),
        "family": manifest.family,
        "precision": manifest.precision.value,
        "source": manifest.source.name,
        "revision": manifest.source.revision,
        "decisions": {name: row.model_dump() for name, row in manifest.source.decisions.items()},
        "unread": {name: list(names) for name, names in manifest.source.unread.items()},
        "latentrt": manifest.latentrt,
        "exporter": manifest.exporter,
        "profiles": [str(profile) for profile in manifest.profiles],
        **_of_sort(bundle),
        "auto": _auto(bundle),
        "speed": _speed(root),
        "components": components,
        "engines": engines,
    }


def _of_sort(bundle: AnyBundle) -> dict[str, Any]:
    """What bundles of one sort say and others do not; ``addon`` and ``upscaler`` are None where it is neither."""
    if isinstance(bundle, UpscalerBundle):
        upscaler = bundle.manifest
        return {
            "addon": None,
            "upscaler": upscaler.upscaler,
            "scale": upscaler.scale,
            "pixel_multiple": upscaler.pixel_multiple,
            "smallest": upscaler.smallest,
        }
    if isinstance(bundle, AddonBundle):
        addon = bundle.manifest
        return {
            "latents": addon.latents.model_dump(),
            "addon": addon.addon.value,
            "upscaler": None,
            "control": addon.control.model_dump() if addon.control else None,
            "image_prompt": addon.image_prompt.model_dump() if addon.image_prompt else None,
        }
    manifest = bundle.manifest
    conditioning = manifest.conditioning
    return {
        "latents": manifest.latents.model_dump(),
        "addon": None,
        "upscaler": None,
        "task": conditioning.task.value,
        "image_encoder": conditioning.image_encoder.model_dump(mode="json") if conditioning.image_encoder else None,
        "pose": conditioning.pose.model_dump(mode="json") if conditioning.pose else None,
        "concatenated": conditioning.concatenated.model_dump() if conditioning.concatenated else None,
        "loras": [lora.model_dump() for lora in manifest.loras],
        "fused_from": manifest.fused_from,
        "pictures": manifest.pictures.model_dump() if manifest.pictures else None,
        "schedule": manifest.schedule.model_dump(mode="json"),
        "preview_psnr": manifest.preview.psnr,
        "seamless": manifest.seamless.value,
        "defaults": manifest.defaults.model_dump(),
    }


def _auto(bundle: AnyBundle) -> str | None:
    """The backend that draws where nobody names one; None where none can."""
    try:
        return best_backend(bundle).value
    except LatentrtError:
        return None


def _speed(root: Path) -> dict[str, Any] | None:
    """What a build for speed measured, and whether that was edited; None where there was none, or it is damaged."""
    with suppress(BundleError):
        found = speed_and_seal(root)
        if found is not None:
            return {**found[0].model_dump(mode="json"), "seal": _described(found[1])}
    return None


def _described(seal: Seal) -> dict[str, Any]:
    return {"intact": seal.intact, "got": seal.computed, "expected": seal.recorded}


def _engines(root: Path) -> list[tuple[EngineManifest, Seal]]:
    found = []
    for folder in engine_folders(root):
        with suppress(BundleError):
            found.append(engine_and_seal(folder))
    return found


def _place(components: tuple[str, ...], sealed: tuple[EngineManifest, Seal]) -> tuple[object, ...]:
    """Engines are listed by component, backend and machine; those of no component of the bundle at the end."""
    engine = sealed[0]
    known = engine.component in components
    return components.index(engine.component) if known else len(components), engine.backend, engine.machine, engine.key


def _fits(root: Path, manifest: ComponentsManifest, engine: EngineManifest) -> bool:
    if engine.component not in manifest.components:
        return False
    compiler = COMPILERS[engine.backend]
    try:
        component = Component(root=root, manifest=manifest, name=engine.component)
        return identity_of(component, compiler, compiler.here(), engine.variant).key == engine.key
    except LatentrtError:
        return False
