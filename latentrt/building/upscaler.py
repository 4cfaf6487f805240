"""Builds the bundle of an upscaler."""

from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from latentrt.bf16.conversion import convert_in_place
from latentrt.building.compiling import compile_all, compile_missing
from latentrt.building.destination import check_space, destination_from_argument
from latentrt.building.from_model import unread_decision
from latentrt.building.packages import export_packages
from latentrt.building.request import BuildRequest
from latentrt.building.result import Build
from latentrt.building.same_export import same_export
from latentrt.engines.bundle.bundle import BundleSort, UpscalerBundle, open_upscaler
from latentrt.engines.bundle.checked_files import record_files
from latentrt.engines.bundle.kinds import UPSCALER
from latentrt.engines.bundle.records.manifests.components_manifest import BUNDLE_FILE, DecisionRecord, SourceRecord
from latentrt.engines.bundle.records.manifests.manifest_file import SCHEMA, write_manifest
from latentrt.engines.bundle.records.manifests.upscaler_manifest import UpscalerManifest
from latentrt.engines.errors import BundleError, RequestError
from latentrt.engines.files import locked, staged_directory
from latentrt.engines.precision import Precision
from latentrt.engines.progress import StageTimer

if TYPE_CHECKING:
    from latentrt.export.upscalers.source import UpscalerSource


def upscaler_of(request: BuildRequest) -> "UpscalerSource | None":
    """The upscaler that is to be built; None where the request is for something else.

    Raises:
        CheckpointError: it cannot be fetched.
    """
    if request.for_bundle is not None or request.starts_from_bundle:
        return None
    from latentrt.export.upscalers.finding import upscaler_from_headers

    return upscaler_from_headers(request.model)


def build_upscaler(
    source: "UpscalerSource",
    request: BuildRequest,
    timer: StageTimer,
    decided: Callable[[Mapping[str, DecisionRecord]], None] | None,
) -> Build:
    """Exports an upscaler unless the destination holds the same bundle already, and compiles what is missing.

    Args:
        source: its file.
        request: what was asked for.
        timer: receives the stages.
        decided: receives what was worked out about it, before the work begins.

    Raises:
        LatentrtError: of the kind that names the reason.
    """
    given = request.model_options
    if given:
        raise RequestError(
            f"got {', '.join(given)} for an upscaler, expected none of them, as they are about models; leave them out"
        )
    destination = destination_from_argument(request.output, BundleSort.UPSCALER)
    with export_packages():
        versions = source.versions
        precision = source.precision_for(request.precision)
        profiles = request.profiles or (source.default_tile,)
    kept_fp32 = request.kept_fp32((UPSCALER,), precision)
    with locked(destination):
        bundle = _existing(destination)
        if bundle is not None and same_export(
            bundle.manifest,
            versions=versions,
            precision=precision,
            kept_fp32=kept_fp32,
            profiles=profiles,
            decisions=bundle.manifest.source.decisions,  # they follow from the file
            files=source.files,
        ):
            if decided is not None:
                decided({**bundle.manifest.source.decisions, **unread_decision(bundle.manifest.source.unread)})
            compiled = compile_missing(bundle, request.engines, timer)
            return Build(bundle=bundle, up_to_date=not compiled, seconds=timer.seconds)
        check_space(destination, source.parameters, precision, request.engines)
        if decided is not None:
            decided({**source.decisions, **unread_decision(source.unread)})
        with staged_directory(destination) as root:
            with export_packages():
                made = Precision.FP32 if precision is Precision.BF16 else precision  # which is made of it
                exported = source.export(root, made, kept_fp32, profiles, timer)
            if decided is not None:
                decided(exported.told)
            with timer.stage("digests"):
                names = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
                files = record_files(root, names)
            manifest = UpscalerManifest(
                schema_version=SCHEMA,
                latentrt=version("latentrt"),
                exporter=dict(versions),
                family=exported.architecture,
                source=SourceRecord(
                    name=source.name,
                    revision=source.place.revision,
                    decisions={**source.decisions, **exported.told},
                    unread=dict(source.unread),
                    files=dict(source.files),
                ),
                precision=made,
                kept_fp32=kept_fp32,
                components={UPSCALER: exported.component},
                profiles=profiles,
                pixel_multiple=exported.multiple,
                upscaler=source.form,
                scale=exported.scale,
                smallest=exported.smallest,
                files=files,
            )
            if precision is Precision.BF16:
                with export_packages():
                    manifest = convert_in_place(root, manifest, kept_fp32, timer)
            manifest = compile_all(root, manifest, request.engines, timer)
            write_manifest(root / BUNDLE_FILE, manifest)
    return Build(bundle=open_upscaler(destination), up_to_date=False, seconds=timer.seconds)


def build_engines_of_upscaler(request: BuildRequest, timer: StageTimer) -> Build:
    """Adds to an upscaler's bundle the engines that it lacks.

    Raises:
        RequestError: something that only a build from the upscaler's file can change.
        LatentrtError: of the kind that names the reason.
    """
    root = Path(request.model).resolve()
    with locked(root):
        bundle = open_upscaler(root)
        changed = request.changes_of(root, bundle.manifest)
        if changed:
            raise RequestError(
                f"got {', '.join(changed)} for the bundle of an upscaler, to which only engines are added; leave these "
                "out, or build from its file with them"
            )
        bundle.check_all()
        compiled = compile_missing(bundle, request.engines, timer)
    return Build(bundle=bundle, up_to_date=not compiled, seconds=timer.seconds)


def _existing(destination: Path) -> UpscalerBundle | None:
    """The whole bundle at ``destination``, if there is one."""
    try:
        bundle = open_upscaler(destination)
        bundle.check_all()
    except BundleError:
        return None
    return bundle
