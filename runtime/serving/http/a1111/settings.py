"""A1111's settings: the two that can be changed here, and those that are as they are."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from latentrt.engines.errors import RequestError, shown
from latentrt.runtime.serving.http.a1111.checkpoints import checkpoint, model_from_checkpoint
from latentrt.runtime.serving.jobs.models import Models

CHECKPOINT, _CLIP_LAYER = "sd_model_checkpoint", "CLIP_stop_at_last_layers"
_MOST_LAYERS = 12
# What is so here, and can be asked for
_FIXED: Mapping[str, Any] = {
    "sd_vae": "Automatic",
    "samples_format": "png",
    "randn_source": "CPU",
    "eta_noise_seed_delta": 0,
    "emphasis": "Original",
    "img2img_fix_steps": False,
    "img2img_color_correction": False,
    "initial_noise_multiplier": 1.0,
    "show_progress_type": "Approx cheap",
    "live_previews_enable": True,
    "return_grid": False,
    "samples_save": False,
    "grid_save": False,
}
_SPELLINGS: Mapping[str, tuple[Any, ...]] = {"sd_vae": ("Automatic", "None", "", None)}
# What changes no picture of an answer, whatever it is
_IDLE = frozenset(
    {
        *("samples_save", "grid_save", "return_grid", "grid_format", "save_images_add_number", "save_to_dirs"),
        *("live_previews_enable", "show_progress_every_n_steps", "show_progress_type", "show_progress_grid"),
        *("live_preview_refresh_period", "do_not_show_images", "enable_pnginfo", "add_model_name_to_info"),
        *("return_mask", "return_mask_composite", "control_net_no_detectmap", "memmon_poll_rate", "sd_checkpoint_hash"),
    }
)


@dataclass(frozen=True, kw_only=True)
class A1111Settings:
    """What requests are drawn with where they say nothing.

    Attributes:
        model: a name of the catalog.
        clip_layer: the layer of the text encoder that is taken, from 1 for the last.
    """

    model: str
    clip_layer: int = 1

    def options(self, models: Models) -> dict[str, Any]:
        """As A1111 lists its settings."""
        of_model = checkpoint(models, self.model)
        return {
            CHECKPOINT: of_model.title,
            "sd_checkpoint_hash": of_model.short_hash or "",
            _CLIP_LAYER: self.clip_layer,
            **_FIXED,
        }

    def changed(self, given: Mapping[str, Any], models: Models) -> "A1111Settings":
        """With what a client sets.

        Raises:
            UnknownNameError: a model that there is not.
            RequestError: settings that cannot be changed, all at once.
        """
        reasons = [
            f"got setting {name} {shown(value)}, expected {shown(_FIXED[name])}; leave it out"
            if name in _FIXED
            else f"got setting {shown(name)}, which is none here; leave it out"
            for name, value in given.items()
            if name not in (CHECKPOINT, _CLIP_LAYER) and not _changes_nothing(name, value)
        ]
        layer = given.get(_CLIP_LAYER) or self.clip_layer
        if type(layer) not in (int, float) or not 1 <= layer <= _MOST_LAYERS or layer != int(layer):
            reasons.append(f"got setting {_CLIP_LAYER} {shown(layer)}, expected 1 to {_MOST_LAYERS}; correct it")
        if reasons:
            raise RequestError(". Also ".join(reasons))
        named = given.get(CHECKPOINT)
        model = self.model if named in (None, "") else model_from_checkpoint(models, named)
        return replace(self, model=model, clip_layer=int(layer))


def _changes_nothing(name: str, value: Any) -> bool:
    return name in _IDLE or (name in _FIXED and (value is None or value in _SPELLINGS.get(name, (_FIXED[name],))))
