"""What rounding is worth: a U-Net's calls with all of its layers in eight bits, and with some of them left out."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from latentrt.benchmarks.gpu.models import Model
from latentrt.benchmarks.gpu.stage import Settings
from latentrt.benchmarks.report.figures import Figure
from latentrt.benchmarks.report.gpu.schema import PairsRow, Row
from latentrt.cli.terminal import BuildProgress
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.bundle import Bundle, open_bundle
from latentrt.engines.bundle.checked_files import record_files
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.graphs.quantization.unpaired import write_unpaired
from latentrt.engines.precision import Backend
from latentrt.engines.progress import StageTimer
from latentrt.engines.shapes import Shapes
from latentrt.engines.spec import Array, EngineSpec
from latentrt.engines.store.store import compiled_folder
from latentrt.quantization.timing import paired_ratios

_ROUNDS = 10  # pairs of calls for each timed call of other stages


class Layers(StrEnum):
    """Kinds of layers that are left out together: those of one kind have much the same shapes all over a U-Net."""

    CONVOLUTIONS = "convolutions"
    ATTENTION = "attention"
    FEED_FORWARD = "feed-forward"
    OTHERS = "others"

    def holds(self, path: str, operator: str) -> bool:
        """Whether the layer of a torch module is of this kind."""
        words = path.split(".")
        if operator == "Conv":
            kind = Layers.CONVOLUTIONS
        elif any(word.startswith("attn") for word in words):
            kind = Layers.ATTENTION
        else:
            kind = Layers.FEED_FORWARD if "ff" in words else Layers.OTHERS
        return self is kind


def worth(
    settings: Settings, stage: str, model: Model, precision: str, backend: str, bundle: Path, layers: Layers
) -> Iterator[Row]:
    """Compiles the U-Net once more with such layers in floating point, and times both in turn; none has no row."""
    opened, compiler = open_bundle(bundle), COMPILERS[Backend(backend)]
    whole = Component(root=opened.root, manifest=opened.manifest, name=UNET)
    with TemporaryDirectory(dir=bundle.parent, prefix=".pairs-") as work:
        without, turned = _without(opened, layers, Path(work))
        if not turned:
            return
        folder = Path(work) / "engine"
        folder.mkdir()
        timer = StageTimer(BuildProgress())
        with timer.stage(f"{UNET} without {layers} in {precision}: compile"):
            (target,) = compiler.targets(())
            compiler.compile(without, target, folder, timer)
        with (
            closing(compiler.open(without, folder, threads=None)) as some,
            closing(compiler.open(whole, compiled_folder(whole, Backend(backend)), threads=None)) as all_of_them,
        ):
            engine, exact = (opened_one.engine(Shapes(profile=model.profile())) for opened_one in (some, all_of_them))
            ratios = paired_ratios(engine, exact, _inputs(exact.spec), _ROUNDS * settings.runs, lambda done: None)
        yield PairsRow(
            stage=stage,
            model=model.name,
            precision=precision,
            backend=backend,
            layers=layers.value,
            count=turned,
            ratio=Figure.of(ratios.tolist()),
        )


def _without(bundle: Bundle, layers: Layers, root: Path) -> tuple[Component, int]:
    """A bundle's U-Net with such layers in floating point, in a folder of its own, and how many those are."""
    record = bundle.manifest.components[UNET]
    if record.quantization is None:
        return Component(root=root, manifest=bundle.manifest, name=UNET), 0
    nodes = record.quantization.nodes

    def chosen(path: str, operator: str) -> bool:
        return path in nodes and nodes[path].rounded and layers.holds(path, operator)

    graph, names = root / record.onnx, root / record.named_weights
    turned = write_unpaired(bundle.path(record.onnx), chosen, graph)
    names.parent.mkdir(parents=True, exist_ok=True)
    names.write_bytes(bundle.path(record.named_weights).read_bytes())
    left = {
        path: node.model_copy(update={"rounded": False}) if path in turned else node for path, node in nodes.items()
    }
    files = record_files(root, [str(path.relative_to(root)) for path in graph.parent.iterdir()])
    unet = record.model_copy(
        update={
            "weights": next(name for name in files if name != record.onnx),
            "quantization": record.quantization.model_copy(update={"nodes": left}),
        }
    )
    components = {**bundle.manifest.components, UNET: unet}
    manifest = bundle.manifest.model_copy(
        update={"components": components, "files": {**bundle.manifest.files, **files}}
    )
    return Component(root=root, manifest=manifest, name=UNET), len(turned)


def _inputs(spec: EngineSpec) -> Mapping[str, Array]:
    """Noise for the inputs of a call that have to be given."""
    noise, batch = np.random.default_rng(0), spec.batches[-1]
    return {
        name: noise.standard_normal(tensor.sized(batch)).astype(tensor.dtype)
        for name, tensor in spec.inputs.items()
        if tensor.neutral is None
    }
