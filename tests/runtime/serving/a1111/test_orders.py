"""Requests of A1111's API as orders: what each field becomes, and what is refused."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import latentrt
from latentrt.engines.bundle.records.schedule_config import EdmLevels, ScheduleConfig, TimestepSpacing
from latentrt.engines.bundle.records.seamless import Seamless
from latentrt.engines.errors import RequestError
from latentrt.runtime.metadata.a1111_names import schedule_type
from latentrt.runtime.serving.http.a1111.bodies import Img2ImgBody, Txt2ImgBody
from latentrt.runtime.serving.http.a1111.ordering.inpainting import inpainting_keywords
from latentrt.runtime.serving.http.a1111.ordering.orders import order_from_body
from latentrt.runtime.serving.http.a1111.ordering.refusals import refuse_unserved
from latentrt.runtime.serving.http.a1111.ordering.samplers import SCHEDULERS, SamplerChoice, schedulers_of, titles
from latentrt.runtime.serving.http.a1111.settings import A1111Settings
from latentrt.runtime.serving.jobs.catalog import Catalog
from latentrt.runtime.serving.jobs.errors import UnknownNameError
from latentrt.runtime.serving.jobs.models import Models
from latentrt.runtime.serving.jobs.order import Order

SD1 = ScheduleConfig(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    timestep_spacing=TimestepSpacing.LEADING,
    steps_offset=1,
)


@pytest.fixture(scope="module")
def models(tiny_bundle: Path) -> Models:
    """Of one model and one upscaler; nothing is opened."""
    return Models(Catalog(models={"tiny": tiny_bundle}, upscalers={"x4": Path("x4.bundle")}), latentrt.open)


def read(text: str, name: str) -> Image.Image:
    """A picture of one colour, whatever the text."""
    return Image.new("L" if name == "mask" else "RGB", (48, 32), "white")


def txt2img(models: Models, **fields: Any) -> Order:
    """The order of a request."""
    return order_from_body(Txt2ImgBody(**fields), A1111Settings(model="tiny"), models, read)


def img2img(models: Models, **fields: Any) -> Order:
    """The same of one that starts from a picture."""
    return order_from_body(Img2ImgBody(init_images=["…"], **fields), A1111Settings(model="tiny"), models, read)


REFUSED: list[tuple[Mapping[str, Any], str]] = [
    ({"styles": ["photo"]}, r"got styles \['photo'\], expected \[\]; write the style's words"),
    ({"subseed_strength": 0.3}, "got subseed_strength 0.3, expected 0.0; leave it out"),
    ({"seed_resize_from_w": 512}, "got seed_resize_from_w 512"),
    ({"restore_faces": True}, "got restore_faces True"),
    ({"tiling": True}, "a model that was built seamless"),
    ({"refiner_checkpoint": "xl.safetensors"}, "with the other to img2img"),
    ({"disable_extra_networks": True}, "got disable_extra_networks True"),
    ({"s_min_uncond": 1.0}, "got s_min_uncond 1.0"),
    ({"script_name": "X/Y/Z plot"}, "there are no scripts"),
    ({"save_images": True}, "save what comes back"),
    ({"infotext": "a cat\nSteps: 20"}, "png-info reads them"),
    ({"alwayson_scripts": {"ControlNet": {"args": [{"enabled": True}]}}}, "got always-on script 'ControlNet'"),
    ({"alwayson_scripts": {"ADetailer": {"args": [True, {}]}}}, "got always-on script 'ADetailer'"),
    ({"firstphase_width": 32}, "as width, and hr_scale"),
    ({"enable_hr": True, "hr_checkpoint_name": "other"}, "draw both passes with one model"),
    ({"enable_hr": True, "hr_upscaler": "SwinIR 4x"}, "expected one of None, Latent, .*, x4; choose"),
    ({"enable_hr": True, "hr_resize_x": 64, "hr_resize_y": 32}, "expected the same proportions"),
    ({"enable_hr": True, "sampler_name": "Euler", "hr_sampler_name": "Euler CFG++"}, "in both passes"),
    ({"width": 32}, "expected both or none"),
    ({"sampler_name": "Euler", "scheduler": "kl_optimal"}, "got scheduler 'kl_optimal', expected one of automatic"),
    ({"sampler_name": "DPM++ 2M", "scheduler": "ddim"}, "cannot visit its timesteps"),
    ({"sampler_name": "LCM", "scheduler": "karras"}, "which has its own; give 'automatic'"),
    ({"sampler_name": "Euler a", "eta": 0.5}, "got eta 0.5 with sampler 'Euler a', expected 1"),
    ({"sampler_name": "DPM++ 2M", "s_churn": 0.5}, "got s_churn 0.5 with sampler 'DPM.. 2M'"),
]
REFUSED_WITH_PICTURES: list[tuple[Mapping[str, Any], str]] = [
    ({"init_images": ["a", "b"]}, "got 2 init_images with batch_size 1; raise batch_size"),
    ({"latent_mask": "a"}, "send it as mask"),
    ({"enable_hr": True}, "give the width and height wanted"),
    ({"resize_mode": 3}, "expected 0 to 2"),
    ({"initial_noise_multiplier": 0.5}, "got initial_noise_multiplier 0.5"),
    ({"mask_round": False}, "got mask_round False"),
]


@pytest.mark.parametrize(("fields", "reason"), REFUSED)
def test_what_changes_the_picture_and_cannot_be_is_refused(
    models: Models, fields: Mapping[str, Any], reason: str
) -> None:
    """Got, expected, and what to do."""
    with pytest.raises(RequestError, match=reason):
        txt2img(models, **fields)


@pytest.mark.parametrize(("fields", "reason"), REFUSED_WITH_PICTURES)
def test_what_pictures_cannot_be_started_with_is_refused(
    models: Models, fields: Mapping[str, Any], reason: str
) -> None:
    """The same of img2img."""
    with pytest.raises(RequestError, match=reason):
        order_from_body(Img2ImgBody(**{"init_images": ["a"], **fields}), A1111Settings(model="tiny"), models, read)


def test_all_reasons_are_told_at_once(models: Models) -> None:
    """Nobody mends them one by one."""
    with pytest.raises(RequestError) as refused:
        txt2img(models, restore_faces=True, styles=["a"], save_images=True)
    assert str(refused.value).count("got ") == 3


def test_an_unknown_sampler_is_told_first(models: Models) -> None:
    """It is another error, as there."""
    with pytest.raises(UnknownNameError) as unknown:
        txt2img(models, sampler_name="Restart", restore_faces=True)
    assert unknown.value.what == "sampler"


def test_scripts_that_are_switched_off_are_heeded_as_little_as_there(models: Models) -> None:
    """Some clients send all that they know."""
    scripts = {"ADetailer": {"args": [False]}, "ControlNet": {"args": []}, "controlnet": {"args": [{"enabled": False}]}}
    assert txt2img(models, alwayson_scripts=scripts, script_name="None", refiner_checkpoint="").prompt == ""


def test_a_seamless_model_draws_what_tiles() -> None:
    """And no other one does."""
    refuse_unserved(Txt2ImgBody(tiling=True), Seamless.XY)
    with pytest.raises(RequestError):
        refuse_unserved(Txt2ImgBody(tiling=True), Seamless.X)


def test_keywords_of_text(models: Models) -> None:
    """Null is left out; CFG++ has another scale of guidance; the second pass has what it says."""
    order = txt2img(
        models,
        prompt="a cat",
        negative_prompt="",
        steps=None,
        sampler_index="ddim cfg++",
        cfg_scale=7.5,
        seed=2,
        n_iter=2,
        batch_size=2,
        enable_hr=True,
        hr_scale=1.5,
        hr_upscaler="x4",
        hr_sampler_name="Euler CFG++",
        hr_scheduler="karras",
        hr_cfg=2,
    )
    assert order.model == "tiny"
    keywords = dict(order.keywords)
    hires = keywords.pop("hires")
    assert keywords == {
        "prompt_syntax": "a1111",
        "seed": (2, 3, 4, 5),
        "num_images_per_prompt": 4,
        "sampler": latentrt.Sampler(name="ddim"),
        "cfg_plus_plus": 0.6,
    }
    assert (hires.scale, hires.strength, hires.steps, hires.upscaler) == (1.5, 0.75, None, "x4")
    assert hires.sampler == latentrt.Sampler(name="euler", sigma_spacing="karras")
    assert (hires.prompt, hires.guidance_scale) == (None, 2)


def test_keywords_of_pictures(models: Models) -> None:
    """Without a size it is the picture's; without a mask what concerns masks counts for nothing."""
    order = img2img(models, denoising_strength=0.4)
    assert (order.keywords["strength"], order.keywords["image"].size) == (0.4, (48, 32))
    assert not {"width", "mask_image", "padding_mask_crop", "masked_content"} & set(order.keywords)
    masked = img2img(models, mask="…", mask_blur=0, denoising_strength=1.0).keywords
    assert masked["padding_mask_crop"] == 0
    assert "masked_content" not in masked  # at full strength there is noise alone


