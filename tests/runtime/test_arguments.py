"""Arguments of drawing that cannot be served are refused in a sentence, before any work, whatever they are."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import latentrt
from latentrt.engines.errors import RequestError
from latentrt.runtime.sampling.samplers import Sampler

PICTURE = Image.new("RGB", (32, 32), "red")
MASK = Image.new("L", (32, 32), 255)
LATENTS = np.zeros((1, 4, 16, 16), np.float32)
Pipe = latentrt.Pipeline
CALLS: list[tuple[str, Callable[[Pipe], Any], str]] = [
    ("typo", lambda p: p("a", guidence_scale=3), "did you mean guidance_scale"),
    ("strength", lambda p: p("a", strength=0.5), "use img2img"),
    ("foreign", lambda p: p("a", scheduler="euler"), "got keyword 'scheduler'"),
    ("bool steps", lambda p: p("a", num_inference_steps=True), "expected a whole number"),
    ("text steps", lambda p: p("a", num_inference_steps="20"), "expected a whole number"),
    ("bool clip skip", lambda p: p("a", clip_skip=True), "expected a whole number"),
    ("text guidance", lambda p: p("a", guidance_scale="7"), "expected a number"),
    ("huge guidance", lambda p: p("a", guidance_scale=1e37), r"got guidance_scale 1e\+37, expected at most 1000"),
    ("nan guidance", lambda p: p("a", guidance_scale=float("nan")), "expected a number of at least 0"),
    ("ragged guidance", lambda p: p("a", guidance_scale=[7, [7], 7]), "expected a number"),
    ("array of arrays", lambda p: p("a", num_inference_steps=np.eye(2)), r"steps array\(\[\[1., 0.\], \[0., 1.\]\]\),"),
    ("long", lambda p: p("a", clip_skip=[1] * 900), r"got clip_skip \[[1, ]{199}…, expected"),
    ("layers", lambda p: p("a", pag_scale=1.0, pag_applied_layers=np.zeros(2)), "got pag_applied_layers array"),
    ("few guidances", lambda p: p("a", guidance_scale=[7, 7], num_inference_steps=3), "a schedule of 3 steps"),
    ("interval", lambda p: p("a", guidance_start=0.8, guidance_end=0.2), "correct them"),
    ("rescale", lambda p: p("a", guidance_rescale=1.5), "expected 0 to 1"),
    ("sampler", lambda p: p("a", sampler=["euler"]), "got sampler"),
    ("both", lambda p: p("a", timesteps=[900, 5], sigmas=[5.0, 0.0]), "leave one out"),
    ("timesteps", lambda p: p("a", sampler="euler_k", timesteps="ays"), "without _k"),
    ("vae", lambda p: p("a", vae=np.array(["whole"])), "expected one of whole"),
    ("output", lambda p: p("a", output_type="PIL"), "expected one of pil"),
    ("callback", lambda p: p("a", callback_on_step_end=5), "expected a function"),
    ("progress", lambda p: p("a", progress="bar"), "expected a function"),
    ("seed", lambda p: p("a", seed=[1, 2]), "2 seeds for 1 pictures"),
    ("seed text", lambda p: p("a", seed="7"), "expected a whole number"),
    ("latents", lambda p: p("a", latents=LATENTS.astype(np.float64)), "float64"),
    ("hand-over", lambda p: p("a", denoising_start=0.5), "use img2img"),
    ("hand-over of a picture", lambda p: p.img2img("a", image=PICTURE, denoising_start=0.5), "latents of another run"),
    ("strength too", lambda p: p.img2img("a", image=LATENTS, denoising_start=0.5, strength=0.5), "got strength"),
    ("backwards", lambda p: p.img2img("a", image=LATENTS, denoising_start=0.7, denoising_end=0.3), "correct them"),
    ("no timesteps", lambda p: p("a", sampler="edm_euler", denoising_end=0.5), "has no timesteps"),
    (
        "zero SNR",
        lambda p: p(
            "a", sampler=Sampler(name="ddim", rescale_betas_zero_snr=True, timestep_spacing="trailing"), width=32
        ),
        "zero terminal SNR",
    ),
    ("latents beside", lambda p: p.img2img("a", image=PICTURE, latents=LATENTS), "give the latents as image"),
    ("latents in a list", lambda p: p.img2img("a", image=[LATENTS]), "stack them"),
    ("no picture", lambda p: p.img2img("a", image=None), "expected a PIL picture"),
    ("masks", lambda p: p.inpaint("a", image=PICTURE, mask_image=[MASK, MASK]), "2 masks for 1 pictures"),
    ("crop", lambda p: p.inpaint("a", image=PICTURE, mask_image=MASK, padding_mask_crop=-1), "whole number of pixels"),
    (
        "crop decoded",
        lambda p: p.inpaint("a", image=PICTURE, mask_image=MASK, padding_mask_crop=1, kept_pixels="decoded"),
        "leave one out",
    ),
    ("kept", lambda p: p.inpaint("a", image=PICTURE, mask_image=MASK, kept_pixels="all"), "expected one of exact"),
    ("content", lambda p: p.inpaint("a", image=PICTURE, mask_image=MASK, masked_content="grey"), "one of original"),
    ("canvas", lambda p: p.outpaint("a", image=PICTURE, right=16, width=32, height=32), "a canvas of 48x32"),
    (
        "canvas keywords",
        lambda p: p.outpaint("a", image=PICTURE, right=16, mask_image=MASK),
        "got keyword 'mask_image'",
    ),
    ("canvas size", lambda p: p.outpaint("a", image=PICTURE, right=10), "42x32"),
    ("preview", lambda p: p.preview(LATENTS[0]), "expected .N, 4, h, w"),
    ("preview of nothing", lambda p: p.preview(None), "expected .N, 4, h, w"),  # type: ignore[arg-type]
    ("inversion", lambda p: p.load_textual_inversion(None), "expected the path"),  # type: ignore[arg-type]
    ("inversion path", lambda p: p.load_textual_inversion("a\0b"), "does not exist"),
    ("inversion token", lambda p: p.load_textual_inversion("a.pt", token=5), "expected a text"),  # type: ignore[arg-type]
    ("inversion device", lambda p: p.load_textual_inversion("/dev/zero"), "is no file"),
    ("unload", lambda p: p.unload_textual_inversion(5), "expected a text"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("call", "reason"), [call[1:] for call in CALLS], ids=[call[0] for call in CALLS])
def test_refused(tiny_pipe: Pipe, call: Callable[[Pipe], Any], reason: str) -> None:
    """One sentence: got, expected, what to do."""
    with pytest.raises(RequestError, match=reason) as refused:
        call(tiny_pipe)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("size", [(33, 35), (50, 32), (64, 64)])
def test_a_size_that_is_advised_can_be_built(tiny_pipe: Pipe, tiny_checkpoint: Path, size: tuple[int, int]) -> None:
    """Where the size is asked for, and where it is a picture's."""
    from latentrt.building.plan import _profiles_for
    from latentrt.engines.shapes import profile_from_text
    from latentrt.export.sources.partial_model import Choices
    from latentrt.export.sources.source import checkpoint_from_model

    checkpoint = checkpoint_from_model(str(tiny_checkpoint), Choices())
    image, latents = Image.new("RGB", size), np.zeros((1, 4, size[1] // 2, size[0] // 2), np.float32)
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: tiny_pipe("a", width=size[0], height=size[1]), "ask for one of these"),
        (lambda: tiny_pipe.img2img("a", image=image), "give width and height of one of these"),
        (lambda: tiny_pipe.img2img("a", image=np.asarray(image)), "resize the picture to one of these"),
        (lambda: tiny_pipe.img2img("a", image=latents), "give latents .* of one of these sizes"),
        (lambda: tiny_pipe.outpaint("a", image=image, left=4), "pad the picture to one of these"),
    ]
    for call, remedy in calls:
        with pytest.raises(RequestError, match=rf"got size \d+x\d+, but.*; {remedy}.*--profile") as refused:
            call()
        advised = str(refused.value).partition("--profile ")[2].partition(" ")[0]
        assert _profiles_for(checkpoint, [profile_from_text(advised)])


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (5, "returned int, expected None"),
        ([1], "returned list, expected None"),
        (LATENTS, "returned ndarray, expected None"),
        ({"latents": "a"}, "no numbers"),
        ({"latents": LATENTS[0]}, "keep the shape"),
        ({"latents": np.full((1, 4, 16, 16), np.nan)}, "NaN or infinity"),
    ],
)
def test_what_a_callback_returns(tiny_pipe: Pipe, returned: Any, reason: str) -> None:
    """Is checked when it returns; the pipeline draws on afterwards."""
    with pytest.raises(RequestError, match=reason):
        tiny_pipe("a", num_inference_steps=2, width=32, callback_on_step_end=lambda *_: returned)
    assert tiny_pipe("a", num_inference_steps=1, width=32).images


