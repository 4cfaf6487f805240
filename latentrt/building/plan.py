"""What decides the files of a bundle that is built from a model, and the export that writes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from latentrt.arguments.loras import LoraArgument
from latentrt.bf16.settings import PictureSettings
from latentrt.building.compiling import EnginesToMake, compile_all
from latentrt.building.loras import changes_from_loras, lora_records, loras_decision
from latentrt.building.packages import export_packages
from latentrt.building.request import BuildRequest
from latentrt.building.same_export import same_export
from latentrt.engines.bundle.bundle import Bundle, open_bundle
from latentrt.engines.bundle.kinds import UNET, VAE_DECODER, VAE_ENCODER
from latentrt.engines.bundle.records.manifests.components_manifest import BUNDLE_FILE
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest, LoraRecord
from latentrt.engines.bundle.records.manifests.manifest_file import write_manifest
from latentrt.engines.bundle.records.seamless import Seamless
from latentrt.engines.bundle.records.sparsity import SparsityRecord
from latentrt.engines.errors import BundleError, RequestError
from latentrt.engines.files import staged_directory
from latentrt.engines.precision import Precision
from latentrt.engines.progress import StageTimer
from latentrt.engines.shapes import Profile
from latentrt.quantization.settings import QuantizationSettings
from latentrt.quantization.subjects import DrawnModel
from latentrt.runtime.adapters.adapter import ModelWeights
from latentrt.runtime.adapters.formats.bases import label_of_model
from latentrt.sparsity.settings import SparsitySettings

if TYPE_CHECKING:
    from latentrt.export.sources.checkpoint import Checkpoint

_AUTOENCODER = "vae"  # the part that LoRAs are not for


@dataclass(frozen=True, kw_only=True)
class BundlePlan:
    """All that decides a bundle's files, engines aside: the model, the exporter's versions, and the request."""

    checkpoint: "Checkpoint"
    versions: Mapping[str, str]
    precision: Precision
    kept_fp32: tuple[str, ...]
    profiles: tuple[Profile, ...]
    seamless: Seamless
    loras: tuple[LoraRecord, ...] = ()
    quantization: QuantizationSettings | None = None
    pictures: PictureSettings | None = None
    sparsity: SparsitySettings | None = None

    def made(self, manifest: BundleManifest) -> bool:
        """Whether an export would write the manifest's bundle again."""
        return (
            same_export(
                manifest,
                versions=self.versions,
                precision=self.precision,
                kept_fp32=self.kept_fp32,
                profiles=self.profiles,
                decisions=self.checkpoint.decisions,
                files=self.checkpoint.files,
            )
            and manifest.seamless == self.seamless
            and manifest.loras == self.loras
            and manifest.fused_from is None
            and manifest.schedule == self.checkpoint.schedule()
            and manifest.latents == self.checkpoint.latents
            and manifest.defaults == self.checkpoint.defaults
            and (self.quantization is None or self.quantization.made(manifest.components[UNET].quantization))
            and (self.pictures is None or self.pictures.made(manifest.pictures))
            and self._pruned_alike(manifest.components[UNET].sparsity)
        )

    def _pruned_alike(self, record: SparsityRecord | None) -> bool:
        return record is None if self.sparsity is None else self.sparsity.made(record)

    def with_fused(self, loras: Sequence[LoraArgument]) -> "BundlePlan":
        """The plan with the weights that LoRAs leave; these are the ones in ``loras``.

        Raises:
            RequestError: one that is damaged, no LoRA, or for another model.
        """
        if not loras:
            return self
        checkpoint = self.checkpoint
        model: ModelWeights = {
            name: part.weight_shapes for name, part in checkpoint.parts.items() if name != _AUTOENCODER
        }
        changes = changes_from_loras(loras, model, label_of_model(model))
        return replace(self, checkpoint=checkpoint.with_changes(changes))

    def source_for(self, settings: QuantizationSettings) -> "BundlePlan":
        """The plan of the bundle that one in eight bits is made of: its U-Net is in fp32, the rest as in the result."""
        if settings.recipe.symmetric:  # what has no eight bits is fp16 on GPUs
            return replace(self.dense(), precision=Precision.FP16, kept_fp32=(*self.kept_fp32, UNET), quantization=None)
        return self.in_fp32()

    def dense(self) -> "BundlePlan":
        """The plan of the same bundle with all of its weights."""
        return replace(self, sparsity=None)

    def in_fp32(self) -> "BundlePlan":
        """The plan of the same bundle in fp32."""
        return replace(self.dense(), precision=Precision.FP32, kept_fp32=(), quantization=None, pictures=None)


