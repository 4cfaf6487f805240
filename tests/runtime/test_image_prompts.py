"""Image prompts without a model: pictures for CLIP, masks for every level, scales of blocks, steps."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from latentrt.engines.bundle.unet.structure import AttentionLayer, Block, UnetStructure
from latentrt.engines.errors import RequestError
from latentrt.runtime.addons.attention_scales import attention_scales
from latentrt.runtime.denoiser.conditions.condition import UnetCall
from latentrt.runtime.denoiser.conditions.image_prompt import AttendedImages, ImagePromptCondition
from latentrt.runtime.denoiser.guider import NEGATIVE, POSITIVE
from latentrt.runtime.denoiser.steps import ActiveSteps
from latentrt.runtime.pictures.clip_pixels import clip_pixels
from latentrt.runtime.pictures.interpolation import Interpolation, interpolated
from latentrt.runtime.sampling.schedule import Level

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.mark.parametrize(
    ("mode", "size"), [("RGB", (301, 224)), ("L", (97, 350)), ("RGB", (224, 224)), ("P", (640, 13))]
)
def test_pixels_are_transformers_own(mode: str, size: tuple[int, int]) -> None:
    """To the last bit."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(noise).convert(mode)
    expected = CLIPImageProcessorPil(size=224, crop_size=224)(image, return_tensors="np").pixel_values[0]
    found = clip_pixels(image, 224, MEAN, STD)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [(8, 8), (4, 12), (5, 3), (64, 40)])
def test_masks_are_resized_as_torch_does_it(size: tuple[int, int]) -> None:
    """Smaller, larger, and of another shape."""
    plane = (np.random.default_rng(1).random((32, 24)) > 0.5).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(plane)[None, None], size=size, mode="bicubic")
    np.testing.assert_allclose(
        interpolated(plane, *size, Interpolation.BICUBIC), expected[0, 0].numpy(), atol=5e-6
    )  # torch: float32


def structure(attentions: dict[str, int]) -> UnetStructure:
    """One whose blocks have so many attentions, by their scopes; in the library's order."""

    def block(scope: str) -> Block:
        counts = {"channels": 32, "level": 0, "resnets": 2}
        return Block(scope=scope, attentions=attentions.get(scope, 0) > 0, resamples=False, **counts)

    layers = [
        AttentionLayer(scope=f"{scope}.attentions.{index}.transformer_blocks.0.attn2", width=32, level=0)
        for scope, count in attentions.items()
        for index in range(count)
    ]
    return UnetStructure(
        entry=32,
        down=tuple(block(f"down_blocks.{index}") for index in range(4)),
        mid=block("mid_block"),
        up=tuple(block(f"up_blocks.{index}") for index in range(4)),
        self_attentions=(),
        cross_attentions=tuple(layers),
    )


SD1 = structure(
    {**{f"down_blocks.{i}": 2 for i in range(3)}, **{f"up_blocks.{i}": 3 for i in (1, 2, 3)}, "mid_block": 1}
)
XL = structure({"down_blocks.1": 2, "down_blocks.2": 2, "up_blocks.0": 3, "up_blocks.1": 3, "mid_block": 1})


def scopes_of(blocks: Any, unet: UnetStructure, *, xl: bool = False) -> set[str]:
    """Where it counts."""
    scales = attention_scales(blocks, 0.5, unet, xl=xl)
    counted = zip(unet.cross_attentions, scales, strict=True)
    return {layer.scope.partition(".transformer")[0] for layer, scale in counted if scale}


def test_named_blocks_are_invokeais() -> None:
    """Style is one block, composition another; precise has both, and strong all but composition's."""
    style = {f"up_blocks.1.attentions.{i}" for i in range(3)}
    composition = {"down_blocks.2.attentions.0", "down_blocks.2.attentions.1", "mid_block.attentions.0"}
    assert scopes_of("style", SD1) == style
    assert scopes_of("composition", SD1) == composition
    assert scopes_of("style_precise", SD1) == style | composition
    strong = scopes_of("style_strong", SD1)
    assert strong == scopes_of(None, SD1) - composition - {f"up_blocks.3.attentions.{i}" for i in range(3)}
    assert scopes_of("style", XL, xl=True) == {"up_blocks.0.attentions.1"}
    assert scopes_of("composition", XL, xl=True) == {"down_blocks.2.attentions.1"}
    assert scopes_of("style_strong", XL, xl=True) == scopes_of(None, XL) - {
        "down_blocks.2.attentions.1",
        "mid_block.attentions.0",
    }