@pytest.mark.parametrize("where", ["callback_on_step_end", "progress"])
def test_interrupt_from_anywhere(tiny_pipe: Pipe, where: str) -> None:
    """Callback or progress: the run ends, is decoded, and says so; inpainting keeps what is kept."""

    def stop(*_: Any) -> None:
        raise latentrt.Interrupt

    result = tiny_pipe.inpaint(
        "a", image=PICTURE, mask_image=Image.new("L", (32, 32)), num_inference_steps=4, seed=1, **{where: stop}
    )
    assert result.interrupted
    assert result.timings.unet_calls == 1
    np.testing.assert_array_equal(np.asarray(result.images[0]), np.asarray(PICTURE))


def test_another_error_in_a_callback_is_the_callers(tiny_pipe: Pipe) -> None:
    """It goes through as it is, and the pipeline draws on afterwards."""
    with pytest.raises(ZeroDivisionError):
        tiny_pipe("a", num_inference_steps=2, width=32, callback_on_step_end=lambda *_: 1 / 0)
    assert tiny_pipe("a", num_inference_steps=1, width=32).images


def test_progress_counts_model_calls(tiny_pipe: Pipe) -> None:
    """Heun's seven for four steps, those of a run that starts in the middle, and those before an early end."""
    for workflow, expected in (
        (lambda **o: tiny_pipe("a", width=32, **o), 7),
        (lambda **o: tiny_pipe.img2img("a", image=PICTURE, strength=0.5, **o), 3),
        (lambda **o: tiny_pipe("a", width=32, denoising_end=0.5, **o), 3),
    ):
        done: list[int] = []
        totals: list[int] = []

        def keep(count: int, total: int, done: list[int] = done, totals: list[int] = totals) -> None:
            done.append(count)
            totals.append(total)

        workflow(sampler="heun", num_inference_steps=4, progress=keep)
        assert done == list(range(1, expected + 1))
        assert totals == [expected] * expected


