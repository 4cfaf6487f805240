"""What pruning and rounding make of a model: size, time and pictures of several bundles beside the first one's.

``python -m latentrt.benchmarks.studies.smaller_weights fp32.bundle pruned.bundle int8.bundle both.bundle@openvino``
prints a row a bundle: the U-Net's weights on disk and as a zip packs them, a guided call's time as a multiple of the
first row's (medians of pairs that take turns, half of which lie within ±), and the PSNR of pictures drawn of the
calibration prompts with the seeds that builds judge by.
"""

import argparse
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentrt.cli.terminal import print_table
from latentrt.engines.bundle.bundle import Bundle, open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.engine import Engine
from latentrt.engines.shapes import Shapes
from latentrt.engines.spec import Array
from latentrt.engines.store.choose import AUTO, chosen_backend
from latentrt.engines.store.components import OpenComponents
from latentrt.quantization.calibration import CalibrationSet
from latentrt.quantization.psnr import picture_psnr
from latentrt.quantization.subjects import drawn_model_of
from latentrt.quantization.timing import paired_ratios, step_time_from_ratios
from latentrt.runtime.pipeline import Pipeline

_BLOCK = 1 << 22  # bytes


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A bundle on a backend, opened."""

    name: str
    bundle: Bundle
    components: OpenComponents[Bundle]

    @property
    def unet(self) -> Engine:
        """The U-Net at the first profile."""
        return self.components.engine(UNET, Shapes(profile=self.bundle.manifest.profiles[0]))

    @property
    def what(self) -> str:
        """What was done to the U-Net's layers."""
        record, done = self.bundle.manifest.components[UNET], []
        if record.sparsity is not None:
            pruned = sum(layer.pruned for layer in record.sparsity.layers.values())
            done.append(f"{pruned} of {len(record.sparsity.layers)} layers {record.sparsity.pattern}")
        if record.quantization is not None:
            nodes = record.quantization.nodes.values()
            done.append(f"{sum(node.rounded for node in nodes)} of {len(nodes)} in {record.precision}")
        return ", ".join(done) or f"{record.precision}"


def main() -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "bundles", nargs="+", metavar="DIR[@BACKEND]", help="the first is what others are compared with"
    )
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    with ExitStack() as opened:
        rows = [_opened(opened, name) for name in arguments.bundles]
        expected = list(_pictures(rows[0], arguments.steps, arguments.pictures))
        printed = [_measured(row, rows[0], expected, arguments.steps, arguments.pairs) for row in rows]
    columns = ("", "U-Net", "MB", "zip MB", "time", "±", "dB", "worst")
    print_table(f"{len(expected)} pictures of {arguments.steps} steps, {arguments.pairs} pairs", columns, printed)


def _opened(opened: ExitStack, name: str) -> _Row:
    folder, _, backend = name.partition("@")
    bundle = open_bundle(folder)
    components = OpenComponents(bundle, chosen_backend(bundle, backend or AUTO), threads=None)
    opened.enter_context(closing(components))
    return _Row(name=Path(name).name, bundle=bundle, components=components)


def _measured(row: _Row, first: _Row, expected: list[Array], steps: int, pairs: int) -> tuple[str, ...]:
    size, zipped = _megabytes(row.bundle)
    told = [row.name, row.what, f"{size:.1f}", f"{zipped:.1f}"]
    if row is first:
        return (*told, "1", "", "", "")
    psnrs = [picture_psnr(*both) for both in zip(_pictures(row, steps, len(expected)), expected, strict=True)]
    time = step_time_from_ratios(paired_ratios(row.unet, first.unet, _guided(first.bundle), pairs, lambda _: None))
    figures = (f"{time.median:.2f}", f"{time.spread:.2f}", f"{np.mean(psnrs):.1f}", f"{min(psnrs):.1f}")
    return (*told, *figures)


def _megabytes(bundle: Bundle) -> tuple[float, float]:
    """The U-Net's graph and weights in MB (10⁶ bytes), and what deflate leaves of them."""
    component = Component(root=bundle.root, manifest=bundle.manifest, name=UNET)
    zipped = 0
    for name in component.onnx_files:
        packer = zlib.compressobj(6)
        with (bundle.root / name).open("rb") as file:
            while block := file.read(_BLOCK):
                zipped += len(packer.compress(block))
        zipped += len(packer.flush())
    return component.onnx_bytes / 1e6, zipped / 1e6


def _guided(bundle: Bundle) -> dict[str, Array]:
    """The inputs of a call with guidance."""
    profile, rows = bundle.manifest.profiles[0], bundle.manifest.components[UNET].batch_per_picture
    inputs = next(probe.inputs for probe in bundle.probes(UNET) if probe.profile == profile)
    return {name: np.resize(array, (rows, *array.shape[1:])) for name, array in inputs.items()}


def _pictures(row: _Row, steps: int, count: int) -> Iterator[Array]:
    """What a bundle draws of the prompts that builds judge by."""
    calibration = CalibrationSet(prompts=drawn_model_of(row.bundle.manifest).subjects(None), steps=steps)
    for batch in calibration.judging(Pipeline(row.bundle, row.components), 0, count):
        yield from batch.images


if __name__ == "__main__":
    main()