def plan_from_request(request: BuildRequest) -> BundlePlan:
    """Finds and checks the model, and what is asked of it.

    Raises:
        CheckpointError: the model cannot be built, or a package of the exporter is missing.
        RequestError: profiles or components that the model does not have.
    """
    from latentrt.export.tracing.versions import exporter_versions

    with export_packages():
        versions = exporter_versions()
        from latentrt.export.sources.source import checkpoint_from_headers

        checkpoint = checkpoint_from_headers(request.model, request.choices)
    components = (*checkpoint.family.encoders, UNET, VAE_ENCODER, VAE_DECODER)
    kept_fp32 = request.kept_fp32(components)
    loras = lora_records(request.loras)
    checkpoint = replace(checkpoint, decisions={**checkpoint.decisions, **loras_decision(loras)})
    profiles = _profiles_for(checkpoint, request.profiles)
    model = DrawnModel(
        name=checkpoint.name,
        steps=checkpoint.family.defaults.num_inference_steps,
        reads_text=bool(checkpoint.family.text_encoders),
        frames=profiles[0].frames,
    )
    settings = pictures = pruning = None
    if request.bf16 is not None:
        pictures = request.bf16.settings(model)
    if request.quantization is not None:
        settings = request.quantization.settings(model)
    if request.sparsity is not None:
        pruning = request.sparsity.settings(model)
        pruning = pruning if settings is None else pruning.leaving_room()
    return BundlePlan(
        checkpoint=checkpoint,
        versions=versions,
        precision=request.precision or Precision.FP32,
        kept_fp32=kept_fp32,
        profiles=profiles,
        seamless=request.seamless,
        loras=loras,
        quantization=settings,
        pictures=pictures,
        sparsity=pruning,
    )


def _profiles_for(checkpoint: "Checkpoint", requested: Sequence[Profile]) -> tuple[Profile, ...]:
    """The profiles that were asked for, or the model's own size.

    Raises:
        RequestError: a size that the model's down- and upsampling cannot meet, one that is named twice, or frames of a
            model that draws no videos.
    """
    frames = checkpoint.default_frames
    if not requested:
        width, height = checkpoint.default_size
        requested = (Profile(width=width, height=height, frames=frames),)
    if frames > 1:
        requested = [replace(one, frames=frames) if one.frames == 1 else one for one in requested]
    elif moving := [one for one in requested if one.frames > 1]:
        raise RequestError(
            f"got profile {', '.join(map(str, moving))} for a model of {checkpoint.family.label}, which draws no "
            "videos, expected sizes without frames; leave them out"
        )
    multiple = checkpoint.pixel_multiple
    uneven = [profile for profile in requested if profile.width % multiple or profile.height % multiple]
    if uneven:
        width, height = (-(-size // multiple) * multiple for size in (uneven[0].width, uneven[0].height))
        raise RequestError(
            f"got profile {', '.join(map(str, uneven))}, expected multiples of {multiple} pixels for this model; use "
            f"sizes such as {width}x{height}"
        )
    sizes = [(profile.width, profile.height, profile.frames) for profile in requested]
    if len(set(sizes)) < len(sizes):
        raise RequestError(
            "got a size twice among the profiles, expected each once; keep the one with the larger batch"
        )
    return tuple(requested)


def existing_bundle(destination: Path, plan: BundlePlan) -> Bundle | None:
    """The whole bundle at ``destination`` if an export by the plan would write it again."""
    if not (destination / BUNDLE_FILE).is_file():
        return None
    try:
        bundle = open_bundle(destination)
        if not plan.made(bundle.manifest):
            return None
        bundle.check_all()
    except BundleError:
        return None
    return bundle


def export_bundle(plan: BundlePlan, destination: Path, engines: EnginesToMake, timer: StageTimer) -> None:
    """Exports every component, compiles and gates them, and puts the bundle at ``destination`` in one rename.

    Raises:
        LatentrtError: CheckpointError, ParityError or OutputError.
    """
    with export_packages():
        from latentrt.export.components import export_components
    with staged_directory(destination) as root:
        manifest = export_components(
            plan.checkpoint, root, plan.precision, plan.profiles, timer, plan.seamless, plan.kept_fp32
        )
        manifest = manifest.model_copy(update={"loras": plan.loras})
        manifest = compile_all(root, manifest, engines, timer)
        write_manifest(root / BUNDLE_FILE, manifest)