def test_what_is_echoed_is_json() -> None:
    """Also of numbers beyond all floats, which reading JSON makes infinite; pictures where they are asked for."""
    body = Img2ImgBody(init_images=["a"], comments={"a": math.inf}, script_args=[1])
    told = body.echo()
    assert (told["comments"], told["init_images"], "script_args" in told) == ({"a": None}, None, False)
    assert Img2ImgBody(init_images=["a"], include_init_images=True).echo()["init_images"] == ["a"]


@pytest.mark.parametrize(
    "settings",
    [
        {"CLIP_stop_at_last_layers": math.inf},
        {"CLIP_stop_at_last_layers": 1.5},
        {"CLIP_stop_at_last_layers": "2"},
        {"sd_model_checkpoint": ["tiny"]},
        {"sd_vae": "some.pt"},
        {"eta_noise_seed_delta": 31337},
    ],
)
def test_settings_that_cannot_be(models: Models, settings: Mapping[str, Any]) -> None:
    """Each is named."""
    with pytest.raises(RequestError, match=next(iter(settings))):
        A1111Settings(model="tiny").changed(settings, models)


def masked(mask: Image.Image, **fields: Any) -> Mapping[str, Any]:
    """The keywords of a picture with a mask."""
    body = Img2ImgBody(init_images=["…"], mask="…", **{"mask_blur": 0, "inpaint_full_res": False, **fields})
    return inpainting_keywords(body, [Image.new("RGB", mask.size)], mask, (32, 32))


