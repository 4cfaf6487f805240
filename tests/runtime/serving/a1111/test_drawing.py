"""txt2img and img2img as webuiapi and sd-backend-client send them: the pictures are those of the pipeline."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sd_backend_client.api.webui.diffusion_request_body import DiffusionRequestBody
from sd_backend_client.api.webui.response_formats import GenerationInfoData

import latentrt
from latentrt.runtime.pipeline import Pipeline

SIZE: Mapping[str, int] = {"width": 32, "height": 32}
EULER = latentrt.Sampler(name="euler", timestep_spacing="linspace")
Common = dict[str, Any]


def photo(size: tuple[int, int] = (32, 32)) -> Image.Image:
    """A picture whose every pixel's change would show."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8))


def middle(size: tuple[int, int] = (32, 32)) -> Image.Image:
    """A mask of the picture's middle."""
    mask = Image.new("L", size)
    mask.paste(255, (size[0] // 4, size[1] // 4, 3 * size[0] // 4, 3 * size[1] // 4))
    return mask


def keywords(**more: Any) -> Common:
    """Those of the pipeline that webuiapi's defaults stand for."""
    common = {"guidance_scale": 7.0, "num_inference_steps": 2, "sampler": EULER, "prompt_syntax": "a1111"}
    return {**common, **more}


def assert_same(image: Image.Image, expected: Any, index: int = 0) -> None:
    """Pixel for pixel, with the same settings inside."""
    np.testing.assert_array_equal(np.asarray(image), np.asarray(expected.images[index]))
    assert image.info["parameters"] == expected.metadata[index].parameters()


def test_txt2img(served: Any, sized_pipe: Pipeline) -> None:
    """Each picture has a seed of its own; the answer tells of all that a client reads."""
    answer = served.webui.txt2img(prompt="a (cat:1.2)", negative_prompt="dog", seed=5, batch_size=2, n_iter=2, **SIZE)
    expected = sized_pipe(
        "a (cat:1.2)", negative_prompt="dog", seed=[5, 6, 7, 8], num_images_per_prompt=4, **keywords(**SIZE)
    )
    assert len(answer.images) == 4
    for index, image in enumerate(answer.images):
        assert_same(image, expected, index)
    info = answer.info
    GenerationInfoData.model_validate(info)
    assert (info["all_seeds"], info["seed"], info["sampler_name"]) == ([5, 6, 7, 8], 5, "Euler")
    assert info["infotexts"] == [one.parameters() for one in expected.metadata]
    assert isinstance(answer.json["info"], str)
    assert answer.parameters["prompt"] == "a (cat:1.2)"


def test_seeds_are_told_and_draw_the_same_again(served: Any) -> None:
    """−1 draws them at random."""
    first = served.webui.txt2img(prompt="a cat", **SIZE)
    other = served.webui.txt2img(prompt="a cat", **SIZE)
    again = served.webui.txt2img(prompt="a cat", seed=first.info["seed"], **SIZE)
    assert first.info["seed"] != other.info["seed"]
    np.testing.assert_array_equal(np.asarray(again.image), np.asarray(first.image))


def test_what_is_left_out_is_the_models_own(served: Any, sized_pipe: Pipeline) -> None:
    """Sampler, steps, guidance and size."""
    answer = served.webui.custom_post("sdapi/v1/txt2img", {"prompt": "a cat", "seed": 3, "steps": 2, "styles": None})
    assert_same(answer.image, sized_pipe("a cat", seed=[3], num_inference_steps=2, prompt_syntax="a1111"))


def test_sd_backend_client_draws(served: Any, sized_pipe: Pipeline) -> None:
    """Its result has seeds, and info that it has checked; its own defaults are Euler a with the scheduler normal."""
    handle = served.backend.submit_txt2img(DiffusionRequestBody(prompt="a cat", steps=2, seed=4, batch_size=2, **SIZE))
    result = handle.wait(60.0, 0.01)
    assert result.seeds == [4, 5]
    assert isinstance(result.raw_info, GenerationInfoData)
    euler_a = latentrt.Sampler(name="euler_a", timestep_spacing="linspace")
    expected = sized_pipe("a cat", seed=[4, 5], num_images_per_prompt=2, **keywords(sampler=euler_a, **SIZE))
    for index, image in enumerate(result.images):
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.asarray(expected.images[index]))


def test_hires_fix(served: Any, sized_pipe: Pipeline) -> None:
    """By a factor, and by a size."""
    expected = sized_pipe(
        "a cat",
        seed=[5],
        hires=latentrt.Hires(scale=2.0, strength=0.6, steps=1, upscaler="lanczos", prompt="a dog"),
        **keywords(**SIZE),
    )
    common = {"prompt": "a cat", "seed": 5, "enable_hr": True, "denoising_strength": 0.6, "hr_second_pass_steps": 1}
    for size in ({"hr_scale": 2}, {"hr_resize_x": 64, "hr_resize_y": 64}):
        answer = served.webui.txt2img(**common, **size, hr_upscaler="Lanczos", hr_prompt="a dog", **SIZE)
        assert_same(answer.image, expected)


def test_img2img(served: Any, sized_pipe: Pipeline) -> None:
    """Pictures of another size are stretched, cut, or continued."""
    wide, options = photo((40, 20)), {"strength": 0.75, "seed": [5], **keywords(**SIZE)}
    answer = served.webui.img2img([wide], prompt="a cat", seed=5, **SIZE)
    assert_same(answer.image, sized_pipe.img2img("a cat", image=wide, **options))
    cut = served.webui.img2img([wide], prompt="a cat", seed=5, resize_mode=1, **SIZE)
    assert_same(cut.image, sized_pipe.img2img("a cat", image=wide.resize((64, 32), 1).crop((16, 0, 48, 32)), **options))
    assert answer.parameters["init_images"] is None
    several = served.webui.img2img([wide, photo()], prompt="a cat", seed=5, batch_size=2, **SIZE)
    options |= {"seed": [5, 6], "num_images_per_prompt": 2}
    expected = sized_pipe.img2img("a cat", image=[wide, photo()], **options)
    for index, image in enumerate(several.images):
        assert_same(image, expected, index)


@pytest.mark.parametrize("fill", ["fill", "original", "noise", "nothing"])
def test_inpainting(served: Any, sized_pipe: Pipeline, fill: str) -> None:
    """What lies under the mask as it begins; what the mask keeps comes back bit for bit."""
    number = ["fill", "original", "noise", "nothing"].index(fill)
    answer = served.webui.img2img(
        [photo()],
        mask_image=middle(),
        mask_blur=0,
        inpainting_fill=number,
        inpaint_full_res=False,
        prompt="a cat",
        seed=5,
        **SIZE,
    )
    expected = sized_pipe.inpaint(
        "a cat",
        image=photo(),
        mask_image=middle(),
        strength=0.75,
        masked_content=fill,
        seed=[5],
        **keywords(**SIZE),
    )
    assert_same(answer.image, expected)
    kept = np.asarray(middle()) == 0
    np.testing.assert_array_equal(np.asarray(answer.image)[kept], np.asarray(photo())[kept])


def test_inpainting_only_what_is_masked(served: Any, sized_pipe: Pipeline) -> None:
    """The result has the picture's size; sd-backend-client takes it as it is."""
    image, mask = photo((80, 60)), middle((80, 60))
    body = DiffusionRequestBody(
        prompt="a cat",
        sampler="euler",
        steps=2,
        seed=4,
        init_images=[image],
        mask=mask,
        mask_blur=0,
        inpaint_full_res=True,
        inpaint_full_res_padding=4,
        **SIZE,
    )
    result = served.backend.submit_inpaint(body).wait(60.0, 0.01)
    expected = sized_pipe.inpaint(
        "a cat", image=image, mask_image=mask, strength=0.75, padding_mask_crop=4, seed=[4], **keywords(**SIZE)
    )
    np.testing.assert_array_equal(np.asarray(result.images[0].convert("RGB")), np.asarray(expected.images[0]))


def test_pictures_are_left_out_where_nobody_wants_them(served: Any) -> None:
    """``send_images``; start pictures come back where they are asked for."""
    answer = served.webui.img2img([photo()], prompt="a", include_init_images=True, send_images=False, seed=2, **SIZE)
    assert answer.images == []
    assert answer.info["all_seeds"] == [2]
    assert answer.parameters["init_images"][0].startswith("data:image/png;base64,")


def test_settings_in_a_picture(served: Any) -> None:
    """What was drawn with comes back by png-info, for a form to be filled in."""
    drawn = served.webui.txt2img(prompt="a cat, red", negative_prompt="dog", seed=7, cfg_scale=3.5, **SIZE)
    answer = served.webui.png_info(drawn.image)
    assert answer.info == drawn.info["infotexts"][0]
    fields = answer.parameters
    assert (fields["Prompt"], fields["Negative prompt"], fields["Seed"]) == ("a cat, red", "dog", "7")
    assert (fields["Size-1"], fields["Size-2"], fields["Sampler"], fields["Schedule type"]) == (
        *("32", "32"),
        *("Euler", "Uniform"),
    )
    assert served.webui.png_info(photo()).json == {"info": "", "items": {}, "parameters": {}}


def test_pictures_are_enlarged(served: Any) -> None:
    """By filters where there is no upscaler, as sd-backend-client takes the first that is listed; cut to the size."""
    wide = photo((24, 16))
    single = served.webui.extra_single_image(wide, upscaler_1="Lanczos", upscaling_resize=2)
    np.testing.assert_array_equal(np.asarray(single.image), np.asarray(wide.resize((48, 32), 1)))
    batch = served.webui.extra_batch_images([wide, wide], upscaler_1="Nearest")
    assert [image.size for image in batch.images] == [(48, 32), (48, 32)]
    result = served.backend.submit_upscale(wide, 32, 32).wait(60.0, 0.01)
    assert result.images[0].size == (32, 32)


def refused(call: Callable[[], Any]) -> tuple[int, Mapping[str, str]]:
    """The status and the body that webuiapi raises."""
    with pytest.raises(RuntimeError) as raised:
        call()
    status, body = raised.value.args
    return status, json.loads(body)


def test_errors_have_their_form(served: Any) -> None:
    """Those of A1111: 404 for a sampler that is unknown, 422 for the rest; addresses are not followed."""
    webui = served.webui
    status, error = refused(lambda: webui.txt2img(prompt="a", sampler_name="Euler b", **SIZE))
    assert status == 404
    assert set(error) == {"error", "detail", "body", "errors"}
    assert "Euler a" in error["detail"]
    assert refused(lambda: webui.txt2img(prompt="a", tiling=True, **SIZE))[0] == 422
    assert refused(lambda: webui.txt2img(prompt="a", width=33, height=32))[0] == 422
    assert refused(lambda: webui.custom_post("sdapi/v1/txt2img", {"promt": "a"}, baseurl=False))[0] == 422
    address = {"init_images": [f"{served.url}/sdapi/v1/options"]}
    status, error = refused(lambda: webui.custom_post("sdapi/v1/img2img", address))
    assert (status, "nothing is fetched" in error["detail"]) == (422, True)
    assert refused(lambda: webui.interrogate(photo()))[0] == 404
