"""Builds from a bundle: the engines that it lacks on this machine, one in int8, fp8 or bf16, or with LoRAs in it."""

from collections.abc import Callable, Mapping
from pathlib import Path

from latentrt.bf16.settings import Bf16Request
from latentrt.building.compiling import compile_missing
from latentrt.building.conversions.bf16 import bf16_bundle_of
from latentrt.building.conversions.fusing import fuse_bundle
from latentrt.building.conversions.quantization import quantize_bundle
from latentrt.building.conversions.sparsity import prune_bundle
from latentrt.building.destination import destination_from_argument
from latentrt.building.request import BuildRequest
from latentrt.building.result import Build
from latentrt.engines.bundle.bundle import Bundle, open_bundle
from latentrt.engines.bundle.records.manifests.components_manifest import DecisionRecord
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.bundle.records.seamless import Seamless
from latentrt.engines.errors import RequestError
from latentrt.engines.files import locked
from latentrt.engines.precision import Precision
from latentrt.engines.progress import StageTimer
from latentrt.export.sources.partial_model import Choices
from latentrt.quantization.settings import QuantizationRequest
from latentrt.sparsity.pruning import check_not_pruned
from latentrt.sparsity.settings import SparsityRequest


def build_from_bundle(
    request: BuildRequest, timer: StageTimer, decided: Callable[[Mapping[str, DecisionRecord]], None] | None
) -> Build:
    """Makes a bundle in int8, fp8 or bf16 of one in fp32, or one with LoRAs; or else adds the engines that are missing.

    Raises:
        RequestError: something that only a build from the model can change.
        LatentrtError: of the kind that names the reason.
    """
    if request.choices != Choices():
        raise RequestError(
            "got a bundle and options about a model, expected none of variant, base, vae, ema, family and prediction "
            "type; build from the model with them"
        )
    root = Path(request.model).resolve()
    source = open_bundle(root)
    if request.sparsity is not None:
        return _build_sparse(source, request, request.sparsity, timer)
    if request.loras:
        return _build_fused(source, request, timer, decided)
    if request.quantization is not None and source.manifest.precision is not request.precision:
        check_not_pruned(source, f"precision {request.precision}", ", with --sparsity beside it")
        return _build_quantized(source, request, request.quantization, timer)
    if request.bf16 is not None and source.manifest.precision is not Precision.BF16:
        check_not_pruned(source, f"precision {request.precision}")
        return _build_bf16(source, request, request.bf16, timer)
    with locked(root):
        bundle = open_bundle(root)
        _check_portable_files_stay(bundle.manifest, request)
        if request.output is not None and request.output.resolve() != root:
            raise RequestError(
                f"got a bundle as the model and output {str(request.output)!r}, expected no output, as engines are "
                "added to the bundle itself; leave -o out"
            )
        bundle.check_all()
        compiled = compile_missing(bundle, request.engines, timer)
    return Build(bundle=bundle, up_to_date=not compiled, seconds=timer.seconds)


def _build_fused(
    bundle: Bundle,
    request: BuildRequest,
    timer: StageTimer,
    decided: Callable[[Mapping[str, DecisionRecord]], None] | None,
) -> Build:
    made_of_fp32 = request.quantization is not None or request.bf16 is not None
    if made_of_fp32 and bundle.manifest.precision is not request.precision:
        raise RequestError(
            f"got LoRAs and precision {request.precision} for a bundle, expected one of the two; fuse the LoRAs first, "
            f"and build {request.precision} of the result: latentrt build FUSED --precision {request.precision} -o DIR"
        )
    _check_portable_files_stay(bundle.manifest, request)
    destination = destination_from_argument(request.output)
    made, up_to_date = fuse_bundle(bundle, destination, request.loras, request.engines, timer, decided)
    return Build(bundle=made, up_to_date=up_to_date, seconds=timer.seconds)


