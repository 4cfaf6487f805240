"""Pictures drawn with perturbed-attention guidance and with FreeU equal those of diffusers' pipelines."""

from collections.abc import Callable, Iterator
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity.control_reference import ControlImage
from parity.reference import DiffusersReference
from parity.test_control import drawing, psnr

import latentrt
from latentrt.engines.bundle.checks.parity import parity_of
from latentrt.models import EMOJI

LATENT_TOLERANCE = 1e-4
PICTURE_PSNR, EFFECT_PSNR = 50.0, 45.0
SEED, STEPS = 7, 4
slow = pytest.mark.slow
LAYERS = ["mid", r"up_blocks\.\d\.attentions\.0"]


class PagReference(DiffusersReference):
    """A checkpoint's diffusers pipelines with perturbed-attention guidance."""

    def __init__(self, checkpoint: Path, net: Path | None = None) -> None:
        """Loads the checkpoint, and a control net."""
        import diffusers

        super().__init__(checkpoint)
        xl = "XL" in type(self.text).__name__
        kind = "StableDiffusionXL" if xl else "StableDiffusion"
        options: dict[str, Any] = {} if xl else {"requires_safety_checker": False}
        components = self.text.components
        if net is not None:
            components["controlnet"] = diffusers.ControlNetModel.from_pretrained(net)

        def pipeline(suffix: str) -> Any:
            chosen = getattr(diffusers, f"{kind}{suffix}Pipeline")
            known = signature(chosen.__init__).parameters
            made = chosen(**{name: part for name, part in components.items() if name in known}, **options)
            made.set_progress_bar_config(disable=True)
            return made

        if net is not None:
            self.text = ControlImage(pipeline("ControlNetPAG"))
            return
        self.text, self.image, self.inpaint = (pipeline(suffix) for suffix in ("PAG", "PAGImg2Img", "PAGInpaint"))

    def perturb(self, layers: list[str]) -> None:
        """Chooses the self-attentions."""
        for pipeline in (self.text, self.image, self.inpaint):
            if hasattr(pipeline, "set_pag_applied_layers"):
                pipeline.set_pag_applied_layers(layers)


class Both:
    """A family's pipeline, and the diffusers pipelines of the same checkpoint."""

    def __init__(self, pipe: latentrt.Pipeline, theirs: DiffusersReference) -> None:
        self.pipe, self.theirs = pipe, theirs
        profile = pipe.manifest.profiles[0]
        self.size = (profile.width, profile.height)

    def drawn(self, workflow: str, **wishes: Any) -> latentrt.Result:
        """Ours."""
        wishes = {"prompt": "a red apple", "seed": SEED, "num_inference_steps": STEPS, "sampler": "euler", **wishes}
        start = drawing(self.size[0], 5)
        if workflow == "text":
            return self.pipe(output_type="np", **wishes)
        if workflow == "image":
            return self.pipe.img2img(image=start, strength=0.8, output_type="np", **wishes)
        return self.pipe.inpaint(
            image=start, mask_image=self._mask, strength=1.0, kept_pixels="decoded", output_type="np", **wishes
        )

    @property
    def _mask(self) -> Any:
        return drawing(self.size[0], 6).convert("L").point(lambda value: 255 * (value > 100))

    def compare(self, workflow: str = "text", *, reference: dict[str, Any], **wishes: Any) -> None:
        """Draws on both sides, and once with nothing of what makes the difference."""
        given = dict(reference)
        if workflow != "text":
            given |= {"image": drawing(self.size[0], 5), "strength": 0.8}
        if workflow == "inpaint":
            given |= {"mask_image": self._mask, "strength": 1.0}
        common = {
            "guidance_scale": 4.0,
            **{k: wishes[k] for k in ("guidance_scale", "guidance_rescale") if k in wishes},
        }
        from diffusers.models.attention_processor import AttnProcessor2_0

        self.theirs.text.unet.set_attn_processor(AttnProcessor2_0())  # whatever a call before left there
        expected = self.theirs.draw(
            prompt=wishes.get("prompt", "a red apple"),
            sampler=wishes.get("sampler", "euler"),
            seeds=wishes.get("seed", SEED),
            size=self.size,
            steps=STEPS,
            **{**common, **given},
        )
        wishes = {"guidance_scale": 4.0, **wishes}
        ours = self.drawn(workflow, **wishes)
        assert parity_of(ours.latents, expected.latents).relative_error <= LATENT_TOLERANCE
        assert psnr(np.stack(ours.images), expected.pixels) >= PICTURE_PSNR
        kept = {k: v for k, v in wishes.items() if not k.startswith(("pag_", "freeu"))}
        assert psnr(np.stack(ours.images), np.stack(self.drawn(workflow, **kept).images)) < EFFECT_PSNR

    def compare_perturbed(
        self, workflow: str = "text", *, scale: float = 3.0, adaptive: float = 0.0, **more: Any
    ) -> None:
        """With PAG in several layers."""
        assert isinstance(self.theirs, PagReference)
        self.theirs.perturb(LAYERS)
        self.compare(
            workflow,
            reference={"pag_scale": scale, "pag_adaptive_scale": adaptive, **more.pop("reference", {})},
            pag_scale=scale,
            pag_adaptive_scale=adaptive,
            pag_applied_layers=LAYERS,
            **more,
        )


