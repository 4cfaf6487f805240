"""Every family's pictures equal diffusers': all ways of drawing, all that its models are told."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity.reference import DiffusersReference, Reference
from PIL import Image, ImageDraw

import latentrt
from latentrt.engines.bundle.checks.parity import parity_of
from latentrt.engines.bundle.records.conditioning import TimeIds
from latentrt.export.sources.families import FAMILIES
from latentrt.export.sources.family import Family

# fp32 in another order of operations, over a few steps; measured 1e-7 to 1e-5
LATENT_TOLERANCE = 1e-4
PICTURE_PSNR = 50.0
STEPS = 4
SIZE = (32, 32)

ROWS = {family.name: family for family in FAMILIES if family.image_encoder is None and family.concatenated is None}
MASKED = [name for name, row in ROWS.items() if row.unet["in_channels"] == 9]
LCM = [name for name, row in ROWS.items() if row.unet["time_cond_proj_dim"] is not None]
REFINERS = [name for name, row in ROWS.items() if row.time_ids is TimeIds.AESTHETIC]
SIZED = [name for name, row in ROWS.items() if row.time_ids is TimeIds.SIZE]
FROM_TEXT = [name for name in ROWS if name not in MASKED + REFINERS]
FROM_PICTURE = [name for name in ROWS if name not in MASKED]


def picture() -> Image.Image:
    """A smooth picture with an edge."""
    ramp = np.linspace(0, 255, SIZE[0], dtype=np.uint8)
    pixels = np.stack(np.broadcast_arrays(ramp, ramp[:, None], 255 - ramp), axis=-1).copy()
    pixels[8:16, 8:16] = (250, 200, 30)
    return Image.fromarray(pixels)


def mask() -> Image.Image:
    """White where the picture is redrawn: its lower right."""
    found = Image.new("L", SIZE)
    ImageDraw.Draw(found).rectangle((12, 10, 31, 31), fill=255)
    return found


@dataclass(frozen=True)
class Both:
    """A family's row, its pipeline and the diffusers pipelines of the same checkpoint."""

    row: Family
    pipe: latentrt.Pipeline
    theirs: DiffusersReference

    def compare(
        self, *, prompt: str | list[str] = "a red apple", seed: int | list[int] = 7, sampler: str = "", **wishes: Any
    ) -> latentrt.Result:
        """Draws on both sides with diffusers' own keywords; the workflow is that of the pictures given."""
        sampler = sampler or self.pipe.manifest.defaults.sampler
        wishes = {"num_inference_steps": STEPS, "guidance_scale": 4.0, **wishes}
        reference = dict(wishes)
        steps = reference.pop("num_inference_steps")
        if isinstance(reference.get("image"), np.ndarray):
            reference["image"] = torch.from_numpy(reference["image"])
        if isinstance(reference.get("negative_prompt"), str) and not isinstance(prompt, str):
            reference["negative_prompt"] = [reference["negative_prompt"]] * len(prompt)
        expected = self.theirs.draw(prompt=prompt, sampler=sampler, seeds=seed, size=SIZE, steps=steps, **reference)
        ours = self.drawn(prompt=prompt, seed=seed, sampler=sampler, **wishes)
        assert_equal(ours, expected, f"{sampler} {wishes}")
        return ours

    def drawn(self, *, prompt: str | list[str], **wishes: Any) -> latentrt.Result:
        """Ours alone."""
        draw = self.pipe if "image" not in wishes else self.pipe.img2img
        if "mask_image" in wishes:
            draw, wishes = self.pipe.inpaint, {**wishes, "kept_pixels": "decoded"}
        return draw(prompt, output_type="np", **wishes)


def assert_equal(ours: latentrt.Result, expected: Reference, case: str = "") -> None:
    """Latents and pictures within the tolerances."""
    latents = parity_of(ours.latents, expected.latents)
    assert latents.relative_error <= LATENT_TOLERANCE, f"{case}: latents: {latents}"
    mse = float(np.mean((np.stack(ours.images) - expected.pixels) ** 2))
    assert mse <= 10 ** (-PICTURE_PSNR / 10), f"{case}: picture: {-10 * np.log10(mse):.1f} dB"