def test_masks() -> None:
    """Of a transparent picture the opaque part; turned around; blurred."""
    layer = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    layer.paste((0, 0, 0, 255), (8, 8, 24, 24))
    opaque = np.zeros((32, 32), np.uint8)
    opaque[8:24, 8:24] = 255
    np.testing.assert_array_equal(np.asarray(masked(layer)["mask_image"]), opaque)
    inverted = masked(Image.fromarray(opaque), inpainting_mask_invert=1)
    np.testing.assert_array_equal(np.asarray(inverted["mask_image"]), 255 - opaque)
    across = np.asarray(masked(Image.fromarray(opaque), mask_blur=None, mask_blur_x=2, mask_blur_y=0)["mask_image"])
    assert 0 < across[16, 7] < 255
    assert across[7, 16] == 0


def test_nothing_to_crop_around_goes_on_without_a_mask() -> None:
    """As there."""
    keywords = masked(Image.new("L", (32, 32)), inpaint_full_res=True)
    assert "mask_image" not in keywords


@pytest.mark.parametrize(("resize_mode", "expected"), [(0, (64, 32)), (1, (32, 32)), (2, (32, 32))])
def test_picture_and_mask_are_fitted_together(resize_mode: int, expected: tuple[int, int]) -> None:
    """Cut, or filled up with what is at their edges; to stretch is the pipeline's work."""
    mask = Image.new("L", (64, 32))
    mask.paste(255, (0, 0, 64, 8))
    keywords = masked(mask, resize_mode=resize_mode)
    assert (keywords["image"].size, keywords["mask_image"].size) == (expected, expected)
    assert keywords["mask_image"].mode == "L"


@pytest.mark.parametrize("title", titles())
def test_levels_have_the_name_that_was_asked_for(title: str) -> None:
    """The way from titles to samplers is that of the settings, back; with 'normal' and 'simple' as what they are."""
    for name in schedulers_of(title):
        choice = SamplerChoice(title=title.lower(), scheduler=SCHEDULERS[name], eta=None, options={})
        sampler = choice.sampler(SD1, 20)
        assert len(sampler.schedule(SD1, 20).steps) >= 20
        told = schedule_type(sampler, SD1)
        same = {"normal": "Uniform", "simple": "SGM Uniform"}.get(name, SCHEDULERS[name])
        if name != "automatic" and not (told is None and same == "Uniform"):  # as a list of timesteps it has no name
            assert told == same
    spelled = SamplerChoice(title=f"{title} Karras", scheduler=None, eta=None, options={})
    assert spelled.named() == (title, "karras")


def test_samplers_of_other_models_and_steps() -> None:
    """A lone step begins at the noisy end; EDM's levels are a model's own; DDIM takes eta, others do not heed it."""

    def sampler(title: str, steps: int = 1, **fields: Any) -> latentrt.Sampler:
        return SamplerChoice(**{"title": title, "scheduler": None, "eta": None, "options": {}, **fields}).sampler(
            SD1, steps
        )

    assert sampler("Euler").schedule(SD1, 1).steps[0].level.timestep == 999
    assert sampler("DPM++ 2M", scheduler="normal").schedule(SD1, 1).steps[0].level.timestep == 999
    assert sampler("DDIM", eta=1.0) == latentrt.Sampler(name="ddim", eta=1.0)
    assert sampler("Euler", 9, eta=1.0).eta is None
    churned = sampler("Euler", 9, options={"s_churn": 0.5, "s_tmin": 0.0, "s_tmax": 0.0, "s_noise": 1.0})
    assert churned == latentrt.Sampler(name="euler", timestep_spacing="linspace", s_churn=0.5)
    edm = ScheduleConfig(edm=EdmLevels())
    assert SamplerChoice(title="Euler", scheduler="automatic", eta=None, options={}).sampler(edm, 9).wishes == {}