@pytest.fixture(scope="module")
def both(request: pytest.FixtureRequest) -> Iterator[Callable[..., Both]]:
    """A family's, with PAG; opened when it is first asked for."""
    opened: list[latentrt.Pipeline] = []

    @cache
    def of(family: str) -> Both:
        fixture = request.getfixturevalue
        bundle = fixture("emoji_bundle") if family == "emoji" else fixture("family_bundle")(family)
        checkpoint = EMOJI if family == "emoji" else fixture("family_checkpoint")(family)
        opened.append(latentrt.open(bundle, threads=1))
        return Both(opened[-1], PagReference(checkpoint))

    yield of
    for pipe in opened:
        pipe.close()


@pytest.mark.parametrize("family", ["sd1", *(pytest.param(name, marks=slow) for name in ("sdxl", "sd2", "emoji"))])
def test_perturbed_attention_guidance(family: str, both: Callable[..., Both]) -> None:
    """With guidance and rescaled, whose weight falls with the steps; and without guidance."""
    sides = both(family)
    sides.compare_perturbed(adaptive=0.004, guidance_rescale=0.5)
    sides.compare_perturbed(guidance_scale=1.0)


@pytest.mark.parametrize("family", ["sd1", pytest.param("sdxl", marks=slow)])
def test_perturbed_from_a_picture_and_for_two(family: str, both: Callable[..., Both]) -> None:
    """Image-to-image; two pictures, whose passes are more rows than one call of the engine holds."""
    sides = both(family)
    sides.compare_perturbed("image")
    sides.compare_perturbed(prompt=["a", "b"], seed=[1, 2])


@slow
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "ddim", "euler_a"])
def test_samplers(family: str, sampler: str, both: Callable[..., Both]) -> None:
    """Their timesteps are what the weight falls with."""
    both(family).compare_perturbed(adaptive=0.002, sampler=sampler)


@slow
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_inpainting(family: str, both: Callable[..., Both]) -> None:
    """With a mask."""
    both(family).compare_perturbed("inpaint")


@slow
def test_a_model_with_guidance_built_in(both: Callable[..., Both]) -> None:
    """LCM is perturbed as any other: it has one pass more."""
    both("lcm-sd1").compare_perturbed(sampler="lcm")


@pytest.mark.parametrize("family", ["sd1", *(pytest.param(name, marks=slow) for name in ("sdxl", "sd2", "emoji"))])
def test_freeu(family: str, both: Callable[..., Both]) -> None:
    """With what is recommended for the model, with other factors, and with PAG."""
    recommended = {
        "sdxl": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2},
        "sd2": {"b1": 1.4, "b2": 1.6, "s1": 0.9, "s2": 0.2},
    }
    theirs = recommended.get(family, {"b1": 1.5, "b2": 1.6, "s1": 0.9, "s2": 0.2})
    sides = both(family)
    widths = {"sd2": 1024}  # tiny models of SD 2.x attend to what is narrower
    own = latentrt.FreeU(**theirs) if family in widths else latentrt.FreeU()
    try:
        sides.theirs.text.enable_freeu(**theirs)
        sides.compare(reference={"pag_scale": 0.0}, freeu=own)
        theirs = {"b1": 1.1, "b2": 0.8, "s1": 1.5, "s2": 0.7}
        sides.theirs.text.enable_freeu(**theirs)
        sides.compare_perturbed(freeu=theirs)
    finally:
        sides.theirs.text.disable_freeu()


@slow
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_together_with_a_control_net(
    family: str,
    both: Callable[..., Both],
    net_bundle: Callable[[str], Path],
    net_checkpoint: Callable[[str], Path],
    family_checkpoint: Callable[[str], Path],
) -> None:
    """PAG and FreeU along a control picture, which the perturbed pass sees as the positive one does."""
    sides = Both(both(family).pipe, PagReference(family_checkpoint(family), net_checkpoint(family)))
    factors = {"b1": 1.3, "b2": 1.2, "s1": 0.8, "s2": 0.3}
    sides.theirs.text.enable_freeu(**factors)
    image = drawing(sides.size[0], 1)
    sides.compare_perturbed(
        freeu=factors,
        control=latentrt.Control(net_bundle(family), image, scale=0.8),
        reference={"control_image": image, "controlnet_conditioning_scale": 0.8},
    )


@pytest.mark.parametrize("name", ["sd1", pytest.param("half", marks=slow), pytest.param("int8", marks=slow)])
def test_neutral_is_plain(name: str, request: pytest.FixtureRequest) -> None:
    """To the last bit: no weight, factors of 1, and one that falls to 0 at once."""
    bundle = {"sd1": "tiny_bundle", "half": "half_bundle", "int8": "int8_bundle"}[name]
    with latentrt.open(request.getfixturevalue(bundle), threads=1) as pipe:
        common: dict[str, Any] = {"seed": SEED, "num_inference_steps": 2, "output_type": "latent"}
        plain = pipe("a cat", **common).latents
        for neutral in (
            {"pag_scale": 0.0, "freeu": {"b1": 1.0, "b2": 1.0, "s1": 1.0, "s2": 1.0}},
            {"pag_scale": 3.0, "pag_adaptive_scale": 4.0},
        ):
            np.testing.assert_array_equal(pipe("a cat", **common, **neutral).latents, plain)
