"""Looks at a bundle: what it holds, and whether it is whole and right on this machine."""

from pathlib import Path
from typing import Any

from latentrt.engines.bundle import open_bundle
from latentrt.engines.cache import OpenComponents, current_key, engines_in
from latentrt.engines.errors import LatentrtError
from latentrt.engines.parity import EXACT, Parity, gate
from latentrt.engines.precision import Backend
from latentrt.engines.progress import Progress, StageTimer
from latentrt.engines.seamless import Seamless
from latentrt.terminal import megabytes, print_table, say


def describe(root: Path) -> dict[str, Any]:
    """The bundle as plain data: source, profiles, components with sizes and parity, engines.

    Raises:
        BundleError: no bundle, or damaged.
    """
    manifest = open_bundle(root).manifest
    components = {
        name: {
            "precision": record.precision.value,
            "parameters": record.parameters,
            "onnx_bytes": sum(manifest.files[file].size for file in (record.onnx, record.weights) if file),
            "inputs": {key: list(tensor.shape) for key, tensor in record.inputs.items()},
            "outputs": {key: list(tensor.shape) for key, tensor in record.outputs.items()},
            "parity": record.parity.model_dump(),
        }
        for name, record in manifest.components.items()
    }
    engines = [
        {
            "component": engine.component,
            "backend": engine.backend.value,
            "version": engine.backend_version,
            "machine": engine.machine,
            "bytes": sum(file.size for file in engine.files.values()),
            "parity": engine.parity.model_dump(),
            "fits_this_machine": _fits(manifest, engine.component, engine.backend, engine.key),
        }
        for engine in engines_in(root)
    ]
    return {
        "bundle": str(root),
        "family": manifest.family,
        "source": manifest.source.name,
        "revision": manifest.source.revision,
        "decisions": {name: row.model_dump() for name, row in manifest.source.decisions.items()},
        "latentrt": manifest.latentrt,
        "exporter": manifest.exporter,
        "profiles": [str(profile) for profile in manifest.profiles],
        "schedule": manifest.schedule.model_dump(mode="json"),
        "latents": manifest.latents.model_dump(),
        "preview_psnr": manifest.preview.psnr,
        "seamless": manifest.seamless.value,
        "defaults": manifest.defaults.model_dump(),
        "components": components,
        "engines": engines,
    }


def _fits(manifest: Any, component: str, backend: Backend, key: str) -> bool:
    try:
        return component in manifest.components and current_key(manifest, component, backend) == key
    except LatentrtError:
        return False


def print_description(description: dict[str, Any]) -> None:
    """``describe``'s data as tables."""
    schedule, defaults = description["schedule"], description["defaults"]
    say(f"{description['bundle']}: {description['source']} ({description['family']})")
    for name, row in description["decisions"].items():
        say(f"{name:<10} {row['value']} ({row['reason']})")
    say(f"profiles   {', '.join(description['profiles'])}")
    say(
        f"schedule   {schedule['prediction_type']}, {schedule['beta_schedule']} "
        f"{schedule['beta_start']:g} to {schedule['beta_end']:g}, {schedule['num_train_timesteps']} timesteps"
    )
    if description["seamless"] != Seamless.NONE:
        say(f"seamless   {description['seamless']}")
    say(
        f"defaults   {defaults['sampler']}, {defaults['num_inference_steps']} steps, "
        f"guidance {defaults['guidance_scale']:g}"
    )
    print_table(
        "components",
        ("component", "precision", "parameters", "ONNX", "relative error", "PSNR dB"),
        [
            (
                name,
                row["precision"],
                f"{row['parameters'] / 1e6:.1f} M",
                megabytes(row["onnx_bytes"]),
                f"{row['parity']['relative_error']:.1e}",
                f"{row['parity']['psnr']:.1f}",
            )
            for name, row in description["components"].items()
        ],
    )
    print_table(
        "engines",
        ("component", "backend", "version", "size", "fits here"),
        [
            (row["component"], row["backend"], row["version"], megabytes(row["bytes"]),
             "yes" if row["fits_this_machine"] else f"no: {row['machine']}")
            for row in description["engines"]
        ],
    )  # fmt: skip


def verify(root: Path, *, threads: int | None = None, progress: Progress | None = None) -> dict[str, Parity]:
    """Hashes every file, then repeats torch's recorded runs on this machine's engines.

    Returns:
        The worst figures per component.

    Raises:
        BundleError: files are missing or altered.
        EngineError: no engine fits this machine.
        ParityError: an engine misses its gate here.
    """
    timer = StageTimer(progress)
    bundle = open_bundle(root)
    with timer.stage("files"):
        bundle.check_all()
        for engine in engines_in(root):
            bundle.check_engine(engine)
    figures = {}
    with timer.stage("open"):
        components = OpenComponents(bundle, Backend.ORT_CPU, threads=threads)
    try:
        for name, record in bundle.manifest.components.items():
            with timer.stage(name):
                worst = EXACT
                for probe in bundle.probes(name):
                    chunks = bundle.manifest.chunks(name, probe.inputs)
                    outputs = components.engine(name, probe.profile, chunks).run(probe.inputs)
                    worst = worst.worse(probe.parity(outputs))
                gate(name, worst, record.precision)
            figures[name] = worst
    finally:
        components.close()
    return figures