def _build_bf16(bundle: Bundle, request: BuildRequest, bf16: Bf16Request, timer: StageTimer) -> Build:
    _check_shapes_stay(request)
    kept_fp32 = request.kept_fp32(bundle.manifest.needed)
    destination = destination_from_argument(request.output)
    made, up_to_date = bf16_bundle_of(bundle, destination, request.engines, bf16, timer, kept_fp32=kept_fp32)
    return Build(bundle=made, up_to_date=up_to_date, seconds=timer.seconds)


def _check_shapes_stay(request: BuildRequest) -> None:
    if request.profiles or request.seamless is not Seamless.NONE:
        raise RequestError(
            f"got profiles or seamless for a bundle, which keeps its own {_in(request)}; build from the model with them"
        )


def _in(request: BuildRequest) -> str:
    return "with zeros among its weights" if request.precision is None else f"in {request.precision}"


def _build_quantized(bundle: Bundle, request: BuildRequest, asked: QuantizationRequest, timer: StageTimer) -> Build:
    _check_shapes_stay(request)
    kept_fp32 = request.kept_fp32(bundle.manifest.needed)
    destination = destination_from_argument(request.output)
    made, up_to_date = quantize_bundle(bundle, destination, request.engines, asked, timer, kept_fp32=kept_fp32)
    return Build(bundle=made, up_to_date=up_to_date, seconds=timer.seconds)


def _build_sparse(bundle: Bundle, request: BuildRequest, sparsity: SparsityRequest, timer: StageTimer) -> Build:
    _check_shapes_stay(request)
    if request.loras:
        raise RequestError(
            "got LoRAs and sparsity for a bundle, expected one of the two; fuse the LoRAs first, and build with "
            "--sparsity of the result"
        )
    if request.quantization is None and request.precision not in (None, bundle.manifest.precision):
        raise RequestError(
            f"got precision {request.precision} and sparsity for a bundle in {bundle.manifest.precision}, expected its "
            "own precision, int8 or fp8; build from the model"
        )
    if request.fp32 and request.quantization is None:
        raise RequestError(
            f"got components to keep in fp32 ({', '.join(request.fp32)}) and sparsity for a bundle built in "
            f"{bundle.manifest.precision}; build from the model with both"
        )
    kept_fp32 = request.kept_fp32(bundle.manifest.needed)
    destination = destination_from_argument(request.output)
    made, up_to_date = prune_bundle(
        bundle, destination, request.engines, sparsity, request.quantization, timer, kept_fp32=kept_fp32
    )
    return Build(bundle=made, up_to_date=up_to_date, seconds=timer.seconds)


def _check_portable_files_stay(manifest: BundleManifest, request: BuildRequest) -> None:
    """Refuses what would change anything but engines.

    Raises:
        RequestError: naming what to build from the model.
    """
    if request.judges_otherwise:
        raise RequestError(
            f"got prompts or quality for a bundle that is in {manifest.precision} already; build from the model or "
            "from its bundle in fp32 with them"
        )
    if request.precision not in (None, manifest.precision):
        raise RequestError(
            f"got precision {request.precision} for a bundle built in {manifest.precision}; build from the model in "
            f"{request.precision}"
        )
    if request.fp32:
        raise RequestError(
            f"got components to keep in fp32 ({', '.join(request.fp32)}) for a bundle built in {manifest.precision}; "
            "build from the model with them"
        )
    unknown = [str(profile) for profile in request.profiles if profile not in manifest.profiles]
    if unknown:
        raise RequestError(
            f"got profile {', '.join(unknown)} for a bundle made for {', '.join(map(str, manifest.profiles))}; build "
            "from the model with all the profiles"
        )
    if request.seamless not in (Seamless.NONE, manifest.seamless):
        raise RequestError(
            f"got seamless {str(request.seamless)!r} for a bundle built with {str(manifest.seamless)!r}; build from "
            f"the model with seamless {str(request.seamless)!r}"
        )