def test_what_scales_do_not_name_counts_nothing() -> None:
    """diffusers' own example, times the scale."""
    blocks = {"down": {"block_2": [0.0, 1.0]}, "up": {"block_0": [0.0, 0.8, 0.0]}}
    scales = attention_scales(blocks, 0.5, XL, xl=True)
    named = {layer.scope: scale for layer, scale in zip(XL.cross_attentions, scales, strict=True) if scale}
    tail = "transformer_blocks.0.attn2"
    assert named == {f"down_blocks.2.attentions.1.{tail}": 0.5, f"up_blocks.0.attentions.1.{tail}": 0.4}
    assert attention_scales({"mid": 1.0}, 1.0, XL, xl=True) == (0.0,) * 10 + (1.0,)


@pytest.mark.parametrize(
    ("blocks", "part"),
    [
        ("stile", "expected one of style"),
        (["style"], "expected one of style"),
        ({"top": 1.0}, "expected some of down, mid, up"),
        ({"up": {"block_0": 1.0}}, "expected blocks with attentions"),
        ({"down": {"block_0": [1.0, 1.0, 1.0]}}, "expected 1 or 2"),
    ],
)
def test_wrong_blocks_are_refused(blocks: Any, part: str) -> None:
    """In one sentence."""
    with pytest.raises(RequestError, match=part):
        attention_scales(blocks, 1.0, SD1, xl=False)


def test_a_part_that_the_model_lacks_is_refused() -> None:
    """Such as of a model of two levels."""
    with pytest.raises(RequestError, match="no cross-attention there"):
        attention_scales("style", 1.0, structure({"down_blocks.0": 1}), xl=False)


def attended(tokens: int, scale: float, active: tuple[bool, ...]) -> AttendedImages:
    """One with numbers of its own."""
    keys = np.arange(tokens, dtype=np.float32)[:, None] + np.float32(scale)
    return AttendedImages(
        keys=keys,
        values=keys + 10,
        negative=lambda: (-keys, -keys - 10),
        scales=(scale, 0.0),
        masks=None,
        steps=ActiveSteps(ratios=(9.0, 3.0, 1.0), active=active),
    )


def test_each_step_is_given_what_counts() -> None:
    """Tokens repeated to a common multiple, the other pass's own, scale 0 where one is over, and nothing at the end."""
    prompts = [attended(2, 0.5, (True, True, False)), attended(3, 0.7, (True, False, False))]
    condition = ImagePromptCondition(prompts, 6, (0,))

    def at(ratio: float, batch: int = 4) -> Any:
        call = UnetCall(
            passes=(NEGATIVE, POSITIVE),
            rows=slice(0, 4),
            pictures=2,
            level=Level(0.0, 1.0, ratio),
            inputs={"sample": np.zeros((batch, 4, 2, 2), np.float32)},
        )
        return condition.at(call)

    first, second = at(9.0), at(3.0)
    larger = at(9.0, 6)  # than its rows: as a whole, so that a device takes it once
    for name, array in larger.items():
        assert array.shape[0] == 6
        assert array is at(9.0, 6)[name]
        np.testing.assert_array_equal(array[:4], first[name])
    assert {name: array.shape for name, array in first.items()} == {
        "image_prompt_keys": (4, 2, 6, 1),
        "image_prompt_values": (4, 2, 6, 1),
        "image_prompt_scales": (4, 2, 2),
    }
    np.testing.assert_allclose(first["image_prompt_keys"][2, 0, :, 0], [0.5, 1.5] * 3)
    np.testing.assert_allclose(first["image_prompt_keys"][1, 1, :, 0], [-0.7, -1.7, -2.7] * 2)
    np.testing.assert_allclose(first["image_prompt_scales"][0], [[0.5, 0.0], [0.7, 0.0]])
    np.testing.assert_allclose(second["image_prompt_scales"][3], [[0.5, 0.0], [0.0, 0.0]])
    assert at(3.0)["image_prompt_keys"] is second["image_prompt_keys"]  # made once, and copied to a device once
    assert not any(array.flags.writeable or array.base is not None for array in second.values())
    assert at(1.0) == {}