@pytest.fixture(scope="module")
def both(
    family_pipe: Callable[[str], latentrt.Pipeline], family_checkpoint: Callable[[str], Path]
) -> Iterator[Callable[[str], Both]]:
    """Both sides of a family. One thread each: the models are too small for more."""

    @cache
    def sides(name: str) -> Both:
        return Both(ROWS[name], family_pipe(name), DiffusersReference(family_checkpoint(name)))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield sides
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ROWS)
def test_the_bundle_says_what_the_row_says(both: Callable[[str], Both], name: str) -> None:
    """What conditions the U-Net, in the manifest and in the graph's inputs."""
    row, manifest = ROWS[name], both(name).pipe.manifest
    assert manifest.family == name
    encoders = manifest.conditioning.text_encoders
    assert [(e.component, e.tokenizer, e.pooled) for e in encoders] == [
        (r.part, r.tokenizer, r.pooled) for r in row.text_encoders
    ]
    assert manifest.conditioning.time_ids is row.time_ids
    assert manifest.conditioning.zero_empty_negative == row.zero_empty_negative
    assert manifest.unet_takes_mask == (name in MASKED)
    assert bool(manifest.guidance_embedding) == (name in LCM)
    inputs = manifest.components["unet"].inputs
    assert ("text_embeds" in inputs, "time_ids" in inputs) == ((row.time_ids is not TimeIds.NONE),) * 2
    assert all(record.parity.relative_error < 1e-5 for record in manifest.components.values())


@pytest.mark.parametrize("name", FROM_TEXT)
def test_text_to_image(both: Callable[[str], Both], name: str) -> None:
    """Guidance off and on, negatives absent, empty and given, two prompts with a seed each."""
    sides = both(name)
    off = sides.compare(guidance_scale=1.0)
    on = sides.compare()
    assert off.timings.unet_calls == on.timings.unet_calls == STEPS
    assert np.abs(off.latents - on.latents).max() > 1e-3
    if name in LCM:
        sides.compare(prompt=["a cat", "two words"], seed=[3, 4], guidance_scale=8.0)
        return
    empty = sides.compare(negative_prompt="")
    sides.compare(prompt=["a cat", "two words"], seed=[3, 4], negative_prompt="blurry", guidance_rescale=0.3)
    assert (np.abs(empty.latents - on.latents).max() > 1e-3) == ROWS[name].zero_empty_negative


@pytest.mark.parametrize("name", FROM_PICTURE)
@pytest.mark.grid(most=4)
def test_image_to_image(both: Callable[[str], Both], name: str) -> None:
    """From a picture and from latents."""
    sides = both(name)
    negative = {} if name in LCM else {"negative_prompt": "blurry"}
    sides.compare(image=picture(), strength=0.6, **negative)
    sides.compare(image=picture(), strength=0.8, guidance_scale=1.0, prompt=["a cat", "b"], seed=[1, 2])
    latents = np.random.default_rng(0).standard_normal((1, 4, 16, 16), np.float32)
    sides.compare(image=latents, strength=1.0)


@pytest.mark.parametrize("strength", [0.35, 0.8])
def test_strength_of_an_lcm(both: Callable[[str], Both], strength: float) -> None:
    """All steps are taken, from a part of the distilled timesteps, as LatentConsistencyModelImg2ImgPipeline does."""
    drawn = both("lcm-sd1").compare(image=picture(), strength=strength)
    assert drawn.timings.unet_calls == STEPS


def test_an_lcm_with_more_steps_than_strength_leaves(both: Callable[[str], Both]) -> None:
    """Is refused; at 0 the picture comes back."""
    pipe = both("lcm-sd1").pipe
    with pytest.raises(
        latentrt.RequestError, match=r"strength 0\.05 with 4 steps, of which 2 .* raise strength above 0\.08"
    ):
        pipe.img2img("a", image=picture(), strength=0.05)
    assert pipe.img2img("a", image=picture(), strength=0.0).timings.unet_calls == 0


