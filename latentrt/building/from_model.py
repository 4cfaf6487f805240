"""Builds a bundle from a model."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from latentrt.bf16.settings import PictureSettings
from latentrt.building.compiling import EnginesToMake, compile_missing, engines_to_make
from latentrt.building.conversions.bf16 import work_folder as bf16_work_folder
from latentrt.building.conversions.bf16 import write_bf16_bundle
from latentrt.building.conversions.quantization import work_folder, write_quantized_bundle
from latentrt.building.conversions.sparsity import work_folder as sparsity_work_folder
from latentrt.building.conversions.sparsity import write_sparse_bundle
from latentrt.building.destination import check_space, destination_from_argument
from latentrt.building.packages import export_packages
from latentrt.building.plan import BundlePlan, existing_bundle, export_bundle, plan_from_request
from latentrt.building.request import BuildRequest
from latentrt.building.result import Build
from latentrt.engines.bundle.bundle import Bundle, open_bundle
from latentrt.engines.bundle.records.manifests.components_manifest import DecisionRecord
from latentrt.engines.files import locked
from latentrt.engines.precision import Backend
from latentrt.engines.progress import StageTimer
from latentrt.quantization.settings import QuantizationSettings
from latentrt.sparsity.settings import SparsitySettings


def build_from_model(
    request: BuildRequest, timer: StageTimer, decided: Callable[[Mapping[str, DecisionRecord]], None] | None
) -> Build:
    """Exports the model unless the destination holds the same bundle already, and compiles what is missing.

    Args:
        request: what was asked for.
        timer: receives the stages.
        decided: receives what was worked out about the model, before the work begins.

    Raises:
        LatentrtError: of the kind that names the reason.
    """
    destination = destination_from_argument(request.output)
    plan = plan_from_request(request)
    with locked(destination):
        bundle = existing_bundle(destination, plan)
        if bundle is None:
            check_space(destination, plan.checkpoint.parameters, plan.precision, request.engines)
            with export_packages():
                plan = plan.with_fused(request.loras)
                plan.checkpoint.check()
        if decided is not None:
            unread = plan.checkpoint.unread if bundle is None else bundle.manifest.source.unread
            decided({**plan.checkpoint.decisions, **unread_decision(unread)})
        if bundle is not None:
            compiled = compile_missing(bundle, request.engines, timer)
            return Build(bundle=bundle, up_to_date=not compiled, seconds=timer.seconds)
        if plan.sparsity is not None:
            _export_sparse(plan, plan.sparsity, destination, request.engines, timer)
        elif plan.quantization is not None:
            _export_quantized(plan, plan.quantization, destination, request.engines, timer)
        elif plan.pictures is not None:
            _export_bf16(plan, plan.pictures, destination, request.engines, timer)
        else:
            export_bundle(plan, destination, request.engines, timer)
    return Build(bundle=open_bundle(destination), up_to_date=False, seconds=timer.seconds)


def unread_decision(unread: Mapping[str, tuple[str, ...]]) -> dict[str, DecisionRecord]:
    """A line on the tensors that nothing reads, where there are some."""
    names = [name for part in unread.values() for name in part]
    if not names:
        return {}
    first = f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
    return {"unread": DecisionRecord(value=f"{len(names)} of the tensors", reason=f"no part has a place for {first}")}


def _export_sparse(
    plan: BundlePlan, settings: SparsitySettings, destination: Path, engines: EnginesToMake, timer: StageTimer
) -> None:
    """Exports a bundle with all weights, and makes one of it that has zeros; the former outlives a killed build."""
    work, quantization = sparsity_work_folder(destination), plan.quantization
    dense = plan.dense() if quantization is None else plan.source_for(quantization)
    source = _source_bundle(dense, work / "source.bundle", timer)
    write_sparse_bundle(source, destination, plan.kept_fp32, engines, settings, quantization, work, timer)
    shutil.rmtree(work, ignore_errors=True)


def _export_quantized(
    plan: BundlePlan, settings: QuantizationSettings, destination: Path, engines: EnginesToMake, timer: StageTimer
) -> None:
    """Exports a bundle to calibrate with, and makes one in eight bits of it; the former outlives a killed build."""
    with work_folder(destination, settings) as work:
        source = _source_bundle(plan.source_for(settings), work / "source.bundle", timer)
        write_quantized_bundle(source, destination, plan.kept_fp32, engines, settings, work, timer)


def _export_bf16(
    plan: BundlePlan, settings: PictureSettings, destination: Path, engines: EnginesToMake, timer: StageTimer
) -> None:
    """Exports a bundle in fp32, and makes one in bf16 of it; the former outlives a killed build."""
    work = bf16_work_folder(destination)
    source = _source_bundle(plan.in_fp32(), work / "source.bundle", timer)
    write_bf16_bundle(source, destination, plan.kept_fp32, engines, settings, work, timer)
    shutil.rmtree(work, ignore_errors=True)


def _source_bundle(plan: BundlePlan, folder: Path, timer: StageTimer) -> Bundle:
    """A bundle by the plan with engines for this CPU; that of a killed build is taken again."""
    cpu = engines_to_make(Backend.ORT_CPU, (), None)
    bundle = existing_bundle(folder, plan)
    if bundle is None:
        export_bundle(plan, folder, cpu, timer)
        return open_bundle(folder)
    compile_missing(bundle, cpu, timer)  # its engines may be of another version
    return bundle
