"""Regions: shares of a picture's places, what stays bit for bit, and what is refused."""

import json
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import fuzzed
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_loras import save_tiny_lora

import latentrt
from latentrt import Region
from latentrt.engines.bundle.records.latent_space import LatentSpace
from latentrt.engines.errors import RequestError
from latentrt.engines.shapes import Profile
from latentrt.engines.spec import Array
from latentrt.runtime.call.prompts.prompt_set import prompt_set_from_keywords
from latentrt.runtime.denoiser.guider import Guider, Pass, Side
from latentrt.runtime.pictures.crop import Crop, fit_and_fill
from latentrt.runtime.pictures.soft_mask import at_latents, feathered, layer_of_box, layer_of_mask
from latentrt.runtime.sampling.schedule import Level

SPACE = LatentSpace(channels=4, scaling_factor=1.0, shift_factor=0.0, height_factor=8, width_factor=8, tile_pixels=512)
FAST: dict[str, Any] = {"num_inference_steps": 2, "seed": 1, "output_type": "latent"}
WHOLE, LEFT, RIGHT = (0, 0, 1, 1), (0, 0, 0.5, 1), (0.5, 0, 1, 1)


def grey(array: Array) -> Image.Image:
    """A mask of values in [0, 1]."""
    return Image.fromarray((array * 255).round().astype(np.uint8))


def shares(pipe: latentrt.Pipeline, regions: Any, prompt: Any = "p", crops: Sequence[Crop] = ()) -> Array:
    """(1 + R, N or 1, h, w): how much the prompt and each region count in a picture of 32x32."""
    prompts = prompt_set_from_keywords(pipe.manifest, prompt, {"regions": regions})
    weights = prompts.weights(pipe.manifest.latents, pipe.manifest.profiles[0], crops)
    return np.stack([weight[:, 0] for weight in weights])


PLACES = st.sampled_from([0.0, 1 / 3, 0.5, 2 / 3, 1.0]) | st.floats(0.0, 1.0)
BOXES = st.tuples(PLACES, PLACES, PLACES, PLACES).filter(lambda box: box[0] < box[2] and box[1] < box[3])
REGIONS = st.builds(
    lambda box, weight, feather: Region("r", box=box, weight=weight, feather=feather),
    BOXES,
    st.sampled_from([0.3, 1.0]) | st.floats(1e-3, 1e3),
    st.sampled_from([0.0, 1.0]) | st.floats(0.0, 1.0),
)


def test_shares_sum_up_to_one(tiny_pipe: latentrt.Pipeline) -> None:
    """Whatever the boxes, weights and soft edges."""

    @fuzzed(15)
    @given(st.lists(REGIONS, min_size=1, max_size=4))
    def holds(regions: list[Region]) -> None:
        found = shares(tiny_pipe, regions)
        assert found.dtype == np.float32
        assert found.min() >= 0.0
        np.testing.assert_allclose(found.sum(0), 1.0, atol=1e-6)

    holds()


def test_a_box_keeps_its_area(tiny_pipe: latentrt.Pipeline) -> None:
    """However its edges lie between the latents; less its weight's rest."""

    @fuzzed(30)
    @given(BOXES)
    def holds(box: tuple[float, float, float, float]) -> None:
        layer = at_latents(layer_of_box(box, 96, 64), SPACE, Profile(width=96, height=64), None)
        assert layer.shape == (8, 12)
        assert abs(layer.mean() - (box[2] - box[0]) * (box[3] - box[1])) < 1e-9

    holds()