@pytest.mark.parametrize("name", FROM_PICTURE)
def test_a_familys_own_defaults_draw_from_a_picture(both: Callable[[str], Both], name: str) -> None:
    """Steps times strength is a step at least."""
    assert both(name).pipe.img2img("a", image=picture()).timings.unet_calls > 0


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.grid(most=5)
def test_inpainting(both: Callable[[str], Both], name: str) -> None:
    """From the picture and from noise."""
    sides = both(name)
    negative = {} if name in LCM else {"negative_prompt": "blurry"}
    sides.compare(image=picture(), mask_image=mask(), strength=0.6, **negative)
    sides.compare(image=picture(), mask_image=mask(), strength=1.0, guidance_scale=1.0)


@pytest.mark.parametrize("name", [name for name in ROWS if ROWS[name].defaults.num_inference_steps == 1])
@pytest.mark.parametrize("steps", [1, 4])
def test_turbo(both: Callable[[str], Both], name: str, steps: int) -> None:
    """As they are meant to be used: no guidance, one call of one sample a step."""
    sides = both(name)
    result = sides.compare(num_inference_steps=steps, guidance_scale=sides.pipe.manifest.defaults.guidance_scale)
    assert result.timings.unet_calls == steps
    assert sides.pipe("x", seed=1, output_type="latent").timings.unet_calls == 1


@pytest.mark.parametrize("scale", [1.0, 2.5, 8.5])
def test_lcm_as_its_own_pipeline(
    both: Callable[[str], Both], family_checkpoint: Callable[[str], Path], scale: float
) -> None:
    """diffusers' LatentConsistencyModelPipeline; the scale is embedded, and no half without the prompt is computed."""
    from diffusers import LatentConsistencyModelPipeline

    theirs = LatentConsistencyModelPipeline.from_pretrained(family_checkpoint("lcm-sd1"))
    theirs.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(7)
    latents = theirs("a cat", guidance_scale=scale, generator=generator, width=32, height=32, output_type="latent")
    ours = both("lcm-sd1").pipe("a cat", guidance_scale=scale, seed=7, output_type="latent")
    assert parity_of(ours.latents, latents.images.numpy()).relative_error < LATENT_TOLERANCE
    assert ours.timings.unet_calls == 4


@pytest.mark.parametrize("name", [name for name in ROWS if len(ROWS[name].text_encoders) == 2][:2])
def test_prompts_of_two_encoders(both: Callable[[str], Both], name: str) -> None:
    """Second prompts, where SDXL has them, and a layer less."""
    sides = both(name)
    negatives = {} if name in LCM else {"negative_prompt": "blurry", "negative_prompt_2": "red"}
    first = sides.compare(prompt_2="a photograph of a cat", **negatives)
    other = sides.compare(**negatives)
    assert np.abs(first.latents - other.latents).max() > 1e-3
    skipped = sides.compare(clip_skip=1, **negatives)
    assert np.abs(skipped.latents - other.latents).max() > 1e-3


@pytest.mark.parametrize("name", [name for name in FROM_TEXT if ROWS[name].time_ids is TimeIds.NONE])
def test_clip_skip(both: Callable[[str], Both], name: str) -> None:
    """SD 1.x and 2.x: an earlier state with the final norm, for the prompt alone.

    The reference is the text model's own states; what diffusers does with ``clip_skip`` fails with transformers 5.
    """
    sides = both(name)
    text = sides.theirs.text
    with torch.inference_mode():
        ids = text.tokenizer("a cat", padding="max_length", max_length=77, return_tensors="pt").input_ids
        states = text.text_encoder(ids, output_hidden_states=True).hidden_states
        norm = getattr(text.text_encoder, "text_model", text.text_encoder).final_layer_norm
        embeds = norm(states[-2])
    sampler = sides.pipe.manifest.defaults.sampler
    wishes: dict[str, Any] = {"guidance_scale": 1.0}
    expected = sides.theirs.draw(
        prompt=None, prompt_embeds=embeds, sampler=sampler, seeds=3, size=SIZE, steps=STEPS, **wishes
    )
    ours = sides.drawn(prompt="a cat", clip_skip=1, seed=3, sampler=sampler, num_inference_steps=STEPS, **wishes)
    assert_equal(ours, expected)


