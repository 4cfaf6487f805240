"""What A1111's clients send, field by field, with its defaults; where ours is better, such as the steps, None."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import from_json

PictureText = Annotated[str, Field(min_length=1)]
_Size = Annotated[int, Field(ge=1, le=1 << 16)]
_Count = Annotated[int, Field(ge=1, le=100)]
_LARGEST_SEED = (1 << 64) - 1
_SCRIPTS = ("script_name", "script_args", "alwayson_scripts", "force_task_id")
Seed = Annotated[int, Field(ge=-_LARGEST_SEED, le=_LARGEST_SEED)]  # below 0: at random


def _or_null(schema: dict[str, Any]) -> None:
    """Null stands for the default of each field."""
    for name, of_field in schema.get("properties", {}).items():
        if {"type": "null"} not in of_field.get("anyOf", ()):
            told = {key: of_field.pop(key) for key in ("default", "title", "description") if key in of_field}
            schema["properties"][name] = {"anyOf": [of_field, {"type": "null"}], **told}


class A1111Body(BaseModel):
    """An object of A1111's API: null is a field's default, and unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, json_schema_extra=_or_null)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        return {name: value for name, value in given.items() if value is not None} if type(given) is dict else given


class ScriptArguments(A1111Body):
    """What an always-on script is given."""

    args: list[Any] | dict[str, Any] = []


class DrawingBody(A1111Body):
    """The fields that txt2img and img2img share. Some clients send those of one to the other, where they count for
    nothing."""

    prompt: str = ""
    negative_prompt: str = ""
    styles: list[str] = []
    seed: Seed = -1
    subseed: Seed = -1
    subseed_strength: float = 0.0
    seed_resize_from_h: int = -1
    seed_resize_from_w: int = -1
    sampler_name: str | None = None
    sampler_index: str | None = None
    scheduler: str | None = None
    batch_size: _Count = 1
    n_iter: _Count = 1
    steps: int | None = Field(None, ge=1)
    cfg_scale: float | None = Field(None, ge=0)
    width: _Size | None = None
    height: _Size | None = None
    denoising_strength: float = Field(0.75, ge=0, le=1)

    restore_faces: bool = False
    tiling: bool = False
    refiner_checkpoint: str | None = None
    refiner_switch_at: float | None = None
    disable_extra_networks: bool = False
    comments: dict[str, Any] = {}
    eta: float | None = Field(None, ge=0, le=1)
    s_min_uncond: float = 0.0
    s_churn: float = Field(0.0, ge=0)
    s_tmin: float = Field(0.0, ge=0)
    s_tmax: float = Field(0.0, ge=0)
    s_noise: float = Field(1.0, ge=0)

    override_settings: dict[str, Any] = {}
    override_settings_restore_afterwards: bool = True
    script_name: str | None = None
    script_args: list[Any] = []
    alwayson_scripts: dict[str, ScriptArguments] = {}
    infotext: str = ""
    force_task_id: str | None = Field(None, max_length=200)
    send_images: bool = True
    save_images: bool = False
    do_not_save_samples: bool = False
    do_not_save_grid: bool = False
    include_init_images: bool = False

    resize_mode: int = Field(0, ge=0, le=3)
    image_cfg_scale: float | None = None
    initial_noise_multiplier: float = 1.0
    mask_blur: int | None = Field(None, ge=0, le=256)
    mask_blur_x: int = Field(4, ge=0, le=256)
    mask_blur_y: int = Field(4, ge=0, le=256)
    mask_round: bool = True
    inpainting_fill: int = Field(0, ge=0, le=3)
    inpaint_full_res: bool = True
    inpaint_full_res_padding: int = Field(0, ge=0, le=1 << 16)
    inpainting_mask_invert: int = Field(0, ge=0, le=1)

    enable_hr: bool = False
    firstphase_width: int = 0
    firstphase_height: int = 0
    firstpass_image: str | None = None
    hr_scale: float = Field(2.0, ge=0, le=64)
    hr_upscaler: str = "Latent"
    hr_second_pass_steps: int = Field(0, ge=0)
    hr_resize_x: int = Field(0, ge=0, le=1 << 16)
    hr_resize_y: int = Field(0, ge=0, le=1 << 16)
    hr_checkpoint_name: str | None = None
    hr_sampler_name: str | None = None
    hr_scheduler: str | None = None
    hr_prompt: str = ""
    hr_negative_prompt: str = ""
    hr_cfg: float | None = Field(None, ge=0)

    @property
    def sampler_title(self) -> str | None:
        """The sampler, by its name or by the deprecated field."""
        return self.sampler_name or self.sampler_index

    @property
    def pictures(self) -> int:
        """How many are asked for."""
        return self.batch_size * self.n_iter

    def echo(self) -> Mapping[str, Any]:
        """What the answer repeats of the request: all but its pictures and scripts, as JSON has it.

        A number that is too large for a float, which JSON may have, is null.
        """
        told: dict[str, Any] = from_json(self.model_dump_json(exclude={*self._untold}))
        return {**told, **dict.fromkeys(self._untold_pictures)}

    @property
    def _untold(self) -> tuple[str, ...]:
        return (*_SCRIPTS, *self._untold_pictures)

    @property
    def _untold_pictures(self) -> tuple[str, ...]:
        return ()


class Txt2ImgBody(DrawingBody):
    """The body of /sdapi/v1/txt2img."""


class Img2ImgBody(DrawingBody):
    """The body of /sdapi/v1/img2img. Pictures are base64 or data URLs; nothing is fetched."""

    init_images: list[PictureText] = Field(min_length=1, max_length=100)
    mask: PictureText | None = None
    latent_mask: PictureText | None = None

    @property
    def pictures(self) -> int:
        """How many are asked for: with several start pictures one of each."""
        started = len(self.init_images)
        return (self.batch_size if started == 1 else started) * self.n_iter

    @property
    def _untold_pictures(self) -> tuple[str, ...]:
        return () if self.include_init_images else ("init_images", "mask", "latent_mask")


class PngInfoBody(A1111Body):
    """The body of /sdapi/v1/png-info."""

    image: PictureText


class ExtrasBody(A1111Body):
    """What both routes of A1111's extras take."""

    resize_mode: int = Field(0, ge=0, le=1, description="0: by upscaling_resize; 1: to the size.")
    show_extras_results: bool = True
    gfpgan_visibility: float = 0.0
    codeformer_visibility: float = 0.0
    codeformer_weight: float = 0.0
    upscaling_resize: float = Field(2.0, ge=1, le=8)
    upscaling_resize_w: _Size = 512
    upscaling_resize_h: _Size = 512
    upscaling_crop: bool = True
    upscaler_1: str = "None"
    upscaler_2: str = "None"
    extras_upscaler_2_visibility: float = 0.0
    upscale_first: bool = False


class ExtraSingleBody(ExtrasBody):
    """The body of /sdapi/v1/extra-single-image."""

    image: PictureText


class NamedPicture(A1111Body):
    """A picture and what the client calls it."""

    data: PictureText
    name: str = ""


class ExtraBatchBody(ExtrasBody):
    """The body of /sdapi/v1/extra-batch-images."""

    pictures: list[NamedPicture] = Field(alias="imageList", min_length=1, max_length=100)
