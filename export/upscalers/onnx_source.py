"""Upscalers in ONNX files: taken as they are, once they have shown on pictures that they are upscalers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from latentrt.engines.bundle.checks.parity import Reference
from latentrt.engines.bundle.checks.photograph import picture_pixels
from latentrt.engines.bundle.checks.probes import Probe, write_probes
from latentrt.engines.bundle.kinds import UPSCALER, ComponentKind
from latentrt.engines.bundle.records.component import ComponentRecord, ParityRecord, TensorRecord
from latentrt.engines.bundle.records.manifests.components_manifest import DecisionRecord
from latentrt.engines.bundle.records.manifests.upscaler_manifest import ENLARGED, PICTURE, SCALED_HEIGHT, SCALED_WIDTH
from latentrt.engines.bundle.records.named_weights import NamedWeights, write_named_weights
from latentrt.engines.errors import CheckpointError, EngineError, RequestError
from latentrt.engines.graphs.editor import load_graph, save_with_weights
from latentrt.engines.graphs.half import halve_file
from latentrt.engines.precision import Precision
from latentrt.engines.progress import Progress
from latentrt.engines.shapes import Profile
from latentrt.export.sources.partial_model import decision
from latentrt.export.upscalers.onnx_graph import (
    Sizes,
    answer,
    declared_size,
    files_of,
    holds_half,
    read_onnx,
    write_graph,
)
from latentrt.export.upscalers.source import DEFAULT_TILE, Exported, UpscalerSource, check_tiles, versions_of

if TYPE_CHECKING:
    import onnx_ir as ir

_UNMEASURED = ParityRecord(relative_error=float("nan"), psnr=float("nan"), cases=0)


@dataclass(frozen=True, kw_only=True)
class OnnxUpscaler(UpscalerSource):
    """An upscaler's ONNX file."""

    form = "onnx"

    @cached_property
    def model(self) -> "ir.Model":
        """Its graph; the weights stay in the file.

        Raises:
            CheckpointError: it is damaged, or something else.
        """
        return read_onnx(self.place.path)

    @property
    def paths(self) -> Sequence[Path]:
        """The file, and those that hold its weights."""
        return files_of(self.place.path, self.model)

    @property
    def parameters(self) -> int:
        """How many weights it has."""
        tensors = (value.const_value for value in self.model.graph.initializers.values())
        return sum(prod(tensor.shape.numpy()) for tensor in tensors if tensor is not None)

    @property
    def decisions(self) -> Mapping[str, DecisionRecord]:
        """What its header tells."""
        return {"kind": decision("upscaler", "an ONNX model of pictures, taken as it is")}

    @property
    def versions(self) -> Mapping[str, str]:
        """Those of what rewrites it."""
        return versions_of("onnx", "onnx-ir")

    @property
    def default_tile(self) -> Profile:
        """The size that it was exported for, where it was for one."""
        return declared_size(self.model) or DEFAULT_TILE

    def precision_for(self, requested: Precision | None) -> Precision:
        """The file's own, or fp16 or bf16 of one in fp32."""
        own = Precision.FP16 if holds_half(self.model) else Precision.FP32
        allowed = (own,) if own is Precision.FP16 else (own, Precision.FP16, Precision.BF16)
        if requested is None or requested in allowed:
            return requested or own
        expected = "fp16" if own is Precision.FP16 else "fp32, fp16 or bf16"
        raise RequestError(
            f"got precision {requested} for {self.source!r}, an upscaler whose ONNX is in {own}, expected {expected}; "
            "leave it out"
        )

    def export(
        self,
        root: Path,
        precision: Precision,
        kept_fp32: Sequence[str],
        profiles: Sequence[Profile],
        progress: Progress,
    ) -> Exported:
        """Writes the graph, tries it, and records what it makes of the photograph."""
        precision = Precision.FP32 if UPSCALER in kept_fp32 else precision
        folder = f"onnx/{precision}/{UPSCALER}"
        path = root / folder / "model.onnx"
        with progress.stage(f"{UPSCALER}: check"):
            sizes = write_graph(self.place.path, path)
        _check_size(self.source, sizes, profiles)
        with progress.stage(f"{UPSCALER}: reference"):
            probes = [_probe(path, profile) for profile in profiles]
        if precision is Precision.FP16 and not holds_half(self.model):
            _halve(self.source, path)
        write_probes(root / "probes" / f"{UPSCALER}.safetensors", probes)
        named = f"weights/{UPSCALER}.json"
        write_named_weights(root / named, NamedWeights(weights={}))
        only = sizes.only
        given = ("height", "width") if only is None else (only.height, only.width)
        larger = (
            (SCALED_HEIGHT, SCALED_WIDTH) if only is None else (only.height * sizes.scale, only.width * sizes.scale)
        )
        weights = path.with_name("model.onnx.data").is_file()
        component = ComponentRecord(
            kind=ComponentKind.UPSCALER,
            onnx=f"{folder}/model.onnx",
            weights=f"{folder}/model.onnx.data" if weights else None,
            named_weights=named,
            precision=precision,
            inputs={PICTURE: TensorRecord(shape=(1, 3, *given), dtype="float32")},
            outputs={ENLARGED: TensorRecord(shape=(1, 3, *larger), dtype="float32")},
            probes=f"probes/{UPSCALER}.safetensors",
            reference=Reference.ONNX,
            parity=_UNMEASURED,
            batch_per_picture=1,
            parameters=self.parameters,
        )
        told = {"scale": decision(f"x{sizes.scale}", "what it made of pictures")}
        if only is not None:
            told["tiles"] = decision(f"{only} alone", "the graph holds this size inside")
        return Exported(
            architecture="ONNX",
            scale=sizes.scale,
            multiple=sizes.multiple,
            smallest=1 if only is None else min(only.width, only.height),
            component=component,
            told=told,
        )


def _check_size(source: str, sizes: Sizes, profiles: Sequence[Profile]) -> None:
    if sizes.only is None:
        check_tiles(profiles, sizes.multiple, 1)
    elif tuple(profiles) != (sizes.only,):
        raise RequestError(
            f"got tiles of {', '.join(map(str, profiles))} for {source!r}, whose graph holds the size {sizes.only} "
            "inside; leave --profile out, or export it with dynamic sizes"
        )


def _probe(path: Path, profile: Profile) -> Probe:
    picture = picture_pixels(profile)
    try:
        return Probe(profile=profile, inputs={PICTURE: picture}, outputs={ENLARGED: answer(path, picture)})
    except EngineError as error:
        raise CheckpointError(f"tiles of {profile} cannot be run: {error}; give another --profile") from error


def _halve(source: str, path: Path) -> None:
    """Halves a graph in its place."""
    from onnx_ir.passes.common import ShapeInferencePass

    model = load_graph(path)
    ShapeInferencePass(check_type=False, strict_mode=False)(model)
    unknown = [node.op_type for node in model.graph.all_nodes() for value in node.outputs if value.dtype is None]
    if unknown:
        raise CheckpointError(
            f"{source!r} cannot be fp16: the types behind its nodes {', '.join(sorted(set(unknown))[:5])} are unknown; "
            "build it in fp32"
        )
    save_with_weights(model, path)
    halve_file(path, ())
