"""What a build was asked for, each argument read once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from latentrt.arguments.loras import LoraArgument
from latentrt.bf16.settings import Bf16Request
from latentrt.building.compiling import EnginesToMake
from latentrt.engines.backends.compiler import WeightsAs
from latentrt.engines.bundle.bundle import BundleSort, sort_of
from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.bundle.records.manifests.components_manifest import BUNDLE_FILE, ComponentsManifest
from latentrt.engines.bundle.records.seamless import Seamless
from latentrt.engines.errors import RequestError
from latentrt.engines.graphs.islands import SCOPE_BEHIND
from latentrt.engines.precision import EIGHT_BITS, Precision
from latentrt.engines.shapes import Loop, Profile, profile_from_text
from latentrt.export.sources.partial_model import Choices
from latentrt.quantization.settings import QuantizationRequest
from latentrt.sparsity.settings import SparsityRequest


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """The arguments of a build, in their own types.

    ``precision`` is None where none was given, ``profiles`` are empty where the model's own size is wanted. ``fp32``
    names components, which only the model can confirm. ``loras`` are fused into the weights. ``quantization``
    (int8, fp8) and ``bf16`` are None for other precisions, ``sparsity`` where all weights stay. ``for_bundle`` is the
    model's bundle that an add-on is built for, None where a model is built; ``image_encoder`` is an IP-Adapter's.
    """

    model: str
    output: Path | None
    for_bundle: Path | None = None
    image_encoder: str | None = None
    precision: Precision | None
    profiles: tuple[Profile, ...]
    engines: EnginesToMake
    seamless: Seamless
    fp32: tuple[str, ...]
    loras: tuple[LoraArgument, ...]
    choices: Choices
    quantization: QuantizationRequest | None
    bf16: Bf16Request | None = None
    sparsity: SparsityRequest | None = None

    @property
    def starts_from_bundle(self) -> bool:
        """Whether the model is a bundle."""
        return (Path(self.model) / BUNDLE_FILE).is_file()

    @property
    def starts_from_addon(self) -> bool:
        """Whether it is the bundle of what is added to a model."""
        return sort_of(self.model) is BundleSort.ADDON

    @property
    def starts_from_upscaler(self) -> bool:
        """Whether it is the bundle of an upscaler."""
        return sort_of(self.model) is BundleSort.UPSCALER

    @property
    def model_options(self) -> list[str]:
        """The options that were given and concern whole models alone."""
        choices, nothing = self.choices, Choices()
        names = ("base", "vae", "ema", "family", "prediction_type")
        given = [name.replace("_", " ") for name in names if getattr(choices, name) != getattr(nothing, name)]
        given += ["loras"] if self.loras else []
        inputs = any(target.weights is WeightsAs.INPUTS for target in self.engines.targets)
        given += ["lora-ready"] if inputs else []
        given += ["with"] if self.engines.added else []
        given += ["loop"] if self.engines.loop is Loop.DEVICE else []
        given += ["seamless"] if self.seamless is not Seamless.NONE else []
        given += ["sparsity"] if self.sparsity is not None else []
        given += ["prompts or quality"] if self.judges_otherwise else []
        return given

    @property
    def judges_otherwise(self) -> bool:
        """Whether prompts or a quality were given, by which pictures are judged."""
        asked = self.quantization or self.bf16 or self.sparsity
        return asked is not None and (asked.prompts is not None or asked.quality is not None)

    def changes_of(self, root: Path, manifest: ComponentsManifest) -> list[str]:
        """What was given and would change more of the bundle of an add-on or an upscaler than its engines."""
        changed = self.model_options
        changed += ["variant"] if self.choices.variant is not None else []
        changed += ["fp32"] if self.fp32 else []
        changed += ["precision"] if self.precision not in (None, manifest.precision) else []
        changed += ["profiles"] if not set(self.profiles) <= set(manifest.profiles) else []
        changed += ["output"] if self.output is not None and self.output.resolve() != root else []
        changed += ["a model's bundle (--for)"] if self.for_bundle is not None else []
        changed += ["image encoder"] if self.image_encoder is not None else []
        return changed

    def kept_fp32(self, components: Sequence[str], precision: Precision | None = None) -> tuple[str, ...]:
        """Of some components those, and modules of those, to keep in fp32, in the order of the components.

        ``precision`` is the bundle's, where the request leaves it open.

        Raises:
            RequestError: other components, or a precision that leaves no such choice.
        """
        unknown = [name for name in self.fp32 if name.partition(SCOPE_BEHIND)[0] not in components]
        if unknown:
            raise RequestError(
                f"got fp32 {', '.join(unknown)}, expected some of {', '.join(components)}; choose among these"
            )
        if self.fp32 and (precision or self.precision) in (None, Precision.FP32):
            raise RequestError(
                "got components to keep in fp32 for a bundle in fp32, expected precision fp16, bf16, int8 or fp8; "
                "leave one out"
            )
        modules = [name for name in self.fp32 if SCOPE_BEHIND in name]
        if modules and (precision or self.precision) in EIGHT_BITS:
            raise RequestError(
                f"got fp32 {', '.join(modules)} for a bundle in {precision or self.precision}, expected whole "
                "components, or precision fp16 or bf16; leave one of the two out"
            )
        if UNET in self.fp32 and self.precision in EIGHT_BITS:
            raise RequestError(
                f"got fp32 unet for a bundle in {self.precision}, which is the U-Net's precision; leave one of the two "
                "out"
            )
        asked = sorted(dict.fromkeys(self.fp32))
        return tuple(
            one for name in components for one in asked if one == name or one.startswith(f"{name}{SCOPE_BEHIND}")
        )


def profiles_from_arguments(profiles: Sequence[str | Profile]) -> tuple[Profile, ...]:
    """Profiles, from themselves or from texts such as ``512x512x2``.

    Raises:
        RequestError: a text of another form.
    """
    return tuple(profile if isinstance(profile, Profile) else profile_from_text(profile) for profile in profiles)
