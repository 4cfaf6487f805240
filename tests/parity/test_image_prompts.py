"""Pictures after pictures equal diffusers': adapters of every kind, scales, masks, several at once, all workflows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity.reference import DiffusersReference
from PIL import Image, ImageDraw
from tiny_image_prompts import SIDE

import latentrt
from latentrt.engines.bundle.checks.parity import parity_of
from latentrt.models import EMOJI

LATENT_TOLERANCE = 1e-4
PICTURE_PSNR = 50.0
STEPS = 4


def seen(index: int = 0) -> Image.Image:
    """A picture to draw after: smooth, with a disc, wider than high."""
    ramp = np.linspace(0, 255, 56, dtype=np.uint8)
    pixels = np.stack(np.broadcast_arrays(ramp, ramp[:40, None], 255 - ramp), axis=-1).copy()
    image = Image.fromarray(pixels if index == 0 else 255 - pixels)
    ImageDraw.Draw(image).ellipse((10 + 8 * index, 5, 30 + 8 * index, 25), fill=(250, 30, 60 * index))
    return image


def mask(left: bool, size: tuple[int, int]) -> Image.Image:
    """White on one side, its edge not along a pixel of the latents."""
    found = Image.new("L", size)
    middle = size[0] // 2 + 1
    ImageDraw.Draw(found).rectangle((0, 0, middle, size[1]) if left else (middle, 3, *size), fill=255)
    return found


@dataclass(frozen=True, kw_only=True)
class Wish:
    """An image prompt on both sides."""

    kind: str
    images: tuple[int, ...] = (0,)
    scale: Any = 0.8
    left: bool | None = None


@dataclass(frozen=True)
class Both:
    """A family's pipeline, its adapters, and the diffusers pipelines of the same checkpoint."""

    pipe: latentrt.Pipeline
    theirs: DiffusersReference
    encoder: Path
    files: Callable[[str], Path]
    bundles: Callable[[str], Path]

    @property
    def size(self) -> tuple[int, int]:
        profile = self.pipe.manifest.profiles[0]
        return profile.width, profile.height

    def compare(
        self,
        *wishes: Wish,
        sampler: str = "",
        lora: Path | None = None,
        control: latentrt.Control | None = None,
        **more: Any,
    ) -> latentrt.Result:
        """Draws on both sides; the workflow is that of the pictures given."""
        sampler = sampler or self.pipe.manifest.defaults.sampler
        self.load([wish.kind for wish in wishes])
        self.theirs.text.set_ip_adapter_scale([wish.scale for wish in wishes])
        if lora is not None:
            self.theirs.text.load_lora_weights(lora, adapter_name="style")
            self.theirs.text.set_adapters(["style"], [0.7])
        options = {"num_inference_steps": STEPS, "guidance_scale": 4.0, **more}
        reference = {key: value for key, value in options.items() if key != "num_inference_steps"}
        if any(wish.left is not None for wish in wishes):
            reference["cross_attention_kwargs"] = {"ip_adapter_masks": [self.mask(wish) for wish in wishes]}
        if control is not None:
            reference |= {"control_image": control.image, "controlnet_conditioning_scale": control.scale}
            options["control"] = control
        expected = self.theirs.draw(
            prompt="a red apple",
            sampler=sampler,
            seeds=7,
            size=self.size,
            steps=STEPS,
            ip_adapter_image=[[seen(index) for index in wish.images] for wish in wishes],
            **reference,
        )
        if lora is not None:
            self.theirs.text.unload_lora_weights()
            options["loras"] = {self.pipe.load_lora(lora): 0.7}
        ours = self.drawn([self.prompt(wish) for wish in wishes], sampler=sampler, **options)
        parity = parity_of(ours.latents, expected.latents)
        assert parity.relative_error <= LATENT_TOLERANCE, f"{wishes} {more}: latents: {parity}"
        mse = float(np.mean((np.stack(ours.images) - expected.pixels) ** 2))
        assert mse <= 10 ** (-PICTURE_PSNR / 10), f"{wishes} {more}: picture: {-10 * np.log10(mse):.1f} dB"
        plain = self.drawn(None, sampler=sampler, **options)
        assert parity_of(ours.latents, plain.latents).relative_error > 1e-3
        return ours

    def load(self, kinds: list[str]) -> None:
        """Gives diffusers these adapters in place of those before."""
        from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

        if self.theirs.text.unet.encoder_hid_proj is not None:
            self.theirs.text.unload_ip_adapter()
        encoder = CLIPVisionModelWithProjection.from_pretrained(self.encoder)
        for pipeline in (self.theirs.text, self.theirs.image, self.theirs.inpaint):
            pipeline.register_modules(
                image_encoder=encoder, feature_extractor=CLIPImageProcessor(size=SIDE, crop_size=SIDE)
            )
        files = [self.files(kind) for kind in kinds]
        self.theirs.text.load_ip_adapter(
            [str(file.parent) for file in files],
            subfolder="",
            weight_name=[file.name for file in files],
            image_encoder_folder=None,
        )

    def mask(self, wish: Wish) -> torch.Tensor:
        """As diffusers wants it."""
        from diffusers.image_processor import IPAdapterMaskProcessor

        white = Image.new("L", self.size, 255) if wish.left is None else mask(wish.left, self.size)
        found: torch.Tensor = IPAdapterMaskProcessor().preprocess([white], height=self.size[1], width=self.size[0])
        return found

    def prompt(self, wish: Wish, **more: Any) -> latentrt.ImagePrompt:
        """As ours takes it."""
        blocks, scale = (wish.scale, 1.0) if isinstance(wish.scale, dict) else (None, wish.scale)
        return latentrt.ImagePrompt(
            self.bundles(wish.kind),
            [seen(index) for index in wish.images],
            scale=scale,
            blocks=blocks,
            mask=None if wish.left is None else mask(wish.left, self.size),
            **more,
        )

    def drawn(self, prompts: list[latentrt.ImagePrompt] | None, **options: Any) -> latentrt.Result:
        """Ours alone."""
        draw: Any = self.pipe if "image" not in options else self.pipe.img2img
        if "mask_image" in options:
            draw, options = self.pipe.inpaint, {**options, "kept_pixels": "decoded"}
        result: latentrt.Result = draw("a red apple", output_type="np", seed=7, image_prompt=prompts, **options)
        return result


