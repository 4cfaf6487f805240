"""Describes a bundle, and verifies it on this machine."""

from functools import partial
from pathlib import Path
from typing import Any

from latentrt.cli.terminal import megabytes, print_table, say
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.backends.tensorrt.contents import counts_with_weights
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.gate import measure
from latentrt.engines.bundle.kinds import ComponentKind
from latentrt.engines.bundle.parity import Parity
from latentrt.engines.bundle.records.engine_manifest import EngineManifest
from latentrt.engines.bundle.records.manifest import BundleManifest
from latentrt.engines.bundle.records.seamless import Seamless
from latentrt.engines.errors import LatentrtError
from latentrt.engines.machine import gpu_of_machine
from latentrt.engines.progress import Progress, StageTimer
from latentrt.engines.store.choose import AUTO, chosen_backend
from latentrt.engines.store.components import OpenComponents
from latentrt.engines.store.store import engines_in, identity_of, record_parity

_SHOWN_NODES = 12


def describe(root: Path) -> dict[str, Any]:
    """The bundle as plain data: source, profiles, components with sizes and parity, engines.

    Raises:
        BundleError: no bundle, or damaged.
    """
    manifest = open_bundle(root).manifest
    components = {
        name: {
            "kind": record.kind.value,
            "precision": record.precision.value,
            "islands": record.islands,
            "quantization": record.quantization.model_dump(mode="json") if record.quantization else None,
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
            "key": engine.key,
            "component": engine.component,
            "backend": engine.backend.value,
            "version": engine.backend_version,
            "precision": engine.precision.value,
            "machine": engine.machine,
            "profiles": list(engine.shapes),
            "workspace_mb": engine.workspace_mb,
            "bytes": sum(file.size for file in engine.files.values()),
            "contents": engine.contents.model_dump(mode="json") if engine.contents else None,
            "parity": engine.parity.model_dump() if engine.parity else None,
            "fits_this_machine": _fits(root, manifest, engine),
        }
        for engine in sorted(engines_in(root), key=partial(_place, tuple(manifest.components)))
    ]
    return {
        "bundle": str(root),
        "family": manifest.family,
        "precision": manifest.precision.value,
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


def _place(components: tuple[str, ...], engine: EngineManifest) -> tuple[object, ...]:
    """Engines are listed by component, backend and machine; those of no component of the bundle at the end."""
    known = engine.component in components
    return components.index(engine.component) if known else len(components), engine.backend, engine.machine, engine.key


def _fits(root: Path, manifest: BundleManifest, engine: EngineManifest) -> bool:
    if engine.component not in manifest.components:
        return False
    compiler = COMPILERS[engine.backend]
    try:
        component = Component(root=root, manifest=manifest, name=engine.component)
        return identity_of(component, compiler, compiler.here()).key == engine.key
    except LatentrtError:
        return False


def print_description(description: dict[str, Any]) -> None:
    """``describe``'s data as tables."""
    schedule, defaults = description["schedule"], description["defaults"]
    say(f"{description['bundle']}: {description['source']} ({description['family']})")
    for name, row in description["decisions"].items():
        say(f"{name.removesuffix(' type'):<10} {row['value']} ({row['reason']})")
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
        ("component", "precision", "parameters", "ONNX", "rel. error", "PSNR dB"),
        [
            (
                name,
                _precision(row),
                f"{row['parameters'] / 1e6:.1f} M",
                megabytes(row["onnx_bytes"]),
                f"{row['parity']['relative_error']:.1e}",
                f"{row['parity']['psnr']:.1f}",
            )
            for name, row in description["components"].items()
        ],
    )
    for name, row in description["components"].items():
        if row["quantization"] is not None:
            _print_quantization(name, ComponentKind(row["kind"]), row["quantization"])
    print_table(
        "engines",
        ("component", "engine", "here", "size", "layers", "PSNR dB"),
        [
            (
                row["component"],
                _engine_name(row),
                "yes" if row["fits_this_machine"] else "no",
                megabytes(row["bytes"]),
                _layers_by_dtype(row["contents"]),
                f"{row['parity']['psnr']:.1f}" if row["parity"] else "–",
            )
            for row in description["engines"]
        ],
    )
    for made in dict.fromkeys((row["backend"], row["version"], row["machine"]) for row in description["engines"]):
        say(f"{made[0]} {made[1]} for {made[2]}")
    shapes = _shape_rows(description["engines"])
    if shapes:
        print_table("compiled shapes", ("component", "profiles", "inputs", "outputs", "layers"), shapes)
    if any(row["parity"] is None for row in description["engines"]):
        say("–: not measured, as it was compiled for another machine; run latentrt verify there")
    if any(row["contents"] and row["contents"]["unoptimised"] for row in description["engines"]):
        say("not optimised: too little memory was free; run latentrt build again with more")
    if shapes:
        say("layers: convolutions and matrix products, by dtype")


