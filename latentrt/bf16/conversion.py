"""Writes the components of a bundle in fp32 again, in bf16."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from latentrt.engines.bundle.bundle import BundleFolder
from latentrt.engines.bundle.checked_files import record_files
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.component import ComponentRecord, FileRecord
from latentrt.engines.bundle.records.manifests.components_manifest import ComponentsManifest
from latentrt.engines.bundle.records.named_weights import write_named_weights
from latentrt.engines.errors import RequestError
from latentrt.engines.graphs.half_weights import write_halved
from latentrt.engines.graphs.islands import asked_islands, islands_of, refuse_unmatched
from latentrt.engines.precision import Precision
from latentrt.engines.progress import Progress

_Manifest = TypeVar("_Manifest", bound=ComponentsManifest)


class Converted(NamedTuple):
    """What a conversion wrote: new records of components and of files."""

    components: Mapping[str, ComponentRecord]
    files: Mapping[str, FileRecord]


def convert(source: BundleFolder, root: Path, kept_fp32: Collection[str], progress: Progress) -> Converted:
    """Writes the graphs of a bundle in bf16, their weights and the names of these; its other files are not touched.

    Args:
        source: the bundle in fp32.
        root: the bundle that is written; it may be the source.
        kept_fp32: components that stay as they are, beside those that are islands as a whole; and modules of them,
            ``COMPONENT:SCOPE``.
        progress: receives the stages.

    Raises:
        CheckpointError: weights that bf16 cannot hold.
        RequestError: a component that is not in fp32, or modules that there are none of.
    """
    components: dict[str, ComponentRecord] = {}
    files: dict[str, FileRecord] = {}
    for name, record in source.manifest.components.items():
        whole = any(one.is_whole for one in islands_of(source.manifest.family, name, Precision.BF16))
        if whole or name in kept_fp32:
            continue
        if record.precision is not Precision.FP32:
            raise RequestError(
                f"got a bundle whose {name} is {record.precision}, expected fp32 to make bf16 of; build from the model"
            )
        with progress.stage(f"{name}: bf16"):
            components[name], written = _convert(source, name, root, kept_fp32)
        files |= written
    return Converted(components, files)


def convert_in_place(root: Path, manifest: _Manifest, kept_fp32: Collection[str], progress: Progress) -> _Manifest:
    """Turns a bundle in fp32 that is being written into one in bf16.

    Returns:
        Its new manifest.

    Raises:
        CheckpointError: weights that bf16 cannot hold.
    """
    converted = convert(BundleFolder(root=root, manifest=manifest), root, kept_fp32, progress)
    replaced = graph_files({name: manifest.components[name] for name in converted.components})
    for name in replaced:
        (root / name).unlink()
    files = {name: row for name, row in manifest.files.items() if name not in replaced}
    return manifest.model_copy(
        update={
            "precision": Precision.BF16,
            "kept_fp32": tuple(kept_fp32),
            "components": {**manifest.components, **converted.components},
            "files": {**files, **converted.files},
        }
    )


def graph_files(components: Mapping[str, ComponentRecord]) -> set[str]:
    """The files that hold components' graphs and weights."""
    return {name for record in components.values() for name in (record.onnx, record.weights) if name}


def _convert(
    source: BundleFolder, name: str, root: Path, kept_fp32: Collection[str]
) -> tuple[ComponentRecord, dict[str, FileRecord]]:
    """One component's record and files."""
    old = source.manifest.components[name]
    folder = f"onnx/{Precision.BF16}/{name}"
    graph = f"{folder}/{Path(old.onnx).name}"
    (root / folder).mkdir(parents=True)
    component = Component(root=source.root, manifest=source.manifest, name=name)
    islands = islands_of(source.manifest.family, name, Precision.BF16, kept_fp32)
    halved = write_halved(source.weights(name), component.onnx, root / graph, root, islands, Precision.BF16)
    refuse_unmatched(asked_islands(name, kept_fp32), halved.islands)
    (root / old.named_weights).parent.mkdir(parents=True, exist_ok=True)
    write_named_weights(root / old.named_weights, halved.weights)
    written = {f"{folder}/{path.name}" for path in (root / folder).iterdir()}
    record = old.model_copy(
        update={
            "onnx": graph,
            "weights": next(iter(written - {graph}), None),
            "precision": Precision.BF16,
            "islands": halved.islands,
        }
    )
    return record, record_files(root, {*written, old.named_weights})
