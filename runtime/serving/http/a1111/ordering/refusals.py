"""Fields that would change the picture in ways that cannot be served: which values do not, and what to do instead."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from latentrt.engines.bundle.records.seamless import Seamless
from latentrt.engines.errors import RequestError, shown
from latentrt.runtime.serving.http.a1111.bodies import DrawingBody, Img2ImgBody, ScriptArguments, Txt2ImgBody


@dataclass(frozen=True, kw_only=True)
class _Neutral:
    """The values of a field that change nothing, the first one being told; and what to do with others."""

    values: tuple[Any, ...]
    remedy: str = "leave it out"


_SAME_CHECKPOINT = ("Use same checkpoint", "", "None", None)
_FIELDS: Mapping[str, _Neutral] = {
    "styles": _Neutral(values=([],), remedy="write the style's words into the prompt"),
    "subseed_strength": _Neutral(values=(0.0,)),
    "seed_resize_from_h": _Neutral(values=(0, -1)),
    "seed_resize_from_w": _Neutral(values=(0, -1)),
    "restore_faces": _Neutral(values=(False,)),
    "tiling": _Neutral(values=(False,), remedy="ask a model that was built seamless, and leave it out"),
    "refiner_checkpoint": _Neutral(
        values=("None", "", None), remedy="draw with one model, then send its picture with the other to img2img"
    ),
    "disable_extra_networks": _Neutral(values=(False,), remedy="write no <lora:…> into the prompt"),
    "s_min_uncond": _Neutral(values=(0.0,)),
    "script_name": _Neutral(values=("None", "", None), remedy="there are no scripts here; leave it out"),
    "save_images": _Neutral(values=(False,), remedy="nothing is kept here; save what comes back"),
    "mask_round": _Neutral(values=(True,)),
    "initial_noise_multiplier": _Neutral(values=(1.0,)),
    "firstphase_width": _Neutral(values=(0,), remedy="give the first pass's size as width, and hr_scale"),
    "firstphase_height": _Neutral(values=(0,), remedy="give the first pass's size as height, and hr_scale"),
    "firstpass_image": _Neutral(values=("", None), remedy="send the picture to img2img"),
    "infotext": _Neutral(values=("",), remedy="send its settings as fields; png-info reads them"),
}
_OF_HIRES: Mapping[str, _Neutral] = {
    "hr_checkpoint_name": _Neutral(values=_SAME_CHECKPOINT, remedy="draw both passes with one model"),
}
_OF_PICTURES: Mapping[str, _Neutral] = {
    "latent_mask": _Neutral(values=(None,), remedy="send it as mask"),
    "enable_hr": _Neutral(values=(False,), remedy="give the width and height wanted"),
}
_LATENT_RESIZE = 3


def refuse_unserved(body: DrawingBody, seamless: Seamless) -> None:
    """Refuses what cannot be served, all of it at once.

    Args:
        body: the request.
        seamless: the model's.

    Raises:
        RequestError: every field with what it got and what to do.
    """
    reasons = list(_reasons(body, seamless))
    if reasons:
        raise RequestError(". Also ".join(reasons))


def _reasons(body: DrawingBody, seamless: Seamless) -> Iterator[str]:
    fields = dict(_FIELDS)
    if seamless is Seamless.XY:
        del fields["tiling"]
    if isinstance(body, Txt2ImgBody) and body.enable_hr:
        fields |= _OF_HIRES
    if isinstance(body, Img2ImgBody):
        fields |= _OF_PICTURES
    for name, neutral in fields.items():
        value = getattr(body, name)
        if value not in neutral.values:
            yield f"got {name} {shown(value)}, expected {shown(neutral.values[0])}; {neutral.remedy}"
    for name, script in body.alwayson_scripts.items():
        if not _is_idle(script):
            yield f"got always-on script {shown(name)} with arguments, expected none; leave it out"
    if isinstance(body, Img2ImgBody):
        if len(body.init_images) > body.batch_size:
            yield f"got {len(body.init_images)} init_images with batch_size {body.batch_size}; raise batch_size"
        if body.resize_mode == _LATENT_RESIZE:
            yield "got resize_mode 3, which enlarges latents, expected 0 to 2; choose one of these"


def _is_idle(script: ScriptArguments) -> bool:
    """Whether a script was switched off, as some clients do with every script they know."""
    arguments = script.args if isinstance(script.args, list) else list(script.args.values())
    return all(one in (False, None) or _is_disabled(one) for one in arguments)


def _is_disabled(argument: Any) -> bool:
    return isinstance(argument, dict) and argument.get("enabled") is False
