"""Pictures along control pictures equal those of diffusers' pipelines with control nets and T2I-Adapters."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity.control_reference import ControlReference
from parity.reference import Reference
from PIL import Image
from shared import filled_once

import latentrt
from latentrt import Control
from latentrt.engines.spec import Array
from latentrt.models import EMOJI

PICTURE_PSNR = 50.0
EFFECT_PSNR = 45.0  # a net that changes less would prove nothing
PROMPT, SEED, STEPS, GUIDANCE = "a red apple", 7, 4, 4.0
FAMILIES = ("sd1", "sdxl", *(pytest.param(name, marks=pytest.mark.slow) for name in ("emoji", "sd2")))
HINTS_OF_EMOJI = (16, 32, 64)  # halved twice, as its autoencoder halves pictures


def psnr(one: Array, other: Array) -> float:
    """Of pixels in [0, 1]."""
    return -10 * float(np.log10(max(np.mean((one - other) ** 2), 1e-15)))


def drawing(size: int, seed: int = 1) -> Image.Image:
    """A control picture: random fields, each of its own colour."""
    cells = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(cells).resize((size, size), Image.Resampling.NEAREST)


def save_strong_net(folder: Path, checkpoint: Path, seed: int, **settings: Any) -> None:
    """A control net whose residuals change pictures well; each seed has others."""
    import torch
    from tiny_nets import control_net_of

    net, generator = control_net_of(checkpoint, **settings), torch.Generator().manual_seed(seed)
    for module in (net.controlnet_down_blocks, net.controlnet_mid_block):
        for parameter in module.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    net.save_pretrained(folder)


class Sides:
    """A model's pipeline, two control nets for it, and the diffusers pipelines of the same folders."""

    def __init__(self, pipe: latentrt.Pipeline, checkpoint: Path, nets: dict[Path, Path], size: int) -> None:
        self.pipe, self.checkpoint, self.nets, self.size = pipe, checkpoint, nets, size
        self._references: dict[int, ControlReference] = {}

    def reference(self, count: int) -> ControlReference:
        """diffusers' pipelines with so many nets."""
        if count not in self._references:
            self._references[count] = ControlReference(self.checkpoint, list(self.nets)[:count])
        return self._references[count]

    @property
    def start(self) -> Image.Image:
        return drawing(self.size, 5).resize((self.size, self.size), Image.Resampling.BILINEAR)

    @property
    def mask(self) -> Image.Image:
        mask = np.zeros((self.size, self.size), np.uint8)
        mask[: self.size // 2 + 3, 4:] = 255
        return Image.fromarray(mask)

    def drawn(self, workflow: str, control: Any, **more: Any) -> latentrt.Result:
        """Ours."""
        common: dict[str, Any] = {
            "seed": SEED,
            "num_inference_steps": STEPS,
            "guidance_scale": GUIDANCE,
            "sampler": "euler",
            "output_type": "np",
            **({} if control is None else {"control": control}),
            **more,
        }
        if workflow == "text":
            return self.pipe(PROMPT, **common)
        if workflow == "image":
            return self.pipe.img2img(PROMPT, image=self.start, strength=0.8, **common)
        return self.pipe.inpaint(
            PROMPT, image=self.start, mask_image=self.mask, strength=0.9, kept_pixels="decoded", **common
        )

    def drawn_by_them(self, workflow: str, count: int, **control: Any) -> Reference:
        """diffusers'."""
        given: dict[str, Any] = {"controlnet_conditioning_scale": 1.0} if count == 1 else {}  # inpainting's is 0.5
        if workflow != "text":
            given |= {"image": self.start, "strength": 0.8}
        if workflow == "inpaint":
            given |= {"mask_image": self.mask, "strength": 0.9}
        return self.reference(count).draw(
            prompt=PROMPT,
            sampler="euler",
            seeds=SEED,
            size=(self.size, self.size),
            steps=STEPS,
            guidance_scale=GUIDANCE,
            **{**given, **control},
        )


@pytest.fixture(scope="module")
def sides(request: pytest.FixtureRequest, shared: Path) -> Iterator[Callable[[str], Sides]]:
    """A family's, opened when it is first asked for."""
    opened: list[latentrt.Pipeline] = []

    @cache
    def of(family: str) -> Sides:
        fixture = request.getfixturevalue
        emoji = family == "emoji"
        bundle = fixture("emoji_bundle") if emoji else fixture("family_bundle")(family)
        checkpoint = EMOJI if emoji else fixture("family_checkpoint")(family)
        settings = {"conditioning_embedding_out_channels": HINTS_OF_EMOJI} if emoji else {}
        nets = {}
        for number in range(2):
            folder = filled_once(
                shared / f"{family}-{number}.net",
                lambda made, seed=number: save_strong_net(made, checkpoint, seed, **settings),
            )
            nets[folder] = filled_once(
                shared / f"{family}-{number}-net.bundle",
                lambda made, net=folder: latentrt.build(net, made, for_bundle=bundle),
            )
        opened.append(latentrt.open(bundle, threads=1))
        return Sides(opened[-1], checkpoint, nets, opened[-1].manifest.profiles[0].width)

    yield of
    for one in opened:
        one.close()


@pytest.mark.parametrize("workflow", ["text", "image", "inpaint"])
@pytest.mark.parametrize("nets", [1, 2])
@pytest.mark.parametrize(
    ("scale", "start", "end", "guess"),
    [(1.0, 0.0, 1.0, False), (0.6, 0.25, 0.8, False), (0.8, 0.0, 1.0, True), (1.3, 0.3, 1.0, True)],
)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.grid(most=10)
def test_pictures_are_diffusers(
    family: str,
    scale: float,
    start: float,
    end: float,
    guess: bool,
    nets: int,
    workflow: str,
    sides: Callable[[str], Sides],
) -> None:
    """Over scales, starts and ends, guess mode, one net and two, whose scales and shares differ, and workflows."""
    model = sides(family)
    images = [drawing(model.size, 1), drawing(model.size, 2)][:nets]
    scales, starts, ends = [scale, 0.5][:nets], [start, 0.0][:nets], [end, 0.7][:nets]
    expected = model.drawn_by_them(
        workflow,
        nets,
        control_image=images if nets > 1 else images[0],
        controlnet_conditioning_scale=scales if nets > 1 else scales[0],
        control_guidance_start=starts if nets > 1 else starts[0],
        control_guidance_end=ends if nets > 1 else ends[0],
        guess_mode=guess,
    )
    ours = model.drawn(
        workflow,
        [
            Control(net, image, scale=one, start=begin, end=until, mode="control" if guess else "balanced")
            for net, image, one, begin, until in zip(
                list(model.nets.values())[:nets], images, scales, starts, ends, strict=True
            )
        ],
    )
    assert psnr(np.stack(ours.images), expected.pixels) >= PICTURE_PSNR
    plain = model.drawn(workflow, None)
    assert psnr(np.stack(ours.images), np.stack(plain.images)) < EFFECT_PSNR


def test_settings_of_pictures_with_one_net_each(sides: Callable[[str], Sides]) -> None:
    """Two pictures, a control picture for each; an array in [0, 1] is the PIL picture."""
    model = sides("sd1")
    images = [drawing(model.size, 1), drawing(model.size, 2)]
    net = next(iter(model.nets.values()))
    common: dict[str, Any] = {"num_inference_steps": 2, "output_type": "latent", "width": model.size}
    both = model.pipe(["a", "b"], seed=[1, 2], control=Control(net, images), **common)
    for index, prompt in enumerate("ab"):
        array = np.asarray(images[index], np.float32) / np.float32(255)
        alone = model.pipe(prompt, seed=[index + 1], control=Control(net, array), **common)
        np.testing.assert_allclose(both.latents[index], alone.latents[0], atol=2e-5)


@pytest.mark.parametrize("workflow", ["text", pytest.param("inpaint", marks=pytest.mark.slow)])
def test_steps_without_a_net_are_plain(workflow: str, sides: Callable[[str], Sides]) -> None:
    """To the last bit: scale 0, a range without a step, an empty list, and every step before a net begins."""
    model = sides("sd1")
    net = next(iter(model.nets.values()))
    image = drawing(model.size)

    def latents(control: Any) -> list[Array]:
        seen: list[Array] = []

        def keep(pipe: Any, step: int, timestep: float, tensors: dict[str, Any]) -> None:
            seen.append(tensors["latents"].copy())

        model.drawn(workflow, control, callback_on_step_end=keep)
        return seen

    plain = latents(None)
    for idle in ([], Control(net, image, scale=0.0), [Control(net, image, start=0.9), Control(net, image, end=0.1)]):
        np.testing.assert_array_equal(latents(idle), plain)
    late = latents(Control(net, image, start=0.5))
    taken = len(plain)
    begins = -(-taken // 2)
    np.testing.assert_array_equal(late[:begins], plain[:begins])
    assert not np.array_equal(late[begins], plain[begins])


@pytest.mark.parametrize("sampler", ["heun", "pndm", "dpmpp_2m"])
def test_ranges_are_of_steps(sampler: str, sides: Callable[[str], Sides]) -> None:
    """Also of samplers that call the model twice in a step; as diffusers has them, which counts calls."""
    model = sides("sd1")
    net = next(iter(model.nets.values()))
    image = drawing(model.size)
    expected = model.reference(1).draw(
        prompt=PROMPT,
        sampler=sampler,
        seeds=SEED,
        size=(model.size, model.size),
        steps=5,
        guidance_scale=GUIDANCE,
        control_image=image,
        control_guidance_start=0.5,
    )
    ours = model.drawn("text", Control(net, image, start=0.5), sampler=sampler, num_inference_steps=5)
    assert psnr(np.stack(ours.images), expected.pixels) >= PICTURE_PSNR


def test_the_prompt_mode_is_guess_mode_for_both_halves(sides: Callable[[str], Sides]) -> None:
    """Without guidance there is one half, and it is diffusers' guess mode; with it, it is neither of the others."""
    model = sides("sd1")
    net = next(iter(model.nets.values()))
    image = drawing(model.size)
    expected = model.reference(1).draw(
        prompt=PROMPT,
        sampler="euler",
        seeds=SEED,
        size=(model.size, model.size),
        steps=STEPS,
        guidance_scale=1.0,
        control_image=image,
        guess_mode=True,
    )
    ours = model.drawn("text", Control(net, image, mode="prompt"), guidance_scale=1.0)
    assert psnr(np.stack(ours.images), expected.pixels) >= PICTURE_PSNR
    guided = [model.drawn("text", Control(net, image, mode=mode)) for mode in ("balanced", "prompt", "control")]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert psnr(np.stack(guided[one].images), np.stack(guided[other].images)) < PICTURE_PSNR


def test_what_a_callback_changes_the_net_is_told(sides: Callable[[str], Sides]) -> None:
    """Embeddings, as in diffusers."""
    model = sides("sd1")
    net = next(iter(model.nets.values()))
    image = drawing(model.size)

    def change(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"prompt_embeds": tensors["prompt_embeds"] * (2.0 if step == 0 else 1.0)}

    told = {"callback_on_step_end": change, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    expected = model.drawn_by_them("text", 1, control_image=image, **told)
    ours = model.drawn("text", Control(net, image), **told)
    assert psnr(np.stack(ours.images), expected.pixels) >= PICTURE_PSNR


def test_a_crop_crops_the_control_picture(sides: Callable[[str], Sides]) -> None:
    """With the same region and the same filling as diffusers, and laid over the picture where its size is another."""
    model = sides("sd1")
    net = next(iter(model.nets.values()))
    wide = (60, 44)
    image, start = drawing(64, 3).resize(wide), drawing(64, 5).resize(wide)
    mask = np.zeros(wide[::-1], np.uint8)
    mask[8:20, 10:30] = 255
    common: dict[str, Any] = {"image": start, "mask_image": Image.fromarray(mask), "padding_mask_crop": 4}
    expected = model.reference(1).draw(
        prompt=PROMPT,
        sampler="ddim",
        seeds=SEED,
        size=(model.size, model.size),
        steps=STEPS,
        strength=0.9,
        output_type="pil",
        control_image=image,
        controlnet_conditioning_scale=1.0,
        **common,
    )
    drawn = dict[str, Any](
        sampler="ddim", seed=SEED, num_inference_steps=STEPS, strength=0.9, width=model.size, height=model.size
    )
    ours = model.pipe.inpaint(PROMPT, control=Control(net, image), **common, **drawn)
    redrawn = mask == 255
    np.testing.assert_allclose(
        np.asarray(ours.images[0])[redrawn].astype(int), expected.pixels[0][redrawn].astype(int), atol=2
    )
    larger = image.resize((120, 88), Image.Resampling.NEAREST)
    again = model.pipe.inpaint(PROMPT, control=Control(net, larger), **common, **drawn)
    assert psnr(np.asarray(again.images[0]) / 255, np.asarray(ours.images[0]) / 255) >= 35.0
    plain = model.pipe.inpaint(PROMPT, **common, **drawn)
    assert psnr(np.asarray(plain.images[0]) / 255, np.asarray(ours.images[0]) / 255) < 50.0


def test_an_inpainting_net_is_given_its_picture_as_it_is(sides: Callable[[str], Sides]) -> None:
    """With −1 where it is redrawn, as ``latentrt.prepare.inpaint`` and diffusers' documentation make it."""
    import torch

    model = sides("sd1")
    net = next(iter(model.nets.values()))
    marked = latentrt.prepare.inpaint(model.start, model.mask)
    assert marked.min() == -1.0
    theirs = torch.from_numpy(marked).permute(2, 0, 1)[None]
    expected = model.drawn_by_them("inpaint", 1, control_image=theirs)
    for image in (marked, marked[None], theirs, [marked]):
        ours = model.drawn("inpaint", Control(net, image))
        assert psnr(np.stack(ours.images), expected.pixels) >= PICTURE_PSNR


def test_a_u_net_of_nine_channels(family_bundle: Callable[[str], Path], sides: Callable[[str], Sides]) -> None:
    """A net is given the latents alone. The net was built for another model of the family; that fits, too."""
    model = sides("sd1")
    folder, net = next(iter(model.nets.items()))
    image = drawing(model.size)
    checkpoint = model.checkpoint.parent / "sd1-inpaint"
    with latentrt.open(family_bundle("sd1-inpaint"), threads=1) as pipe:
        reference = ControlReference(checkpoint, [folder])
        nine = Sides(pipe, checkpoint, {folder: net}, model.size)
        nine._references[1] = reference
        expected = nine.drawn_by_them("inpaint", 1, control_image=image)
        ours = nine.drawn("inpaint", Control(net, image))
    assert psnr(np.stack(ours.images), expected.pixels) >= PICTURE_PSNR


@pytest.mark.slow
def test_a_net_of_averages(sides: Callable[[str], Sides], tmp_path: Path) -> None:
    """Shuffle's: for the conditional half alone, and without guess mode's factors."""
    model = sides("sd1")
    folder = tmp_path / "net"
    save_strong_net(folder, model.checkpoint, 3, global_pool_conditions=True)
    net = tmp_path / "shuffle.bundle"
    latentrt.build(folder, net, for_bundle=model.pipe._bundle.root)
    pooled = Sides(model.pipe, model.checkpoint, {folder: net}, model.size)
    image = drawing(model.size)
    for mode in ("balanced", "control"):
        expected = pooled.drawn_by_them("text", 1, control_image=image, guess_mode=mode == "control")
        ours = pooled.drawn("text", Control(net, image, mode=mode))
        assert psnr(np.stack(ours.images), expected.pixels) >= PICTURE_PSNR


@pytest.mark.parametrize(
    "family", ["sd1", pytest.param("sdxl", marks=pytest.mark.slow), pytest.param("sd2", marks=pytest.mark.slow)]
)
def test_t2i_adapters(family: str, sides: Callable[[str], Sides], shared: Path, tmp_path: Path) -> None:
    """One with a scale and a share of the steps, and two."""
    from tiny_nets import save_t2i_adapter

    model = sides(family)
    settings: dict[str, Any] = {
        "sd1": {},
        "sd2": {"channels": [64, 128]},
        "sdxl": {"channels": [64], "downscale_factor": 4},
    }[family]
    folders = [save_t2i_adapter(tmp_path / f"{number}.t2i", **settings) for number in range(2)]
    bundles = [tmp_path / f"{number}.bundle" for number in range(2)]
    for folder, bundle in zip(folders, bundles, strict=True):
        latentrt.build(folder, bundle, for_bundle=model.pipe._bundle.root)
    images = [drawing(model.size, 1), drawing(model.size, 2)]
    common: dict[str, Any] = {"prompt": PROMPT, "sampler": "euler", "seeds": SEED, "size": (model.size, model.size)}
    common |= {"steps": STEPS, "guidance_scale": GUIDANCE}
    one = ControlReference(model.checkpoint, (), folders[:1])
    share: dict[str, Any] = {"adapter_conditioning_factor": 0.5} if family == "sdxl" else {}  # the others' has none
    expected = one.draw(control_image=images[0], adapter_conditioning_scale=0.8, **share, **common)
    ours = model.drawn("text", Control(bundles[0], images[0], scale=0.8, end=0.5 if share else 1.0))
    assert psnr(np.stack(ours.images), expected.pixels) >= PICTURE_PSNR
    assert psnr(np.stack(model.drawn("text", None).images), expected.pixels) < EFFECT_PSNR
    two = ControlReference(model.checkpoint, (), folders)
    expected = two.draw(control_image=images, adapter_conditioning_scale=[0.7, 1.2], **common)
    ours = model.drawn("text", [Control(bundles[0], images[0], scale=0.7), Control(bundles[1], images[1], scale=1.2)])
    assert psnr(np.stack(ours.images), expected.pixels) >= PICTURE_PSNR


@pytest.mark.slow
def test_union_nets(sides: Callable[[str], Sides], tmp_path: Path) -> None:
    """One picture, and two of different kinds in one run of the net, each with its scale."""
    import diffusers
    from tiny_nets import save_union_net

    model = sides("sdxl")
    folder = save_union_net(tmp_path / "union.net", model.checkpoint)
    bundle = tmp_path / "union.bundle"
    latentrt.build(folder, bundle, for_bundle=model.pipe._bundle.root)
    text = model.reference(1).text
    components = {name: part for name, part in text.components.items() if name != "controlnet"}
    pipeline = diffusers.StableDiffusionXLControlNetUnionPipeline(
        **components, controlnet=diffusers.ControlNetUnionModel.from_pretrained(folder)
    )
    pipeline.set_progress_bar_config(disable=True)
    reference = ControlReference(model.checkpoint, ())
    reference.text = pipeline
    union = Sides(model.pipe, model.checkpoint, {folder: bundle}, model.size)
    union._references[1] = reference
    images = [drawing(model.size, 1), drawing(model.size, 2)]
    expected = union.drawn_by_them(
        "text", 1, control_image=[images[0]], control_mode=[3], controlnet_conditioning_scale=0.7
    )
    ours = union.drawn("text", Control(bundle, images[0], scale=0.7, type="canny"))
    assert psnr(np.stack(ours.images), expected.pixels) >= PICTURE_PSNR
    expected = union.drawn_by_them(
        "text", 1, control_image=images, control_mode=[1, 3], controlnet_conditioning_scale=[0.7, 0.4]
    )
    ours = union.drawn(
        "text",
        [Control(bundle, images[0], scale=0.7, type="depth"), Control(bundle, images[1], scale=0.4, type=3)],
    )
    assert psnr(np.stack(ours.images), expected.pixels) >= PICTURE_PSNR


def test_with_a_lora_and_an_image_prompt(
    sides: Callable[[str], Sides],
    adapter_file: Callable[[str, str], Path],
    adapter_bundle: Callable[[str, str], Path],
    image_encoder: Path,
    tmp_path: Path,
) -> None:
    """A LoRA and a net, and all three in one call, as in diffusers."""
    from tiny_image_prompts import SIDE
    from tiny_loras import save_tiny_lora
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    model = sides("sd1")
    folder, net = next(iter(model.nets.items()))
    image, seen = drawing(model.size), drawing(40, 4)
    lora = save_tiny_lora(tmp_path / "style.safetensors", model.pipe._bundle.root, components=("unet",), scale=4.0)
    own = Sides(model.pipe, model.checkpoint, {folder: net}, model.size)  # whose pipelines keep the adapter
    text = own.reference(1).text
    text.load_lora_weights(tmp_path, weight_name="style.safetensors", adapter_name="style")
    text.set_adapters("style", 0.8)
    with_lora = own.drawn_by_them("text", 1, control_image=image)
    text.register_modules(
        image_encoder=CLIPVisionModelWithProjection.from_pretrained(image_encoder),
        feature_extractor=CLIPImageProcessor(size=SIDE, crop_size=SIDE),
    )
    file = adapter_file("sd1", "plus")
    text.load_ip_adapter(str(file.parent), subfolder="", weight_name=file.name, image_encoder_folder=None)
    text.set_ip_adapter_scale(0.8)
    with_all = own.drawn_by_them("text", 1, control_image=image, ip_adapter_image=[[seen]])
    prompt = latentrt.ImagePrompt(adapter_bundle("sd1", "plus"), seen, scale=0.8)
    drawn = [own.drawn("text", Control(net, image))]
    model.pipe.load_lora(lora, name="style")
    try:
        for more in ({}, {"image_prompt": prompt}):
            drawn.append(own.drawn("text", Control(net, image), loras={"style": 0.8}, **more))
    finally:
        model.pipe.unload_lora()
    pictures = [np.stack(result.images) for result in drawn]
    assert psnr(pictures[1], with_lora.pixels) >= PICTURE_PSNR
    assert psnr(pictures[2], with_all.pixels) >= PICTURE_PSNR
    for one, other in ((0, 1), (1, 2)):
        assert psnr(pictures[one], pictures[other]) < EFFECT_PSNR


@pytest.mark.parametrize(
    ("bundle", "family", "bound"),
    [("half_bundle", "sd1", 40.0), pytest.param("int8_bundle", "emoji", 20.0, marks=pytest.mark.slow)],
)
def test_u_nets_in_other_precisions(
    bundle: str, family: str, bound: float, request: pytest.FixtureRequest, sides: Callable[[str], Sides]
) -> None:
    """A net that was built for the model in fp32, with the same model in fp16 and int8: close to the picture in fp32,
    as the plain picture is."""
    model = sides(family)
    net = next(iter(model.nets.values()))
    control = Control(net, drawing(model.size), scale=0.8)
    with latentrt.open(request.getfixturevalue(bundle), threads=1) as pipe:
        other = Sides(pipe, model.checkpoint, model.nets, model.size)
        found = psnr(np.stack(other.drawn("text", control).images), np.stack(model.drawn("text", control).images))
        plain = psnr(np.stack(other.drawn("text", None).images), np.stack(model.drawn("text", None).images))
    assert found >= min(bound, plain - 6.0), (found, plain)