SIZES = {"original_size": (48, 64), "crops_coords_top_left": (8, 4), "target_size": (40, 24)}
NEGATIVE_SIZES = {"negative_original_size": (16, 20), "negative_target_size": (64, 32)}
CROPPED = {**NEGATIVE_SIZES, "negative_crops_coords_top_left": (2, 6)}


@pytest.mark.parametrize("name", ["sdxl"])
@pytest.mark.slow
def test_sizes(both: Callable[[str], Both], name: str) -> None:
    """From text both negative sizes or none; from a picture each, with one crop for both halves."""
    sides = both(name)
    plain = sides.compare(negative_prompt="red")
    for sizes in (SIZES, {**SIZES, **CROPPED}, NEGATIVE_SIZES):
        told = sides.compare(negative_prompt="red", **sizes)
        assert np.abs(told.latents - plain.latents).max() > 1e-3
    for start in ({"image": picture()}, {"image": picture(), "mask_image": mask()}):
        for sizes in (SIZES, {**SIZES, **NEGATIVE_SIZES}, {"negative_original_size": (16, 20)}):
            sides.compare(strength=0.6, **start, **sizes)


def test_a_batch_has_its_own_halves(both: Callable[[str], Both]) -> None:
    """Two pictures with sizes for the negative half equal each alone.

    diffusers (0.42.1) repeats negative and positive ids in turn there, so that half of them meet the wrong prompt.
    """
    pipe = both("sdxl").pipe
    common: dict[str, Any] = {"num_inference_steps": 2, "output_type": "latent", **SIZES, **CROPPED}
    together = pipe(["a cat", "b"], seed=[1, 2], **common)
    for index, (prompt, seed) in enumerate((("a cat", 1), ("b", 2))):
        alone = pipe(prompt, seed=seed, **common)
        np.testing.assert_allclose(together.latents[index], alone.latents[0], atol=1e-4)


@pytest.mark.parametrize("name", REFINERS)
def test_aesthetic_scores(both: Callable[[str], Both], name: str) -> None:
    """Scores, and sizes and crops of either half."""
    sides = both(name)
    plain = sides.compare(image=picture(), strength=0.6)
    for told in (
        {"aesthetic_score": 9.0},
        {"negative_aesthetic_score": 5.5},
        {"original_size": (48, 64), "crops_coords_top_left": (8, 4), "negative_original_size": (16, 20)},
        {"negative_crops_coords_top_left": (2, 6)},
    ):
        other = sides.compare(image=picture(), strength=0.6, **told)
        assert np.abs(other.latents - plain.latents).max() > 1e-4
        sides.compare(image=picture(), mask_image=mask(), strength=0.6, **told)


@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m_k", "heun", "unipc"])
@pytest.mark.parametrize("share", [0.3, 0.8])
@pytest.mark.grid(most=3)
def test_base_to_refiner(both: Callable[[str], Both], sampler: str, share: float) -> None:
    """The base's latents at a share of the schedule, gone on from by the refiner; both equal diffusers'."""
    base, refiner = both("sdxl"), both("sdxl-refiner")
    steps = {"num_inference_steps": 6, "sampler": sampler}
    wishes: dict[str, Any] = {"prompt": "a red apple", "guidance_scale": 4.0}
    begun = base.theirs.draw(**wishes, sampler=sampler, seeds=7, size=SIZE, steps=6, denoising_end=share)
    ours = base.drawn(**wishes, **steps, seed=7, denoising_end=share)
    assert parity_of(ours.latents, begun.latents).relative_error < LATENT_TOLERANCE
    expected = refiner.theirs.draw(
        **wishes,
        sampler=sampler,
        seeds=7,
        size=SIZE,
        steps=6,
        image=torch.from_numpy(begun.latents),
        denoising_start=share,
    )
    finished = refiner.drawn(**wishes, **steps, seed=7, image=ours.latents, denoising_start=share)
    assert_equal(finished, expected)
    assert finished.timings.unet_calls > 0
