"""The keyword ``control``: which control nets and T2I-Adapters a call draws with."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentrt.engines.bundle.records.manifests.addon_manifest import AddonKind
from latentrt.engines.choices import choice
from latentrt.engines.errors import RequestError, shown
from latentrt.engines.shapes import Profile
from latentrt.runtime.addons.addon import Addon, OpenAddons
from latentrt.runtime.addons.control import CONTROL_TYPES, Control, ControlMode
from latentrt.runtime.addons.control_use import ControlUse, FeaturesUse, UsedControl
from latentrt.runtime.addons.fitting import check_control_fits
from latentrt.runtime.addons.use import AddonUse
from latentrt.runtime.call.addons.fields import scale_from_argument, steps_from_shares
from latentrt.runtime.call.sampling import Sampling
from latentrt.runtime.checks import whole
from latentrt.runtime.pictures.control_picture import check_size, control_pictures_from_argument

_FORM = "latentrt.Control(net, image), or a list of them"


def controls_from_keywords(
    opened: OpenAddons, given: Any, sampling: Sampling, profile: Profile, count: int, *, cropped: bool
) -> list[AddonUse]:
    """What control nets and T2I-Adapters add to the U-Net; those that would change nothing are checked and left out.

    Args:
        opened: the pipeline's add-ons.
        given: the keyword.
        sampling: whose steps starts and ends are shares of.
        profile: of the pictures.
        count: N, how many pictures are drawn.
        cropped: whether they are parts of larger ones, whose size control pictures have then.

    Raises:
        RequestError: an argument that cannot be served, or a net for another model.
        BundleError: no bundle of a net, or one that is damaged.
        EngineError: no engine in it fits this machine.
    """
    controls = [given] if isinstance(given, Control) else given
    if not isinstance(controls, (list, tuple)) or not all(isinstance(one, Control) for one in controls):
        raise RequestError(f"got control {shown(given)}, expected {_FORM}; give that")
    used = [_used(opened, control, sampling, count) for control in controls]
    for one in used:
        one.addon.check_profile(profile)
        if not cropped:
            check_size(one.pictures, profile.width, profile.height, f"the {one.addon.label}")
    active = [one for one in used if not one.idle]
    nets = [one for one in active if one.addon.kind is AddonKind.CONTROL_NET]
    adapters = [one for one in active if one.addon.kind is AddonKind.T2I_ADAPTER]
    uses: list[AddonUse] = []
    if nets:
        uses.append(ControlUse(used=nets))
    if adapters:
        uses.append(FeaturesUse(used=adapters))
    return uses


def _used(opened: OpenAddons, control: Control, sampling: Sampling, count: int) -> UsedControl:
    """One of them, checked."""
    addon = _addon(opened, control.net)
    what = f"the {addon.label}"
    check_control_fits(addon, opened.manifest, opened.unet)
    scale = scale_from_argument(control.scale, what)
    mode = choice(ControlMode, control.mode, f"mode of {what}")
    if mode is not ControlMode.BALANCED and addon.kind is AddonKind.T2I_ADAPTER:
        raise RequestError(
            f"got mode {str(mode)!r} for {what}, expected 'balanced', as it knows no other; leave mode out"
        )
    steps = steps_from_shares(control.start, control.end, sampling, what)
    pictures = control_pictures_from_argument(control.image, opened.manifest.latents.channels, what)
    if len(pictures) not in (1, count):
        raise RequestError(
            f"got {len(pictures)} images of {what} for {count} pictures; give one for all, or one for each"
        )
    return UsedControl(
        opened=opened,
        addon=addon,
        pictures=pictures,
        scale=scale,
        shares=(float(control.start), float(control.end)),
        steps=steps,
        mode=mode,
        kind=_kind(addon, control.type, what),
    )


def _addon(opened: OpenAddons, net: Any) -> Addon:
    """The net or adapter.

    Raises:
        RequestError: something else.
    """
    if not isinstance(net, (str, os.PathLike, Addon)):
        raise RequestError(
            f"got net {shown(net)} in a Control, expected the path of a ControlNet's bundle, or what "
            "latentrt.open_addon gave; give one of these"
        )
    addon = opened.addon(net if isinstance(net, Addon) else Path(net))
    if addon.kind is AddonKind.IMAGE_PROMPT:
        raise RequestError(
            f"got the {addon.label} as control, expected a ControlNet or a T2I-Adapter; give it as "
            "image_prompt=[latentrt.ImagePrompt(adapter, image)], or with --image-prompt"
        )
    return addon


def _kind(addon: Addon, given: Any, what: str) -> int | None:
    """The number of a union net's kind of pictures; None for other nets.

    Raises:
        RequestError: none for a union net, an unknown one, or one for another net.
    """
    types = 0 if addon.manifest.control is None else addon.manifest.control.types
    if not types:
        if given is not None:
            raise RequestError(f"got type {given!r} for {what}, which knows pictures of one kind alone; leave it out")
        return None
    known: Mapping[str, int] = {name: index for name, index in CONTROL_TYPES.items() if index < types}
    if given is None:
        raise RequestError(
            f"got no type for {what}, a union net, expected the kind of the picture: one of {', '.join(known)}, or a "
            f"number from 0 to {types - 1}; give type='canny' or another"
        )
    if isinstance(given, str) and given in known:
        return known[given]
    if not isinstance(given, str) and 0 <= (index := whole(given, f"type of {what}")) < types:
        return index
    raise RequestError(
        f"got type {given!r} for {what}, expected one of {', '.join(known)}, or a number from 0 to {types - 1}; choose "
        "one of these"
    )
