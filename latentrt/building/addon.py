"""Builds the bundle of an add-on, such as a control net, for the bundle of a model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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
from latentrt.engines.bundle.bundle import AddonBundle, BundleSort, open_addon, open_bundle
from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.bundle.records.manifests.addon_manifest import AddonManifest
from latentrt.engines.bundle.records.manifests.components_manifest import BUNDLE_FILE, DecisionRecord
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.bundle.records.manifests.manifest_file import write_manifest
from latentrt.engines.errors import BundleError, RequestError
from latentrt.engines.files import locked, staged_directory
from latentrt.engines.precision import EIGHT_BITS, Precision
from latentrt.engines.progress import StageTimer
from latentrt.engines.shapes import Profile
from latentrt.runtime.call.workflow import drawn_by

if TYPE_CHECKING:
    from latentrt.export.addons.addon import Addon


@dataclass(frozen=True, kw_only=True)
class AddonPlan:
    """All that decides an add-on's files, engines aside."""

    addon: "Addon"
    versions: Mapping[str, str]
    precision: Precision
    kept_fp32: tuple[str, ...]
    profiles: tuple[Profile, ...]

    def made(self, manifest: AddonManifest) -> bool:
        """Whether an export would write the manifest's bundle again."""
        base = self.addon.base.bundle.manifest
        return (
            same_export(
                manifest,
                versions=self.versions,
                precision=self.precision,
                kept_fp32=self.kept_fp32,
                profiles=self.profiles,
                decisions=self.addon.decisions,
                files=self.addon.files,
            )
            and manifest.latents == base.latents
            and manifest.pixel_multiple == base.pixel_multiple
            and manifest.tokens_per_chunk == base.prompt_length
            and manifest.addon is self.addon.kind
            and manifest.control == self.addon.control
            and manifest.image_prompt == self.addon.image_prompt
        )

    def with_base_weights(self) -> "AddonPlan":
        """The plan with all weights of an add-on that is stored as what differs from the model's."""
        from latentrt.export.addons.based_net import BasedControlNet

        if not isinstance(self.addon, BasedControlNet):
            return self
        from latentrt.building.based_nets import with_base_weights

        return replace(self, addon=with_base_weights(self.addon))


def build_addon(
    request: BuildRequest, timer: StageTimer, decided: Callable[[Mapping[str, DecisionRecord]], None] | None
) -> Build:
    """Exports an add-on unless the destination holds the same bundle already, and compiles what is missing.

    Args:
        request: what was asked for, ``for_bundle`` among it.
        timer: receives the stages.
        decided: receives what was worked out about the add-on, before the work begins.

    Raises:
        LatentrtError: of the kind that names the reason.
    """
    _check_choices(request)
    destination = destination_from_argument(request.output, BundleSort.ADDON)
    plan = _plan(request)
    with locked(destination):
        bundle = _existing(destination, plan)
        if bundle is None:
            check_space(destination, plan.addon.parameters, plan.precision, request.engines)
            with export_packages():
                plan = plan.with_base_weights()
                plan.addon.check()
        if decided is not None:
            unread = plan.addon.unread if bundle is None else bundle.manifest.source.unread
            decided({**plan.addon.decisions, **unread_decision(unread)})
        if bundle is not None:
            compiled = compile_missing(bundle, request.engines, timer)
            return Build(bundle=bundle, up_to_date=not compiled, seconds=timer.seconds)
        with export_packages():
            from latentrt.export.addons.export import export_addon
        with staged_directory(destination) as root:
            # fp32 first, and bf16 of that
            made = Precision.FP32 if plan.precision is Precision.BF16 else plan.precision
            manifest = export_addon(plan.addon, root, made, plan.profiles, timer, plan.kept_fp32)
            if plan.precision is Precision.BF16:
                with export_packages():
                    manifest = convert_in_place(root, manifest, plan.kept_fp32, timer)
            manifest = compile_all(root, manifest, request.engines, timer)
            write_manifest(root / BUNDLE_FILE, manifest)
    return Build(bundle=open_addon(destination), up_to_date=False, seconds=timer.seconds)