@pytest.mark.parametrize(
    ("options", "idle"),
    [
        ({"negative_prompt": "ugly"}, "negative_prompt"),
        ({"negative_prompt": ["", "ugly"], "guidance_rescale": 0.5}, "negative_prompt and guidance_rescale"),
        ({"negative_prompt": "", "guidance_rescale": 0.0}, None),
        ({"negative_prompt": "ugly", "guidance_scale": [1.0, 2.0]}, None),
    ],
)
def test_what_needs_guidance_is_missed_without(tiny_pipe: Pipe, options: dict[str, Any], idle: str | None) -> None:
    """A warning says what changes nothing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tiny_pipe(["a", "b"], **{"guidance_scale": 1.0, "num_inference_steps": 2, "width": 32, **options})
    expected = [f"got {idle} without guidance, where it changes nothing"] if idle else []
    assert [str(warning.message).partition(";")[0] for warning in caught] == expected


def test_warnings_point_at_the_caller(tiny_pipe: Pipe) -> None:
    """Whichever way of drawing it was."""
    calls: list[Callable[[], Any]] = [
        lambda: tiny_pipe("a", guidance_scale=20, num_inference_steps=1, width=32),
        lambda: tiny_pipe.img2img("a", image=PICTURE, guidance_scale=20, num_inference_steps=2),
        lambda: tiny_pipe.outpaint("a", image=PICTURE, right=16, guidance_scale=20, num_inference_steps=1),
    ]
    for call in calls:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]


def test_pictures_of_any_mode_are_taken(tiny_pipe: Pipe) -> None:
    """Grey, palette, transparent, premultiplied, 16 bits, CMYK."""
    for mode in ("L", "LA", "La", "P", "RGBA", "RGBa", "CMYK", "I;16", "1", "YCbCr", "HSV", "LAB"):
        image = Image.new(mode, (32, 32))
        assert tiny_pipe.img2img("a", image=image, strength=0.0).images[0].size == (32, 32)  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pictures_of_unknown_range_are_refused(tiny_pipe: Pipe, mode: str) -> None:
    """As masks are."""
    image = Image.new(mode, (32, 32))
    calls: list[Callable[[], Any]] = [
        lambda: tiny_pipe.img2img("a", image=image),
        lambda: tiny_pipe.inpaint("a", image=image, mask_image=MASK),
        lambda: tiny_pipe.inpaint("a", image=PICTURE, mask_image=image),
        lambda: tiny_pipe.outpaint("a", image=image, right=16),
    ]
    for call in calls:
        with pytest.raises(RequestError, match=f"mode '{mode}', whose range is unknown.*convert it to 0 to 255"):
            call()


def test_the_models_own_options_are_its_samplers(tiny_pipe: latentrt.Pipeline) -> None:
    """Whether that is named or not; another sampler, an own one and custom timesteps leave them out."""
    from latentrt.cli.drawing.drawing import Drawing
    from latentrt.runtime.call.sampling import sampling_from_keywords
    from latentrt.runtime.call.workflow import Workflow

    options = {"sigma_spacing": "exponential", "interpolation_type": "log_linear"}
    defaults = tiny_pipe.manifest.defaults.model_copy(update={"sampler": "euler", "sampler_options": options})
    manifest = tiny_pipe.manifest.model_copy(update={"defaults": defaults})

    def sampler(**keywords: Any) -> Sampler:
        return sampling_from_keywords(manifest, keywords, Workflow.TEXT, None, (1, 4, 16, 16)).sampler  # type: ignore[arg-type]

    own = Sampler(name="euler", **options)  # type: ignore[arg-type]
    assert sampler() == sampler(sampler="euler") == own
    assert sampler(sampler="ddim") == Sampler(name="ddim")
    assert sampler(sampler=Sampler(name="euler")) == Sampler(name="euler")
    assert sampler(timesteps=[900, 500]) == Sampler(name="euler", timesteps=[900, 500], interpolation_type="log_linear")
    told = Drawing(sampler_option=["s_churn=2"], keywords={})
    assert told.sampler_of(defaults) == Sampler(name="euler", s_churn=2.0, **options)  # type: ignore[arg-type]