@pytest.fixture(scope="module")
def both(
    family_pipe: Callable[[str], latentrt.Pipeline],
    family_checkpoint: Callable[[str], Path],
    adapter_file: Callable[[str, str], Path],
    adapter_bundle: Callable[[str, str], Path],
    image_encoder: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Callable[[str], Both]]:
    """Both sides of a family, with one thread each."""

    @cache
    def sides(family: str) -> Both:
        emoji = family == "emoji"
        return Both(
            request.getfixturevalue("emoji_pipe") if emoji else family_pipe(family),
            DiffusersReference(EMOJI if emoji else family_checkpoint(family)),
            image_encoder,
            lambda kind: adapter_file(family, kind),
            lambda kind: adapter_bundle(family, kind),
        )

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield sides
    torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", ["base", "plus", "full"])
@pytest.mark.parametrize("family", ["sd1", "sdxl", pytest.param("emoji", marks=pytest.mark.slow)])
@pytest.mark.grid
def test_after_a_picture(both: Callable[[str], Both], family: str, kind: str) -> None:
    """With guidance, whose negative half is the adapter's own; several pictures seen together, without guidance."""
    sides = both(family)
    sides.compare(Wish(kind=kind))
    sides.compare(Wish(kind=kind, images=(0, 1), scale=1.3), guidance_scale=1.0)