def build_engines_of_addon(request: BuildRequest, timer: StageTimer) -> Build:
    """Adds to an add-on's bundle the engines that it lacks.

    Raises:
        RequestError: something that only a build from the net can change.
        LatentrtError: of the kind that names the reason.
    """
    root = Path(request.model).resolve()
    with locked(root):
        bundle = open_addon(root)
        manifest = bundle.manifest
        changed = request.changes_of(root, manifest)
        if changed:
            raise RequestError(
                f"got {', '.join(changed)} for the bundle of {manifest.addon.label}, to which only engines are added; "
                "leave these out, or build from the net with them"
            )
        bundle.check_all()
        compiled = compile_missing(bundle, request.engines, timer)
    return Build(bundle=bundle, up_to_date=not compiled, seconds=timer.seconds)


def _plan(request: BuildRequest) -> AddonPlan:
    """Finds and checks the add-on, the model that it is for, and what is asked of it.

    Raises:
        CheckpointError: the add-on cannot be built, or a package of the exporter is missing.
        BundleError: the bundle that it is for is none, or damaged.
        RequestError: profiles or components that there are not.
    """
    from latentrt.export.tracing.versions import exporter_versions

    assert request.for_bundle is not None
    bundle = open_bundle(request.for_bundle)
    _check_has_prompts(bundle.manifest)
    with export_packages():
        versions = exporter_versions()
        from latentrt.export.addons.base_model import BaseModel
        from latentrt.export.addons.finding import addon_from_headers

        addon = addon_from_headers(
            request.model,
            BaseModel(bundle),
            variant=request.choices.variant,
            image_encoder=request.image_encoder,
        )
    precision = request.precision
    if precision in EIGHT_BITS:
        raise RequestError(
            f"got precision {precision} for {addon.kind.label}, which is built in fp32, fp16 or bf16; leave it out, or "
            "choose one of these"
        )
    if precision is None:
        precision = _floating_precision(bundle.manifest)
    unknown = [str(profile) for profile in request.profiles if profile not in bundle.manifest.profiles]
    if unknown:
        raise RequestError(
            f"got profile {', '.join(unknown)} for a model with {', '.join(map(str, bundle.manifest.profiles))}; "
            "choose among these, or leave it out for all of them"
        )
    request.engines.check_precision(precision)
    return AddonPlan(
        addon=addon,
        versions=versions,
        precision=precision,
        kept_fp32=request.kept_fp32(addon.components, precision),
        profiles=request.profiles or bundle.manifest.profiles,
    )


def _check_has_prompts(model: BundleManifest) -> None:
    """Refuses models that nobody makes nets or adapters for.

    Raises:
        RequestError: it reads no text.
    """
    if not model.conditioning.text_encoders:
        raise RequestError(
            f"got a net or an adapter for {drawn_by(model)} and reads no text, expected one for a model that draws "
            "from prompts; name the bundle of such a model with --for"
        )


def _floating_precision(model: BundleManifest) -> Precision:
    """A model's precision; of one in eight bits that of what is not: fp32 on CPUs, fp16 on GPUs."""
    if model.precision not in EIGHT_BITS:
        return model.precision
    quantization = model.components[UNET].quantization
    return Precision.FP16 if quantization is not None and quantization.recipe.symmetric else Precision.FP32


def _check_choices(request: BuildRequest) -> None:
    """Refuses options about whole models.

    Raises:
        RequestError: naming them.
    """
    given = request.model_options
    if given:
        raise RequestError(
            f"got {', '.join(given)} with --for, expected none of them, as they are about models and not about what is "
            "added to one; leave them out"
        )


def _existing(destination: Path, plan: AddonPlan) -> AddonBundle | None:
    """The whole bundle at ``destination`` if an export by the plan would write it again."""
    try:
        bundle = open_addon(destination)
        if not plan.made(bundle.manifest):
            return None
        bundle.check_all()
    except BundleError:
        return None
    return bundle