def _print_quantization(component: str, kind: ComponentKind, record: dict[str, Any]) -> None:
    """How good int8 pictures are, and the nodes whose rounding costs most, in int8 or in floating point."""
    nodes = record["nodes"]
    int8 = sum(node["int8"] for node in nodes.values())
    moved = kind.row.rounding_moves
    of_same = "" if moved == "latents" else ", decoded from the same latents,"
    say(
        f"{component} in int8 ({record['recipe']}, {record['tool']}): {int8} of {len(nodes)} nodes; "
        f"{record['pictures']} pictures of {record['steps']} steps{of_same} against fp32: mean "
        f"{record['psnr_mean']:.1f} dB, worst {record['psnr_worst']:.1f} dB ({record['worst_prompt']!r}); required "
        f"{record['quality']:g} dB"
    )
    worst = sorted(nodes.items(), key=lambda item: -item[1]["score"])[:_SHOWN_NODES]
    print_table(
        f"the {len(worst)} of {len(nodes)} nodes whose rounding moves the {moved} most (score)",
        ("node", "in", "score", "error", "alpha"),
        [
            (
                path,
                "int8" if node["int8"] else "float",
                f"{node['score']:.1e}",
                f"{node['error']:.1e}",
                "–" if node["alpha"] is None else f"{node['alpha']:g}",
            )
            for path, node in worst
        ],
    )


def _engine_name(engine: dict[str, Any]) -> str:
    """The backend, and the GPU architecture of a plan."""
    fixed = engine["contents"] and engine["contents"]["shapes"]
    return f"{engine['backend']} {gpu_of_machine(engine['machine'])}" if fixed else str(engine["backend"])


def _shape_rows(engines: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Rows for the tensors of engines of fixed shapes; equal rows of several machines once."""
    rows = []
    for engine in engines:
        for shape in engine["contents"]["shapes"] if engine["contents"] else ():
            tensors = (
                "\n".join(f"{name} ({', '.join(map(str, t['shape']))}) {t['dtype']}" for name, t in shape[side].items())
                for side in ("inputs", "outputs")
            )
            layers = sum(sum(kind.values()) for kind in engine["contents"]["layers"].values())
            rows.append((engine["component"], ", ".join(shape["profiles"]), *tensors, str(layers)))
    return list(dict.fromkeys(rows))


def _layers_by_dtype(contents: dict[str, Any] | None) -> str:
    """The convolutions and matrix products of a typed network by dtype, as in ``98 fp16, 2 fp32``."""
    if contents is None:
        return ""
    if contents["unoptimised"]:
        return "not optimised"
    counts = counts_with_weights(contents["layers"])
    layers = [f"{count} {dtype.replace('float', 'fp')}" for dtype, count in sorted(counts.items())]
    quantized = sum(contents["quantized"].values())
    return ", ".join([*layers, *([f"{quantized} with Q/DQ"] if quantized else [])])


def _precision(component: dict[str, Any]) -> str:
    """A component's precision, and how many of its nodes stay in fp32: ``fp16 + 8 fp32``."""
    kept = sum(component["islands"].values())
    return f"{component['precision']} + {kept} fp32" if kept else str(component["precision"])


def verify(
    root: Path, *, backend: str = AUTO, threads: int | None = None, progress: Progress | None = None
) -> dict[str, Parity]:
    """Hashes every file, then repeats torch's recorded runs on this machine's engines.

    Engines whose records had no figures, because they were compiled elsewhere, have them then.

    Args:
        root: the bundle's folder.
        backend: whose engines run; ``"auto"`` takes those that ``latentrt.open`` would take.
        threads: threads of a call on the CPU; None takes one per core.
        progress: receives the stages.

    Returns:
        The worst figures per component.

    Raises:
        BundleError: files are missing or altered.
        EngineError: no engine fits this machine.
        RequestError: an unknown backend or a number of threads below 1.
        ParityError: an engine misses its gate here.
    """
    timer = StageTimer(progress)
    bundle = open_bundle(root)
    with timer.stage("files"):
        bundle.check_all()
        engines = engines_in(root)
        for engine in engines:
            bundle.check_engine(engine)
    figures = {}
    with timer.stage("open"):
        chosen = chosen_backend(bundle, backend)
        compiler = COMPILERS[chosen]
        components = OpenComponents(bundle, chosen, threads=threads, hashed=[engine.key for engine in engines])
    try:
        for name in bundle.manifest.components:
            component = Component(root=bundle.root, manifest=bundle.manifest, name=name)
            chunks = 1 if compiler.profiles(component) else None
            key = identity_of(component, compiler, compiler.here()).key
            with timer.stage(name):
                engine_at = partial(components.engine, name)
                parity = measure(component, engine_at, bundle.probes(name), largest_chunks=chunks)
            for engine in engines:
                if engine.key == key:
                    record_parity(bundle.root, engine, parity)
            figures[name] = parity.parity
    finally:
        components.close()
    return figures