def test_halves_and_thirds_leave_nothing(tiny_pipe: latentrt.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Edges that meet leave no rounding error to the prompt of the call, whose pass is not made then."""
    third = [Region("a", box=(place / 3, 0, (place + 1) / 3, 1)) for place in range(3)]
    soft = [Region("a", box=LEFT, feather=0.3), Region("b", box=RIGHT, feather=0.3)]
    for regions in (third, soft):
        assert not shares(tiny_pipe, regions)[0].any()
    made: list[int] = []
    combined = Guider.combined

    def spy(self: Guider, predictions: Mapping[Pass, Array], x: Array, level: Level) -> Array:
        made.append(len(predictions))
        return combined(self, predictions, x, level)

    monkeypatch.setattr(Guider, "combined", spy)
    for regions, passes in ((third, 4), (soft, 3), (soft[:1], 3), ([], 2)):
        made.clear()
        tiny_pipe("x", regions=regions, **FAST)
        assert made == [passes, passes]  # one of them for the negative prompt


def test_overlaps_are_shared_by_weight(tiny_pipe: latentrt.Pipeline) -> None:
    """And below 1 the prompt of the call keeps the rest."""
    found = shares(tiny_pipe, [Region("a", box=WHOLE, weight=3.0), Region("b", box=LEFT)])
    np.testing.assert_allclose(found[:, 0, 0, 0], [0.0, 0.75, 0.25], atol=1e-6)
    np.testing.assert_allclose(found[:, 0, 0, -1], [0.0, 1.0, 0.0], atol=1e-6)
    found = shares(tiny_pipe, [Region("a", box=WHOLE, weight=0.6), Region("b", box=LEFT, weight=0.2)])
    np.testing.assert_allclose(found[:, 0, 0, 0], [0.2, 0.6, 0.2], atol=1e-6)


def test_masks_of_any_size_and_grey(tiny_pipe: latentrt.Pipeline) -> None:
    """PIL and arrays; a box and its mask are the same region."""
    ramp = np.tile(np.linspace(0, 1, 128), (128, 1))
    for mask in (grey(ramp), ramp, np.float32(ramp)):
        found = shares(tiny_pipe, Region("a", mask=mask))[1, 0]
        np.testing.assert_allclose(found, ramp.reshape(16, 8, 16, 8).mean((1, 3)), atol=0.003)
    for side in (2, 32, 50):
        half = np.zeros((side, side), bool)
        half[:, : side // 2] = True
        expected = shares(tiny_pipe, Region("a", box=LEFT, feather=0.25))
        np.testing.assert_allclose(shares(tiny_pipe, Region("a", mask=half, feather=0.25)), expected, atol=1e-6)


def test_a_soft_edge_is_a_ramp() -> None:
    """As wide as it says, of half the weight at the edge, and none at the picture's own edges."""
    layer = feathered(layer_of_box((0.0, 0.0, 0.5, 1.0), 100, 50), 0.4)
    expected = np.clip((60 - np.arange(100) - 0.5) / 20, 0, 1)
    np.testing.assert_allclose(layer, np.tile(expected, (50, 1)), atol=1e-9)


@pytest.mark.parametrize(("size", "box"), [((90, 70), (20, 10, 60, 50)), ((300, 100), (100, 0, 280, 60))])
def test_a_crop_is_brought_to_size_as_the_picture_is(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    """A smooth mask of the whole source, cut out and filled up."""
    place = np.add.outer(np.arange(size[1]) / size[1], np.arange(size[0]) / size[0]) / 2
    profile, mask = Profile(width=64, height=64), grey(place)
    found = at_latents(layer_of_mask(np.asarray(mask), *size), SPACE, profile, Crop(size=size, box=box))
    fitted = np.asarray(fit_and_fill(mask.crop(box), 64, 64).convert("L")) / 255.0
    np.testing.assert_allclose(found, fitted.reshape(8, 8, 8, 8).mean((1, 3)), atol=0.01)


def test_regions_follow_a_crop(tiny_pipe: latentrt.Pipeline) -> None:
    """Under ``padding_mask_crop`` shares are those of the source: its left half is wholly in this crop's picture."""
    source, mask = Image.new("RGB", (96, 96), "white"), Image.new("L", (96, 96))
    mask.paste(255, (0, 32, 32, 64))
    common = {"image": source, "mask_image": mask, "padding_mask_crop": 4, **FAST}
    alone = tiny_pipe.inpaint("a cat", **common)
    found = tiny_pipe.inpaint("a dog", regions=Region("a cat", box=LEFT), **common)
    np.testing.assert_array_equal(found.latents, alone.latents)
    beside = tiny_pipe.inpaint("a dog", regions=Region("a cat", box=RIGHT), **common)
    np.testing.assert_array_equal(beside.latents, tiny_pipe.inpaint("a dog", **common).latents)
    with pytest.raises(RequestError, match=r"got a mask of 96x48 for region 1 .* and a picture of 96x96"):
        tiny_pipe.inpaint("a dog", regions=Region("a", mask=np.ones((48, 96))), **common)


def test_none_is_none(tiny_pipe: latentrt.Pipeline) -> None:
    """Bit for bit: no regions, and regions of weight 0."""
    plain = tiny_pipe("a cat", **FAST).latents
    given: list[Any] = [None, [], [[]], Region("a dog", box=LEFT, weight=0.0)]
    for regions in given:
        np.testing.assert_array_equal(tiny_pipe("a cat", regions=regions, **FAST).latents, plain)


@pytest.mark.parametrize(
    ("family", "guidance"),
    [
        ("sd1", 7.5),
        ("sd1", 1.0),
        ("lcm-sd1", 8.0),
        ("sdxl", 5.0),
        pytest.param("sd-turbo", 0.0, marks=pytest.mark.slow),
    ],
)
def test_the_whole_picture_is_its_prompt(
    family: str, guidance: float, family_pipe: Callable[[str], latentrt.Pipeline]
) -> None:
    """Bit for bit, guided, unguided and distilled; and halves of one prompt are it but for rounding."""
    pipe = family_pipe(family)
    plain = pipe("a cat", guidance_scale=guidance, **FAST)
    whole = pipe("a dog", regions=Region("a cat", box=WHOLE), guidance_scale=guidance, **FAST)
    np.testing.assert_array_equal(whole.latents, plain.latents)
    regions = [Region("a cat", box=(0, 0, 0.6, 0.7), feather=0.3), Region("a cat", box=RIGHT, weight=0.5)]
    mixed = pipe("a cat", regions=regions, guidance_scale=guidance, **FAST)
    np.testing.assert_allclose(mixed.latents, plain.latents, atol=2e-5)
    other = pipe("a cat", regions=Region("a dog", box=LEFT), guidance_scale=guidance, **FAST)
    assert np.abs(other.latents - plain.latents).max() > 1e-4


def test_second_prompts(family_pipe: Callable[[str], latentrt.Pipeline]) -> None:
    """A region's own; without one its second text encoder reads its prompt, not the call's second one."""
    pipe = family_pipe("sdxl")
    plain = pipe("a cat", prompt_2="oil", **FAST)
    whole = pipe("a dog", regions=Region("a cat", prompt_2="oil", box=WHOLE), **FAST)
    np.testing.assert_array_equal(whole.latents, plain.latents)
    whole = pipe("a dog", prompt_2="oil", regions=Region("a cat", box=WHOLE), **FAST)
    np.testing.assert_array_equal(whole.latents, pipe("a cat", **FAST).latents)
    assert whole.metadata[0].regions[0].prompt_2 is None


def test_with_loras_control_and_syntax(tiny_bundle: Path, tiny_net: Path, tmp_path: Path) -> None:
    """All in one call, on every pass; a LoRA of a prompt holds for its regions, too."""
    edges = Image.fromarray(np.tile(np.arange(32, dtype=np.uint8)[:, None] * 8, (1, 32)))
    control = [latentrt.Control(tiny_net, [edges, edges.rotate(90)], mode="control")]
    common = {"control": control, "prompt_syntax": "a1111", "num_images_per_prompt": 2, **FAST}
    with latentrt.open(tiny_bundle) as pipe:
        pipe.load_lora(save_tiny_lora(tmp_path / "style.safetensors", tiny_bundle))
        plain = pipe("(a cat:1.3)<lora:style:0.8>", **common)
        whole = pipe("a dog <lora:style:0.8>", regions=Region("(a cat:1.3)", box=WHOLE), **common)
        np.testing.assert_array_equal(whole.latents, plain.latents)
        with pytest.raises(RequestError, match=r"got LoRA 'style' in the prompt of region 1 .* move it there"):
            pipe("a dog", regions=Region("a cat <lora:style:0.8>", box=WHOLE), **common)


def test_each_prompt_its_own(tiny_pipe: latentrt.Pipeline) -> None:
    """A list of regions for each prompt, of other lengths; every picture is the one that is drawn alone."""
    regions = [[Region("frog", box=LEFT)], [], [Region("pizza", box=RIGHT), Region("fish", box=(0, 0.5, 1, 1))]]
    prompts = ["a cat", "a dog", "a cow"]
    common = {"num_inference_steps": 2, "output_type": "latent"}
    drawn = tiny_pipe(prompts, regions=regions, num_images_per_prompt=2, seed=[1, 2, 3, 4, 5, 6], **common)
    for index in (0, 2, 5):
        own: Any = regions[index // 2]
        alone = tiny_pipe(prompts[index // 2], regions=own, seed=[index + 1], **common)
        np.testing.assert_allclose(drawn.latents[index : index + 1], alone.latents, atol=1e-5)
        assert drawn.metadata[index].regions == alone.metadata[0].regions
        assert len(alone.metadata[0].regions) == len(own)


@pytest.mark.parametrize(
    "prompt",
    [
        "[cat:dog:0.5] face",
        pytest.param("[cat|dog]", marks=pytest.mark.slow),
        "a cat AND a dog :0.4 AND fog :-0.3",
        pytest.param("(cat:1.2)", marks=pytest.mark.slow),
    ],
)
def test_prompts_that_change_and_are_composed(prompt: str, tiny_pipe: latentrt.Pipeline) -> None:
    """In the whole picture they are what they are without a region, bit for bit, beside any prompt of the call."""
    common = {**FAST, "num_inference_steps": 4, "prompt_syntax": "a1111"}
    plain = tiny_pipe(prompt, **common).latents
    for own in ("x", "x AND y :0.3", "[x:y:2]"):
        whole = tiny_pipe(own, regions=Region(prompt, box=WHOLE), **common).latents
        np.testing.assert_array_equal(whole, plain)
    half = tiny_pipe(prompt, regions=[Region(prompt, box=LEFT, feather=0.2)], **common).latents
    assert np.abs(half - plain).max() <= 1e-5 * np.abs(plain).max()


def test_composed_prompts_want_the_negative_one(family_pipe: Callable[[str], latentrt.Pipeline]) -> None:
    """Weights of a region that do not sum up to 1 are refused where the guidance is built in."""
    common = {"prompt_syntax": "a1111", **FAST}
    with pytest.raises(RequestError, match="got prompts whose weights do not sum up to 1"):
        family_pipe("lcm-sd1")("x", regions=Region("a AND b", box=LEFT), **common)
    family_pipe("lcm-sd1")("x", regions=Region("a :0.5 AND b :0.5", box=LEFT), **common)


def test_wildcards(tiny_pipe: latentrt.Pipeline) -> None:
    """A region's are resolved by the picture's seed, as the prompt's are."""
    pytest.importorskip("dynamicprompts")
    choices = "{apple|pear|plum|fig}"
    drawn = tiny_pipe(
        f"a {choices}", regions=Region(f"a {choices}", box=LEFT), wildcards="", num_images_per_prompt=6, **FAST
    )
    told = [one.regions[0].prompt for one in drawn.metadata]
    assert told == [one.prompt for one in drawn.metadata]
    assert len(set(told)) > 1
    assert not any("{" in text for text in told)


def test_both_passes_of_a_hires_fix(tiny_pipe: latentrt.Pipeline) -> None:
    """The whole picture is its prompt in both, bit for bit, also where the second has another prompt."""
    common = {"hires": latentrt.Hires(scale=1.0, strength=0.6), **FAST, "output_type": "np"}
    plain = tiny_pipe("a cat", **common)
    whole = tiny_pipe("a dog", regions=Region("a cat", box=WHOLE), **common)
    np.testing.assert_array_equal(whole.latents, plain.latents)
    common["hires"] = latentrt.Hires(scale=1.0, strength=0.6, prompt="a cow")
    half = [tiny_pipe("a dog", regions=Region(text, box=WHOLE), **common).latents for text in ("a cat", "a dog")]
    np.testing.assert_array_equal(half[0], plain.latents)
    assert np.abs(half[1] - plain.latents).max() > 1e-4


def test_texts_are_encoded_once(tiny_pipe: latentrt.Pipeline) -> None:
    """Of any number of regions and pictures."""
    regions = [Region("cat", box=LEFT), Region("dog", box=RIGHT), Region("cat", box=(0, 0, 1, 0.5))]
    prompts = prompt_set_from_keywords(tiny_pipe.manifest, ["dog", "frog"], {"regions": regions})
    assert prompts.plan.texts[Side.POSITIVE] == (("dog",), ("frog",), ("cat",))
    assert prompts.plan.areas == (0, 1, 2, 3)


def test_callbacks_and_threads(tiny_pipe: latentrt.Pipeline) -> None:
    """A callback that returns what it saw changes nothing; threads with other regions do not meet."""
    regions = [[Region(text, box=box, feather=0.1)] for text, box in (("cat", LEFT), ("dog", RIGHT), ("fish", LEFT))]
    alone = [tiny_pipe("x", regions=pickle.loads(pickle.dumps(one)), **FAST).latents for one in regions]

    def same(pipe: Any, step: int, timestep: float, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"prompt_embeds": tensors["prompt_embeds"].copy(), "guidance_scale": 7.5}

    watched = {"callback_on_step_end": same, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    with ThreadPoolExecutor(3) as pool:
        drawn = pool.map(lambda one: tiny_pipe("x", regions=one, **watched, **FAST).latents, regions)
        for ours, expected in zip(drawn, alone, strict=True):
            np.testing.assert_array_equal(ours, expected)


def test_settings_name_them(tiny_pipe: latentrt.Pipeline) -> None:
    """With what is not the default; a mask by its values."""
    regions = [
        Region('a "cat", red', box=(0, 0.2, 0.5, 1)),
        Region("a dog", mask=np.eye(8), weight=0.5, feather=0.1),
    ]
    (told,) = tiny_pipe("x", regions=regions, **FAST).metadata
    text = told.parameters()
    read = [json.loads(json.loads(quoted)) for quoted in re.findall(r'Region \d: ("(?:\\.|[^"\\])*")', text)]
    assert read == [
        {"prompt": 'a "cat", red', "box": [0, 0.2, 0.5, 1]},
        {"prompt": "a dog", "mask": told.regions[1].mask, "weight": 0.5, "feather": 0.1},
    ]
    (same,) = tiny_pipe("x", regions=regions[1:], **FAST).metadata
    (other,) = tiny_pipe("x", regions=Region("a dog", mask=1 - np.eye(8)), **FAST).metadata
    assert same.regions[0].mask == told.regions[1].mask != other.regions[0].mask


WRONG: list[tuple[Any, str]] = [
    ("a cat", "got regions 'a cat', expected latentrt.Region(prompt, box=(left, top, right, bottom)), or a list of"),
    (["a cat"], "expected latentrt.Region(prompt, box="),
    ([[Region("a", box=LEFT)], Region("b", box=LEFT)], "expected latentrt.Region(prompt, box="),
    ([[Region("a", box=LEFT)], []], "got 2 lists of regions for 1 prompts, expected one for each; give as many"),
    (Region("a"), "got neither box nor mask of region 1 ('a'), expected one of them; say where it is"),
    (Region("a", box=LEFT, mask=np.eye(4)), "got box and mask of region 1 ('a'), expected one of them"),
    ([Region("a", box=LEFT), Region(7, box=LEFT)], "got prompt 7 of region 2, expected a text"),  # type: ignore[arg-type]
    (Region("a", prompt_2="b", box=LEFT), "with a model that has one text encoder; leave it out"),
    (Region("a", box=(0, 0, 16, 32)), "expected shares of the width and height, 0 to 1; divide pixels by"),
    (Region("a", box=(-0.1, 0, 1, 1)), "expected shares of the width and height, 0 to 1; keep it in the picture"),
    (Region("a", box=(1.2, 0, 1.5, 1)), "got box (1.2, 0, 1.5, 1) of region 1 ('a'), expected shares"),
    (Region("a", box=(0.5, 0, 0.5, 1)), "which has no area, expected (left, top, right, bottom) with left < right"),
    (Region("a", box=(0, 1, 1, 0)), "which has no area"),
    (Region("a", box=(0, 0, 1)), "got box (0, 0, 1) of region 1 ('a'), expected four numbers"),
    (Region("a", box=(0, 0, float("nan"), 1)), "expected finite numbers"),
    (Region("a", box="left"), "got box of region 1 ('a') 'left', expected a list of numbers"),  # type: ignore[arg-type]
    (Region("a", mask=np.zeros((32, 32))), "got a mask of region 1 ('a') that is black everywhere"),
    (
        Region("a", mask=np.ones((32, 48))),
        "got a mask of 48x32 for region 1 ('a') and a picture of 32x32, expected the",
    ),
    (Region("a", mask=np.ones((2, 32, 32))), "got 2 masks of region 1 ('a'), expected one; give a region for each"),
    (Region("a", mask=np.full((32, 32), 2.0)), "values outside [0, 1]"),
    (Region("a", mask="m.png"), "expected a PIL picture, an array, or a list"),  # type: ignore[arg-type]
    (Region("a", box=LEFT, weight=-1), "got weight -1 of region 1 ('a'), expected a number of at least 0"),
    (Region("a", box=LEFT, weight=float("inf")), "got weight inf"),
    (Region("a", box=LEFT, feather=2), "got feather of region 1 ('a') 2, expected 0 to 1"),
    (Region("(a", box=LEFT), "parenthes"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG, ids=range(len(WRONG)))
def test_refusals(wrong: Any, words: str, tiny_pipe: latentrt.Pipeline) -> None:
    """Each in a sentence, before anything is encoded."""
    with pytest.raises(RequestError) as refused:
        tiny_pipe("x", regions=wrong, prompt_syntax="compel", **FAST)
    assert words in str(refused.value), str(refused.value)


def test_encoded_prompts_are_refused(tiny_pipe: latentrt.Pipeline) -> None:
    """Regions are texts beside a text."""
    with pytest.raises(RequestError, match="got regions with prompt_embeds, expected the prompt as text"):
        tiny_pipe(**tiny_pipe.encode("a cat"), regions=Region("a", box=LEFT), **FAST)