@pytest.mark.parametrize("family", ["sd1", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_two_adapters_with_masks_and_scales_of_blocks(both: Callable[[str], Both], family: str) -> None:
    """Of different token counts, each with a softmax of its own; what scales do not name counts nothing."""
    up = {"up": {"block_1" if family == "sd1" else "block_0": [0.0, 0.9]}}
    sides = both(family)
    sides.compare(Wish(kind="base", scale=up, left=True), Wish(kind="plus", images=(1,), scale=0.5, left=False))
    sides.compare(Wish(kind="full", scale={"down": 0.4, "mid": 1.0}), Wish(kind="base", images=(1,)))


@pytest.mark.parametrize("family", ["sd1", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_image_to_image_and_inpainting(both: Callable[[str], Both], family: str) -> None:
    """Where the latents begin changes nothing about it."""
    sides = both(family)
    start = seen(1).resize(sides.size)
    sides.compare(Wish(kind="base", left=False), image=start, strength=0.6)
    sides.compare(Wish(kind="plus"), image=start, mask_image=mask(True, sides.size), strength=1.0)


def test_with_a_lora_and_a_control_net(
    both: Callable[[str], Both],
    tiny_bundle: Path,
    tiny_net: Path,
    family_checkpoint: Callable[[str], Path],
    net_checkpoint: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """In one call: the LoRA changes the queries that attend to the picture, and the net what those are made of."""
    from parity.control_reference import ControlReference
    from tiny_loras import save_tiny_lora

    sides = replace(both("sd1"), theirs=ControlReference(family_checkpoint("sd1"), [net_checkpoint("sd1")]))
    lora = save_tiny_lora(tmp_path / "style.safetensors", tiny_bundle, components=("unet",), scale=0.5)
    control = latentrt.Control(tiny_net, seen(1).resize(sides.size), scale=0.8)
    try:
        ours = sides.compare(Wish(kind="plus"), lora=lora, control=control)
    finally:
        sides.pipe.unload_lora()
    prompts = [sides.prompt(Wish(kind="plus"))]
    for added in ({}, {"control": control}):
        other = sides.drawn(prompts, num_inference_steps=STEPS, guidance_scale=4.0, **added)
        assert parity_of(ours.latents, other.latents).relative_error > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("scale", [4.0, 1.0])
def test_with_perturbed_attention(
    both: Callable[[str], Both], family_checkpoint: Callable[[str], Path], scale: float
) -> None:
    """The perturbed pass sees what the positive one does."""
    from parity.test_pag_and_freeu import PagReference

    sides = replace(both("sd1"), theirs=PagReference(family_checkpoint("sd1")))
    sides.compare(Wish(kind="plus"), pag_scale=3.0, pag_adaptive_scale=0.001, guidance_scale=scale)


def test_start_and_end(both: Callable[[str], Both]) -> None:
    """Off after half of the steps, as where diffusers' scale is set to 0 between two."""
    sides = both("sd1")

    def off(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            pipeline.set_ip_adapter_scale(0.0)
        return tensors

    sides.load(["base"])
    sides.theirs.text.set_ip_adapter_scale(0.8)
    common = {"guidance_scale": 4.0, "sampler": "ddim"}
    expected = sides.theirs.draw(
        prompt="a red apple",
        seeds=7,
        size=sides.size,
        steps=STEPS,
        ip_adapter_image=[seen()],
        callback_on_step_end=off,
        **common,
    )
    ours = sides.drawn([sides.prompt(Wish(kind="base"), end=0.5)], num_inference_steps=STEPS, **common)
    assert parity_of(ours.latents, expected.latents).relative_error <= LATENT_TOLERANCE
    whole = sides.drawn([sides.prompt(Wish(kind="base"))], num_inference_steps=STEPS, **common)
    late = sides.drawn([sides.prompt(Wish(kind="base"), start=0.5)], num_inference_steps=STEPS, **common)
    assert len({result.latents.tobytes() for result in (ours, whole, late)}) == 3


def test_where_none_counts_nothing_changes(both: Callable[[str], Both]) -> None:
    """To the last bit: scale 0, none of the steps, and no image prompt at all."""
    sides = both("sd1")
    plain = sides.drawn(None, num_inference_steps=2)
    for wish, more in ((Wish(kind="base", scale=0.0), {}), (Wish(kind="base"), {"start": 0.9})):
        ours = sides.drawn([sides.prompt(wish, **more)], num_inference_steps=2)
        np.testing.assert_array_equal(ours.latents, plain.latents)
    np.testing.assert_array_equal(sides.drawn([], num_inference_steps=2).latents, plain.latents)
