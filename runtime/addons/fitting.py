"""Whether a control net or a T2I-Adapter goes with a model: by what both bundles say of their tensors."""

from collections.abc import Iterable

from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import CONTROL, FEATURES
from latentrt.engines.bundle.records.component import TensorRecord
from latentrt.engines.bundle.records.manifests.latents_manifest import level_dimensions
from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.bundle.unet.added_inputs import MID_RESIDUAL, down_residual, feature, feature_planes
from latentrt.engines.bundle.unet.structure import Plane
from latentrt.engines.errors import RequestError
from latentrt.runtime.addons.addon import Addon
from latentrt.runtime.call.workflow import check_reads_text

_TOLD = ("encoder_hidden_states", "text_embeds", "time_ids")
# What models attend to prompts of a width, for messages
_FAMILIES = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL", 1280: "SDXL's refiner"}


def check_control_fits(addon: Addon, manifest: BundleManifest, unet: Component) -> None:
    """Compares what a control net or T2I-Adapter takes and gives with what a model's U-Net does.

    Args:
        addon: the net or adapter.
        manifest: the model's.
        unet: the model's U-Net.

    Raises:
        RequestError: it is for other models; every difference is named.
    """
    faults = list(_space_faults(addon, manifest))
    if CONTROL in addon.manifest.components:
        check_reads_text(manifest, f"the {addon.label}")
        faults += _told_faults(addon, manifest, unet)
        structure = unet.structure
        names = [*map(down_residual, range(len(structure.skips))), MID_RESIDUAL]
        given = addon.manifest.components[CONTROL].outputs
        faults += _plane_faults("residual", given, dict(zip(names, (*structure.skips, structure.middle), strict=True)))
    else:
        planes = feature_planes(unet.structure)
        given = addon.manifest.components[FEATURES].outputs
        expected = {feature(index): plane for index, plane in enumerate(planes)}
        # An adapter may leave the last one, the mid block's, out
        faults += _plane_faults("feature", given, {name: expected[name] for name in expected if name in given})
        faults += [f"has {len(given)} features for {len(expected)}"] if len(given) > len(expected) else []
        faults += ["has no feature"] if not given else []
    if faults:
        raise RequestError(
            f"got the {addon.label} for another model ({', '.join(faults)}), expected one for the bundle that is "
            "open; build it for that: latentrt build NET --for BUNDLE"
        )


def _space_faults(addon: Addon, manifest: BundleManifest) -> Iterable[str]:
    ours, theirs = manifest.latents, addon.manifest.latents
    factors = (theirs.height_factor, theirs.width_factor)
    if factors != (ours.height_factor, ours.width_factor):
        yield f"latents at 1/{theirs.height_factor} of the picture and not 1/{ours.height_factor}"
    if theirs.channels != ours.channels:
        yield f"{theirs.channels} channels of latents and not {ours.channels}"


def _told_faults(addon: Addon, manifest: BundleManifest, unet: Component) -> Iterable[str]:
    """In what the prompt and the sizes differ that the U-Net and the net are told of."""
    ours, theirs = unet.record.inputs, addon.manifest.components[CONTROL].inputs
    for name in _TOLD:
        got, expected = (_width(tensors.get(name)) for tensors in (theirs, ours))
        if got == expected:
            continue
        if name == _TOLD[0]:
            yield f"prompts {_family(got)} and not {_family(expected)}"
        else:
            yield f"{name} of {got or 'no'} numbers and not {expected or 'none'}"
    if addon.manifest.prompt_length != manifest.prompt_length:
        yield f"prompts of {addon.manifest.prompt_length} tokens and not {manifest.prompt_length}"


def _width(tensor: TensorRecord | None) -> int:
    return 0 if tensor is None else int(tensor.shape[-1])


def _family(width: int) -> str:
    known = _FAMILIES.get(width)
    return f"{width} wide" if known is None else f"{width} wide as those of {known}"


def _plane_faults(what: str, given: dict[str, TensorRecord], expected: dict[str, Plane]) -> Iterable[str]:
    """How many planes differ, and the first that does."""
    if len(given) < len(expected) or (what == "residual" and len(given) != len(expected)):
        yield f"{len(given)} {what}s and not {len(expected)}"
        return
    for name, plane in expected.items():
        tensor = given.get(name)
        if tensor is None:
            yield f"no {name}"
            return
        wanted = (plane.channels, *level_dimensions(plane.level))
        if tuple(tensor.shape[1:]) != wanted:
            yield f"{name} of {tensor.shape[1]} channels, {tensor.shape[2]}, and not {wanted[0]}, {wanted[1]}"
            return
