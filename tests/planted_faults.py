"""Bundles with a fault in their weights, and what debugging tells of them."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from latentrt.debugging.debug import DebugSettings, debug_component
from latentrt.debugging.findings import Findings
from latentrt.debugging.parts import Feed, Part
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.checked_files import record_files
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.manifests.components_manifest import BUNDLE_FILE
from latentrt.engines.bundle.records.manifests.manifest_file import write_manifest
from latentrt.engines.spec import Array

CONV = "mid_block.resnets.0.conv1.weight"


def planted(source: Path, folder: Path, component: str, weight: str, changed: Callable[[Array], Array]) -> Path:
    """A bundle with another weight in its graph, and digests that say that it belongs there."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("engines"))
    bundle = open_bundle(folder)
    (place,) = bundle.weights(component).named.weights[weight].places
    numbers = np.memmap(folder / place.file, place.dtype, "r+", place.offset, place.shape)
    numbers[...] = changed(np.array(numbers))
    numbers.flush()
    files = {**bundle.manifest.files, **record_files(folder, [place.file])}
    write_manifest(folder / BUNDLE_FILE, bundle.manifest.model_copy(update={"files": files}))
    return folder


def enlarged(weight: Array) -> Array:
    """As large as fp16 allows, so that what it makes does not fit."""
    weight = weight.astype(np.float32)
    return weight * (6e4 / np.abs(weight).max())


def disturbed(weight: Array) -> Array:
    """A weight with one output channel of another sign."""
    weight[..., 0, 0] *= -1
    weight[0] *= -1
    return weight


def found(bundle: Path, component: str = "unet", **settings: object) -> Findings:
    """What debugging on ONNX Runtime tells."""
    wanted = replace(DebugSettings(backend="ort-cpu", threads=1), **settings)  # type: ignore[arg-type]
    return debug_component(bundle, component, wanted)


def part_of(bundle: Path, name: str) -> tuple[Part, list[Feed]]:
    """A component to show tensors of, and the inputs of its runs."""
    opened = open_bundle(bundle)
    component = Component(root=opened.root, manifest=opened.manifest, name=name)
    return Part(component=component, threads=1), [probe.inputs for probe in opened.probes(name)]
