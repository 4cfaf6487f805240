"""The detail pass: what ``inpaint`` draws region by region, and every other pixel as it was."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_detectors import save_detector
from tiny_loras import save_tiny_lora

import latentrt
from latentrt.engines.errors import RequestError
from latentrt.runtime.pictures.picture_file import read_parameters, settings_from_parameters

BOXES = [(6, 8, 30, 28), (50, 20, 80, 52)]
SMALL: dict[str, Any] = {"num_inference_steps": 4, "strength": 0.5, "padding": 4, "guidance_scale": 3.0}


@pytest.fixture
def picture() -> Image.Image:
    """A picture of no profile's size, with red patches where the boxes are."""
    pixels = np.random.default_rng(3).integers(0, 256, (60, 90, 3), np.uint8)
    image = Image.fromarray(pixels)
    for box in BOXES:
        image.paste((255, 0, 0), box)
    return image


def white(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """The mask of a box."""
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


def outside(result: latentrt.DetailResult, index: int = 0) -> Any:
    """Where no region of a picture is."""
    height, width = np.asarray(result.images[index]).shape[:2]
    free = np.ones((height, width), bool)
    for region in result.regions[index]:
        left, top, right, bottom = region.box
        free[top:bottom, left:right] = False
    return free


def test_draws_what_inpaint_draws_region_by_region(tiny_pipe: latentrt.Pipeline, picture: Image.Image) -> None:
    """Each over what the one before left, with the prompt's part, and a seed that counts up: bit for bit."""
    told: list[tuple[int, int]] = []
    result = tiny_pipe.detail(
        "a cat [SEP] a dog", negative_prompt="dull", image=picture, boxes=BOXES, dilation=0, mask_blur=0, seed=9,
        progress=lambda done, total: told.append((done, total)), **SMALL,
    )  # fmt: skip
    expected, latents = picture, []
    common = {name: value for name, value in SMALL.items() if name != "padding"}
    for index, (prompt, box) in enumerate(zip(("a cat", "a dog"), BOXES, strict=True)):
        one = tiny_pipe.inpaint(
            prompt, negative_prompt="dull", image=expected, mask_image=white(picture.size, box), padding_mask_crop=4,
            seed=9 + index, **common,
        )  # fmt: skip
        expected, latents = one.images[0], [*latents, one.latents]  # type: ignore[assignment]
    np.testing.assert_array_equal(np.asarray(result.images[0]), np.asarray(expected))
    np.testing.assert_array_equal(result.latents, np.concatenate(latents))
    assert [(one.box, one.prompt, one.seed) for one in result.regions[0]] == [
        (BOXES[0], "a cat", 9),
        (BOXES[1], "a dog", 10),
    ]
    assert told == [(done, 4) for done in (1, 2, 3, 4)]
    assert result.seeds == (9,)
    assert len(result.timings.calls) == 4


def test_every_other_pixel_is_as_it_was(tiny_pipe: latentrt.Pipeline, picture: Image.Image) -> None:
    """With grown and blurred masks, as PIL and as arrays, of PIL pictures and arrays."""
    pixels = np.asarray(picture)
    result = tiny_pipe.detail("a cat", image=picture, boxes=BOXES, dilation=6, mask_blur=2, seed=1, **SMALL)
    assert [one.box for one in result.regions[0]] == [(4, 6, 33, 31), (48, 18, 83, 55)]
    drawn = np.asarray(result.images[0])
    free = outside(result)
    np.testing.assert_array_equal(drawn[free], pixels[free])
    assert (drawn[~free] != pixels[~free]).mean() > 0.5
    floats = pixels.astype(np.float32) / np.float32(255.0)
    arrays = tiny_pipe.detail(
        "a cat", image=floats, boxes=BOXES, dilation=6, mask_blur=2, seed=1, output_type="np", **SMALL
    )
    np.testing.assert_array_equal(arrays.images[0][free], floats[free])  # type: ignore[call-overload]
    np.testing.assert_allclose(arrays.images[0], drawn / 255.0, atol=0.02)  # which is rounded between regions


def test_masks_and_pictures(tiny_pipe: latentrt.Pipeline, picture: Image.Image) -> None:
    """Masks are regions, too; several pictures each have their seed, and are drawn as alone."""
    masks = [white(picture.size, box) for box in BOXES]
    options: dict[str, Any] = {"image": picture, "dilation": 0, "mask_blur": 0, **SMALL}
    boxed = tiny_pipe.detail("a cat", boxes=BOXES, seed=5, **options)
    masked = tiny_pipe.detail("a cat", masks=masks, seed=5, **options)
    np.testing.assert_array_equal(*(np.asarray(one.images[0]) for one in (boxed, masked)))
    both = tiny_pipe.detail(["a dog", "a cat"], boxes=BOXES, seed=[8, 5], **options)
    np.testing.assert_array_equal(*(np.asarray(image) for image in (boxed.images[0], both.images[1])))
    assert len(both.latents) == 4
    counted = tiny_pipe.detail("a cat", num_images_per_prompt=2, boxes=BOXES, seed=4, **options)
    assert counted.seeds == (4, 5)
    np.testing.assert_array_equal(*(np.asarray(image) for image in (boxed.images[0], counted.images[1])))


def test_a_detector_finds_the_regions(tiny_pipe: latentrt.Pipeline, tmp_path: Path) -> None:
    """From left to right, unless told otherwise; the settings name it as ADetailer does."""
    picture = Image.new("RGB", (128, 96), "white")
    picture.paste((255, 0, 0), (80, 16, 128, 64))
    for left in (48, 16):
        picture.paste((0, 0, 255), (left, 80, left + 16, 96))
    detector = latentrt.Detector(save_detector(tmp_path / "patches.onnx"), confidence=0.9, iou=0.01)
    result = tiny_pipe.detail(
        "a {1|1} [SEP] b [SEP] c", wildcards="", image=picture, detector=detector, seed=2, **SMALL
    )
    lefts = [one.box[0] for one in result.regions[0]]
    assert lefts == sorted(lefts)
    assert [one.label for one in result.regions[0]] == ["blue", "blue", "red"]
    assert [one.prompt for one in result.regions[0]] == ["a 1", "b", "c"]
    assert all(one.score is not None and one.score > 0.9 for one in result.regions[0])
    np.testing.assert_array_equal(np.asarray(result.images[0])[outside(result)], np.asarray(picture)[outside(result)])
    settings = settings_from_parameters(result.metadata[0].parameters())
    assert settings["ADetailer model"] == "patches.onnx"
    assert settings["ADetailer confidence"] == "0.9"
    assert settings["ADetailer dilate erode"] == "4"
    assert settings["Wildcard prompt"] == "a {1|1} [SEP] b [SEP] c"
    assert len(settings["Detail regions"].split("/")) == len(lefts)
    largest = tiny_pipe.detail(
        "a", image=picture, detector=detector, max_regions=1, order="largest", seed=2, **SMALL
    ).regions[0]
    assert [one.label for one in largest] == ["red"]


@pytest.mark.parametrize("how", ["nothing found", "no boxes", "strength 0", "skipped", "shrunk away"])
def test_nothing_drawn_is_the_picture(
    tiny_pipe: latentrt.Pipeline, picture: Image.Image, tmp_path: Path, how: str
) -> None:
    """Bit for bit; a note says so where nobody asked for it."""
    options: dict[str, Any] = {"boxes": BOXES, **SMALL}
    prompt = "a cat"
    if how == "nothing found":
        detector = latentrt.Detector(save_detector(tmp_path / "patches.onnx"), confidence=1.0)
        options |= {"boxes": None, "detector": detector}
    elif how == "no boxes":
        options["boxes"] = []
    elif how == "strength 0":
        options["strength"] = 0.0
    elif how == "skipped":
        prompt = " [SKIP] "
    else:
        options["dilation"] = -60
    if how in ("strength 0", "skipped"):
        result = tiny_pipe.detail(prompt, image=picture, **options)
        assert [one.drawn for one in result.regions[0]] == [False, False]
    else:
        with pytest.warns(UserWarning, match="nothing was found to draw anew in the picture"):
            result = tiny_pipe.detail(prompt, image=picture, **options)
        assert result.regions == ((),)
    np.testing.assert_array_equal(np.asarray(result.images[0]), np.asarray(picture))
    assert result.latents.shape == (0, 4, 16, 16)
    assert settings_from_parameters(result.metadata[0].parameters())["Detail regions"] == "none"


def test_skipped_regions_keep_their_seeds(tiny_pipe: latentrt.Pipeline, picture: Image.Image) -> None:
    """As in ADetailer: what is drawn does not hang on what is left out before it."""
    options: dict[str, Any] = {"image": picture, "dilation": 0, "mask_blur": 0, **SMALL}
    result = tiny_pipe.detail("[SKIP][SEP]a dog", boxes=BOXES, seed=9, **options)
    alone = tiny_pipe.detail("a dog", boxes=BOXES[1], seed=10, **options)
    np.testing.assert_array_equal(*(np.asarray(one.images[0]) for one in (result, alone)))
    assert [one.drawn for one in result.regions[0]] == [False, True]


def test_an_interruption_keeps_what_is_drawn(tiny_pipe: latentrt.Pipeline, picture: Image.Image) -> None:
    """No further region is begun."""

    def stop(*_: Any) -> None:
        raise latentrt.Interrupt

    result = tiny_pipe.detail("a cat", image=picture, boxes=BOXES, seed=1, callback_on_step_end=stop, **SMALL)
    assert result.interrupted
    assert [one.drawn for one in result.regions[0]] == [True, False]


@pytest.mark.slow
def test_with_nets_loras_and_threads(tiny_bundle: Path, tiny_net: Path, picture: Image.Image, tmp_path: Path) -> None:
    """All that inpainting takes; calls at once do not meet."""
    lora = save_tiny_lora(tmp_path / "style.safetensors", tiny_bundle, scale=20.0)
    with latentrt.open(tiny_bundle, threads=1) as pipe:
        pipe.load_lora(lora)
        options: dict[str, Any] = {"image": picture, "boxes": BOXES, "seed": 1, **SMALL}
        kinds: list[dict[str, Any]] = [
            {},
            {"loras": {"style": 1.0}},
            {"control": latentrt.Control(tiny_net, picture)},
            {"loras": {"style": 1.0}, "control": latentrt.Control(tiny_net, picture)},
        ]
        alone = [np.asarray(pipe.detail("a cat", **kind, **options).images[0]) for kind in kinds]
        assert len({one.tobytes() for one in alone}) == 4
        with ThreadPoolExecutor(4) as pool:
            together = pool.map(lambda kind: np.asarray(pipe.detail("a cat", **kind, **options).images[0]), kinds * 2)
            for found, expected in zip(together, alone * 2, strict=True):
                np.testing.assert_allclose(found.astype(int), expected.astype(int), atol=1)


REFUSALS: dict[str, dict[str, Any]] = {
    "got no regions, expected one of boxes, masks and detector": {"boxes": None},
    "got boxes and masks": {"masks": np.ones((60, 90), bool)},
    "expected a latentrt.Detector": {"boxes": None, "detector": "face.onnx"},
    "which lies outside of the picture of 90x60": {"boxes": [(90, 0, 95, 10)]},
    "got strength 2": {"strength": 2},
    "got detector <class 'float'>, expected a latentrt.Detector": {"boxes": None, "detector": float},
    "got box array(0.5), expected a list of numbers": {"boxes": [np.array(0.5)]},
    "got padding -1": {"padding": -1},
    "got max_regions 0": {"max_regions": 0},
    "got order 'right', expected one of given, left-to-right": {"order": "right"},
    "got output_type 'latent' for details": {"output_type": "latent"},
    "got latents for details": {"latents": np.zeros((1, 4, 16, 16), np.float32)},
    "got prompt_embeds for details": {"prompt_embeds": np.zeros((1, 77, 8), np.float32)},
    "got denoising_end for details": {"denoising_end": 0.5},
    "got keyword 'padding_mask_crop'": {"padding_mask_crop": 3},
    "got size 40x40": {"width": 40, "height": 40},
    "got sampler 'best'": {"sampler": "best", "boxes": []},
    "2 negative prompts for 1 prompts": {"negative_prompt": ["a", "b"]},
    "got 2 images for 1 pictures": {"image": np.zeros((2, 60, 90, 3), np.uint8)},
}


@pytest.mark.parametrize("words", REFUSALS)
@pytest.mark.filterwarnings("ignore:nothing was found")
def test_refusals(tiny_pipe: latentrt.Pipeline, picture: Image.Image, words: str) -> None:
    """Before anything is drawn, also where nothing would be."""
    with pytest.raises(RequestError) as refusal:
        tiny_pipe.detail("a cat", **{"image": picture, "boxes": BOXES, **SMALL, **REFUSALS[words]})
    assert words in str(refusal.value)


def test_the_texts_of_later_regions_are_refused_before_the_first_is_drawn(
    tiny_pipe: latentrt.Pipeline, picture: Image.Image
) -> None:
    """One that only the second region has."""

    def drawn(*_: Any) -> None:
        raise AssertionError("it draws")

    with pytest.raises(RequestError, match=r"\(b"):
        tiny_pipe.detail("a [SEP] (b", image=picture, boxes=BOXES, prompt_syntax="compel", progress=drawn, **SMALL)


def test_on_the_command_line(
    command: Callable[..., Any],
    tiny_bundle: Path,
    picture: Image.Image,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Boxes, masks and detectors; each seed is a picture of its own."""
    monkeypatch.chdir(tmp_path)
    picture.save("in.png")
    white(picture.size, BOXES[0]).save("mask.png")
    save_detector(Path("patches.onnx"))
    fast = ("--image", "in.png", "--steps", 4, "--strength", 0.5, "--padding", 4, "--seed", 3)
    boxes = ("--box", "6,8,30,28", "--box", "50,20,80,52")
    done = command("detail", tiny_bundle, "a cat [SEP] a dog", *fast, *boxes, "--count", 2, "--json", "-o", "out.png")
    assert done.status == 0, done.stderr
    assert "drew 5,7,32,30; 49,19,82,54" in done.stderr
    told = json.loads(done.stdout)["pictures"]
    assert [one["seed"] for one in told] == [3, 4]
    assert told[0]["detail"]["boxes"] == [[5, 7, 32, 30], [49, 19, 82, 54]]
    assert Image.open("out-1.png").size == picture.size
    assert str(read_parameters(Path("out-0.png"))).startswith("a cat [SEP] a dog\n")
    done = command("detail", tiny_bundle, "a cat", *fast, "--mask", "mask.png", "-o", "masked.png")
    assert done.status == 0, done.stderr
    options = ("--detector", "patches.onnx", "--confidence", 0.2, "--classes", "red,1", "--max-regions", 1)
    done = command("detail", tiny_bundle, "a cat", *fast, *options, "-o", "found.png")
    assert done.status == 0, done.stderr
    assert "drew red (" in done.stderr
    refused = {
        "got no regions, expected one of --box, --mask and --detector": (),
        "got --box and --mask": (*boxes, "--mask", "mask.png"),
        "got --box '1,2,3', expected LEFT,TOP,RIGHT,BOTTOM": ("--box", "1,2,3"),
        "got --classes without --detector": (*boxes, "--classes", "face"),
        "got detector 'absent.onnx', which is no file": ("--detector", "absent.onnx"),
        "got class 'face' for detector 'patches.onnx', expected one such as red, blue": (
            "--detector", "patches.onnx", "--classes", "face",
        ),
    }  # fmt: skip
    for words, options in refused.items():
        done = command("detail", tiny_bundle, "a cat", *fast, *options, "-o", "never.png")
        assert (done.status, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
        assert words in done.stderr
    assert not Path("never.png").exists()
