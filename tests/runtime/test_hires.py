"""The hires fix: exactly its steps, from what was enlarged, with everything that a call has; and what is refused."""

import pickle
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_loras import save_tiny_lora

import latentrt
from latentrt.engines.engine import Engine
from latentrt.engines.errors import EngineError, RequestError
from latentrt.engines.shapes import Shapes, profile_from_text
from latentrt.engines.spec import Array
from latentrt.runtime.call.hires import memory
from latentrt.runtime.call.hires.steps import last_steps
from latentrt.runtime.call.request import request_from_options
from latentrt.runtime.call.workflow import Workflow
from latentrt.runtime.denoiser.steps import step_ratios
from latentrt.runtime.pictures.interpolation import Interpolation, interpolated
from latentrt.runtime.pictures.picture_file import settings_from_parameters
from latentrt.runtime.sampling.run import levels_asked
from latentrt.runtime.sampling.sampler_table import SAMPLERS
from latentrt.runtime.sampling.samplers import Sampler

Hires = latentrt.Hires
CALL: Mapping[str, Any] = {"num_inference_steps": 4, "guidance_scale": 3.0, "sampler": "ddim", "seed": 5}
CFG_PLUS_PLUS: Mapping[str, Any] = {"guidance_scale": None, "cfg_plus_plus": 0.5}
SMALL, LARGE = (32, 32), (64, 64)


@pytest.fixture(scope="module")
def pipe(tiny_bundle: Path) -> Iterator[latentrt.Pipeline]:
    """The tiny model with a size and its double."""
    with opened(tiny_bundle) as pipe:
        yield pipe


def opened(bundle: Path) -> latentrt.Pipeline:
    """A bundle as if it was built for these sizes: engines for the CPU take every one."""
    pipe = latentrt.open(bundle, threads=1)
    sizes = tuple(map(profile_from_text, ("32x32x2", "64x64", "48x32")))
    object.__setattr__(pipe._bundle, "manifest", pipe.manifest.model_copy(update={"profiles": sizes}))
    return pipe


def small_latents(pipe: latentrt.Pipeline, **more: Any) -> Array:
    """What the first pass draws."""
    return pipe("a red apple", **{**CALL, **more}, output_type="latent").latents


def second_by_hand(pipe: latentrt.Pipeline, image: Any, *, steps: int, strength: float, **more: Any) -> Array:
    """The second pass as image-to-image of our own: the steps that a longer schedule has left."""
    total = int(steps / strength)
    # the smallest strength of which image-to-image makes these steps
    call = {**CALL, **more, "num_inference_steps": total, "output_type": "latent"}
    result = pipe.img2img("a red apple", image=image, strength=(steps + 0.5) / total, width=64, height=64, **call)
    assert len(result.timings.calls) == steps
    return result.latents


@pytest.mark.parametrize("mode", list(Interpolation))
@pytest.mark.parametrize("size", [(18, 14), (13, 10), (9, 7)])
def test_planes_are_enlarged_as_torch_does_it(mode: Interpolation, size: tuple[int, int]) -> None:
    """By whole factors and others, in every mode."""
    planes = np.random.default_rng(3).standard_normal((2, 4, 9, 7)).astype(np.float32)
    base, *option = (mode.value,) if mode.value.startswith("nearest") else mode.value.split("-")
    smooths = {{"antialiased": "antialias", "aligned": "align_corners"}[name]: True for name in option}
    expected = torch.nn.functional.interpolate(torch.from_numpy(planes), size=size, mode=base, **smooths)
    np.testing.assert_allclose(interpolated(planes, *size, mode), expected.numpy(), atol=5e-6)


@pytest.mark.parametrize("upscaler", ["latent", "latent-nearest", "latent-bicubic-antialiased"])
@pytest.mark.grid(most=1)
def test_latents_are_enlarged_and_drawn_on(pipe: latentrt.Pipeline, upscaler: str) -> None:
    """Bit for bit image-to-image of the enlarged latents, with the same seed, that has the steps asked for."""
    mode, *smooths = upscaler.removeprefix("latent").lstrip("-").split("-")
    result = pipe("a red apple", **CALL, hires=Hires(steps=3, strength=0.6, upscaler=upscaler))
    small = small_latents(pipe)
    assert np.array_equal(small, result.first_pass)
    larger = torch.nn.functional.interpolate(
        torch.from_numpy(small), size=(32, 32), mode=mode or "bilinear", **({"antialias": True} if smooths else {})
    ).numpy()
    expected = second_by_hand(pipe, larger, steps=3, strength=0.6)
    np.testing.assert_allclose(result.latents, expected, atol=2e-5)
    assert result.images[0].size == LARGE
    assert len(result.timings.calls) == 4 + 3


@pytest.mark.parametrize("upscaler", ["lanczos", "nearest"])
@pytest.mark.grid(most=1)
def test_pictures_are_enlarged_and_drawn_on(pipe: latentrt.Pipeline, upscaler: str) -> None:
    """Bit for bit image-to-image of the first pass's picture at the larger size."""
    result = pipe("a red apple", **CALL, hires=Hires(steps=2, strength=0.4, upscaler=upscaler), vae="tiled")
    first = pipe("a red apple", **CALL, vae="tiled").images[0]
    assert isinstance(first, Image.Image)
    larger = first.resize(LARGE, Image.Resampling[upscaler.upper()])
    assert np.array_equal(result.latents, second_by_hand(pipe, larger, steps=2, strength=0.4, vae="tiled"))


@pytest.mark.parametrize(("steps", "strength"), [(7, 0.3), (12, 0.2), (7, 0.55), (20, 0.4), (1, 0.5), (20, 1.0)])
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.grid
def test_a_second_pass_takes_exactly_its_steps(pipe: latentrt.Pipeline, name: str, steps: int, strength: float) -> None:
    """Of every sampler, the last of the longer schedule; PNDM warms up where it begins."""
    config = pipe.manifest.schedule
    sampler = Sampler(name=name)
    total = int(steps / min(strength, 0.999))
    if total > 50 and name in ("lcm", "tcd"):  # which have no more
        return
    whole = sampler.schedule(config, total)
    cut = last_steps(whole, steps)
    assert step_ratios(cut.steps) == step_ratios(whole.all_steps)[-steps:]
    calls = len(levels_asked(cut, sampler.solver(config)))
    begun = len(levels_asked(sampler.schedule(config, steps), sampler.solver(config)))
    assert calls == begun  # what a run of so many steps from noise asks


def test_pndm_warms_up_where_the_second_pass_begins(pipe: latentrt.Pipeline) -> None:
    """It visits its second timestep twice, and reaches the end: of a straight path no noise is left."""
    schedule = last_steps(Sampler(name="pndm").schedule(pipe.manifest.schedule, 10), 4)
    told = [step.level.timestep for step in schedule.steps]
    assert told[1] == told[2]
    assert len(set(told)) == 4
    assert told == sorted(told, reverse=True)


def test_both_passes_have_the_calls_settings(pipe: latentrt.Pipeline) -> None:
    """Callbacks and progress count on; prompts, sampler and guidance of the second pass are its own."""
    told: list[tuple[int, tuple[int, ...]]] = []
    done: list[tuple[int, int]] = []
    hires = Hires(steps=3, sampler="euler", prompt="a green pear", negative_prompt="red", guidance_scale=2.0)
    result = pipe(
        "a red apple",
        **CALL,
        hires=hires,
        callback_on_step_end=lambda _, step, __, tensors: told.append((step, tensors["latents"].shape)),
        progress=lambda *both: done.append(both),
    )
    assert [step for step, _ in told] == list(range(7))
    assert [shape[2] for _, shape in told] == [16] * 4 + [32] * 3
    assert done == [(index + 1, 7) for index in range(7)]
    alone = second_by_hand(
        pipe,
        interpolated(small_latents(pipe), 32, 32, Interpolation.BILINEAR),
        steps=3,
        strength=0.55,
        sampler="euler",
        guidance_scale=2.0,
        negative_prompt="red",
    )
    assert not np.array_equal(result.latents, alone)  # the prompt is another
    settings = settings_from_parameters(result.metadata[0].parameters())
    assert settings["Hires prompt"] == "a green pear"
    assert settings["Hires negative prompt"] == "red"
    assert settings["Hires sampler"] == "Euler"
    assert settings["Hires steps"] == "3"
    assert settings["Hires upscale"] == "2"
    assert settings["Hires upscaler"] == "Latent"
    assert settings["Hires CFG Scale"] == "2"
    assert settings["Denoising strength"] == "0.55"
    assert settings["Size"] == "32x32"


def test_cfg_plus_plus_has_its_own_solver_in_both_passes(pipe: latentrt.Pipeline) -> None:
    """The second pass is what image-to-image with CFG++ draws, and its sampler is called so."""
    result = pipe("a red apple", **{**CALL, **CFG_PLUS_PLUS}, hires=Hires(steps=3, sampler="euler"))
    enlarged = interpolated(small_latents(pipe, **CFG_PLUS_PLUS), 32, 32, Interpolation.BILINEAR)
    other = second_by_hand(pipe, enlarged, steps=3, strength=0.55, sampler="euler", **CFG_PLUS_PLUS)
    assert np.array_equal(result.latents, other)
    assert "Hires sampler: Euler CFG++" in result.metadata[0].parameters()


def test_a_prompt_changes_in_the_second_pass(pipe: latentrt.Pipeline) -> None:
    """As A1111 has it: 1.0 to 2.0 are parts of the second pass, and 0 to 1 parts of the first."""
    call = {**CALL, "prompt_syntax": "a1111", "output_type": "latent"}
    hires = Hires(steps=2, strength=0.6)
    changing = pipe("[a red apple:a frog:1.5]", **call, hires=hires)
    assert np.array_equal(changing.first_pass, pipe("a red apple", **call).latents)
    assert not np.array_equal(changing.latents, pipe("a red apple", **call, hires=hires).latents)
    at_once = pipe("[a red apple:a frog:1.0]", **call, hires=hires)
    other = pipe("a red apple", **call, hires=Hires(steps=2, strength=0.6, prompt="a frog"))
    assert np.array_equal(at_once.latents, other.latents)


def test_a_batch_draws_what_its_pictures_draw_alone(pipe: latentrt.Pipeline) -> None:
    """With a seed each; also from several threads at once."""
    hires = Hires(steps=2, strength=0.6)
    call = {**CALL, "hires": hires, "output_type": "latent"}
    together = pipe(["a red apple", "a frog"], **{**call, "seed": [5, 9]}).latents
    with ThreadPoolExecutor(2) as threads:
        prompts, seeds = ("a red apple", "a frog"), (5, 9)
        alone = list(threads.map(lambda text, seed: pipe(text, **{**call, "seed": [seed]}).latents, prompts, seeds))
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-4)
    assert pickle.loads(pickle.dumps(hires)).steps == 2


@pytest.mark.parametrize("step", [1, 5])
def test_an_interrupt_ends_the_call(pipe: latentrt.Pipeline, step: int) -> None:
    """In the first pass with the small picture, whose settings have no hires; in the second with the large one."""

    def end(_: Any, now: int, __: float, ___: Any) -> None:
        if now == step:
            raise latentrt.Interrupt

    result = pipe("a red apple", **CALL, hires=Hires(), callback_on_step_end=end)
    assert result.interrupted
    assert result.images[0].size == (SMALL if step == 1 else LARGE)
    assert ("Hires upscale" in result.metadata[0].parameters()) is (step == 5)
    assert len(result.timings.calls) == step + 1


def test_loras_and_nets_count_in_both_passes(pipe: latentrt.Pipeline, tiny_net: Path) -> None:
    """A control picture is resized to each size."""
    edges = Image.effect_noise((40, 40), 90).convert("RGB")
    control = latentrt.Control(tiny_net, edges)
    result = pipe("a red apple", **CALL, hires=Hires(steps=2), control=control)
    small = small_latents(pipe, control=control)
    assert np.array_equal(result.first_pass, small)
    larger = interpolated(small, 32, 32, Interpolation.BILINEAR)
    assert np.array_equal(result.latents, second_by_hand(pipe, larger, steps=2, strength=0.55, control=control))


@pytest.mark.slow
def test_everything_together(pipe: latentrt.Pipeline, tiny_bundle: Path, tiny_net: Path, tmp_path: Path) -> None:
    """A LoRA, a control net and a prompt that changes in both passes; from two threads as from one."""
    save_tiny_lora(tmp_path / "style.safetensors", tiny_bundle, seed=3, scale=0.05)
    edges = Image.effect_noise((40, 40), 90).convert("RGB")
    prompt = "a [red:green:0.5] [apple:frog:1.5] <lora:style:1>"
    more = {"prompt_syntax": "a1111", "control": latentrt.Control(tiny_net, edges), "hires": Hires(steps=2)}
    with opened(tiny_bundle) as own:
        own.load_lora(tmp_path / "style.safetensors")
        one = own(prompt, **{**CALL, **more}).latents
        with ThreadPoolExecutor(2) as threads:
            both = list(threads.map(lambda _: own(prompt, **{**CALL, **more}).latents, range(2)))
        plain = pipe(prompt.partition(" <")[0], **{**CALL, **more}).latents
    assert np.array_equal(one, both[0])
    assert np.array_equal(one, both[1])
    assert not np.allclose(one, plain, atol=1e-3)


def test_an_engine_that_lacks_the_size_is_found_first(pipe: latentrt.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backends of fixed shapes refuse what was not compiled, and nothing is drawn before."""
    asked = pipe._components.engine

    def engine(component: str, shapes: Shapes, *more: Any) -> Engine:
        if component == "unet" and shapes.profile.width == LARGE[0]:
            raise RequestError("got size 64x64, which was not compiled")
        return asked(component, shapes, *more)

    def drawn(*_: Any) -> None:
        raise AssertionError("it draws")

    monkeypatch.setattr(pipe._components, "engine", engine)
    with pytest.raises(RequestError, match="not compiled"):
        pipe("a red apple", **CALL, hires=Hires(), progress=drawn)


@pytest.mark.slow
def test_sdxl_is_told_each_size(family_bundle: Callable[[str], Path]) -> None:
    """As A1111 tells it; sizes that a call names hold for both passes."""
    with opened(family_bundle("sdxl")) as pipe:
        hires = Hires(steps=2, prompt="a frog")
        options: latentrt.Options = {"hires": hires, "num_inference_steps": 2, "seed": 1}
        request = request_from_options(pipe.manifest, "a cat", options, Workflow.TEXT)
        assert request.second is not None
        assert request.canvas.time_ids == ((32, 32, 0, 0, 32, 32),) * 2
        assert request.second.request.canvas.time_ids == ((64, 64, 0, 0, 64, 64),) * 2
        options = {**options, "original_size": (512, 512)}
        request = request_from_options(pipe.manifest, "a cat", options, Workflow.TEXT)
        assert request.second is not None
        assert request.second.request.canvas.time_ids == ((512, 512, 0, 0, 64, 64),) * 2
        result = pipe("a cat", **options)
        assert result.images[0].size == LARGE


def test_an_upscaler_is_opened_once(pipe: latentrt.Pipeline, tiny_bundle: Path, onnx_upscaler_bundle: Path) -> None:
    """By the path of its bundle; it is closed with the pipeline, and named in the settings."""
    hires = Hires(steps=2, strength=0.4, upscaler=onnx_upscaler_bundle)
    with opened(tiny_bundle) as own, latentrt.open_upscaler(onnx_upscaler_bundle) as upscaler:
        result = own("a red apple", **CALL, hires=hires)
        (kept,) = own._additions.upscalers._opened.values()
        again = own("a red apple", **CALL, hires=hires)
        assert list(own._additions.upscalers._opened.values()) == [kept]
        given = own("a red apple", **CALL, hires=Hires(steps=2, strength=0.4, upscaler=upscaler))
        larger = upscaler.upscale(own("a red apple", **CALL).images[0])
    assert np.array_equal(result.latents, again.latents)
    assert np.array_equal(result.latents, given.latents)
    assert f"Hires upscaler: {kept.name}" in result.metadata[0].parameters()
    by_hand = second_by_hand(pipe, larger, steps=2, strength=0.4)
    np.testing.assert_allclose(result.latents, by_hand, atol=1e-4)
    with pytest.raises(EngineError, match="closed"):
        kept.upscaled(np.zeros((1, 8, 8, 3), np.float32))


REFUSED: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "no hires": (lambda: {"hires": 2.0}, r"expected latentrt\.Hires\(scale=2\.0\)"),
    "size": (lambda: {"hires": Hires(scale=3)}, "got size 96x96, .* choose a scale of hires.* --profile 96x96"),
    "odd size": (
        lambda: {"hires": Hires(scale=1.3)},
        "makes 32x32 41x41, expected sides .* multiples of 4 pixels; take scale 1.25",
    ),
    "scale": (lambda: {"hires": Hires(scale=0.5)}, "got scale 0.5 of hires"),
    "huge scale": (lambda: {"hires": Hires(scale=1e308)}, "of hires, expected 1 to 64"),
    "arrays": (lambda: {"hires": Hires(sampler=np.zeros(2))}, "got sampler array"),  # type: ignore[arg-type]
    "no number": (lambda: {"hires": Hires(scale=float("nan"))}, "got scale nan of hires"),
    "text": (lambda: {"hires": Hires(scale="2")}, "expected a number"),  # type: ignore[arg-type]
    "strength": (lambda: {"hires": Hires(strength=0.0)}, "above 0 to 1"),
    "strong": (lambda: {"hires": Hires(strength=1.2)}, "above 0 to 1"),
    "faint": (lambda: {"hires": Hires(strength=0.001)}, "a schedule of 4000 steps.*raise the strength of hires"),
    "steps": (lambda: {"hires": Hires(steps=0)}, "expected at least 1"),
    "sampler": (lambda: {"hires": Hires(sampler="eulr")}, "got sampler 'eulr'"),
    "upscaler": (lambda: {"hires": Hires(upscaler="lancoz")}, "got upscaler 'lancoz' of hires, expected one of latent"),
    "nothing": (lambda: {"hires": Hires(upscaler=None)}, "got upscaler 'None'"),  # type: ignore[arg-type]
    "prompts": (lambda: {"hires": Hires(prompt=["a", "b"])}, "2 prompts of hires for 1 prompts"),
    "timesteps": (
        lambda: {"hires": Hires(), "timesteps": [900, 500, 100], "num_inference_steps": None},
        "got timesteps for hires.*give hires a sampler of its own",
    ),
    "own timesteps": (
        lambda: {"hires": Hires(sampler=Sampler(name="ddpm", timesteps=[900, 5]))},
        "got timesteps for hires.*leave them out",
    ),
    "guidances": (lambda: {"hires": Hires(), "guidance_scale": [3.0] * 4}, r"Hires\(guidance_scale=7\.5\), too"),
    "weights": (lambda: {**CFG_PLUS_PLUS, "hires": Hires(), "cfg_plus_plus": [0.5] * 4}, "other steps; give one$"),
    "two weights": (lambda: {**CFG_PLUS_PLUS, "hires": Hires(guidance_scale=2.0)}, "guides both passes; leave one out"),
    "undefined": (lambda: {**CFG_PLUS_PLUS, "hires": Hires(sampler="heun")}, "sampler 'heun', for which it is not"),
    "end": (lambda: {"hires": Hires(), "denoising_end": 0.5}, "got denoising_end with hires"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(pipe: latentrt.Pipeline, case: str) -> None:
    """In a sentence, and before anything is drawn."""
    more, reason = REFUSED[case]

    def drawn(*_: Any) -> None:
        raise AssertionError("it draws")

    with pytest.raises(RequestError, match=f"(?s){reason}"):
        pipe("a red apple", **{**CALL, "sampler": "ddpm", **more()}, progress=drawn)


def test_other_ways_of_drawing_refuse_it(pipe: latentrt.Pipeline) -> None:
    """And say which way leads there."""
    picture = Image.new("RGB", SMALL)
    for draw in (pipe.img2img, lambda *a, **k: pipe.inpaint(*a, mask_image=picture, **k)):
        with pytest.raises(RequestError, match="use img2img with the width and height wanted"):
            draw("a", image=picture, **CALL, hires=Hires())
    with pytest.raises(RequestError, match=r"give hires=latentrt\.Hires"):
        pipe("a", hr_scale=2)  # type: ignore[call-arg]


def test_faint_latents_are_warned_of(pipe: latentrt.Pipeline) -> None:
    """Latents that were enlarged and hardly redrawn make blurred pictures."""
    with pytest.warns(UserWarning, match="leaves pictures blurred"):
        pipe.check("a red apple", **CALL, hires=Hires(strength=0.4))


def test_a_size_beyond_memory_is_refused(pipe: latentrt.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is drawn, with the ways that need less; in tiles it is drawn."""
    needed: list[int] = []
    monkeypatch.setattr(memory, "available_memory", lambda: needed[0] if needed else 1000)

    def drawn(*_: Any) -> None:
        raise AssertionError("it draws")

    with pytest.raises(RequestError, match=r"64x64, where the autoencoder takes about .* give vae='tiled'"):
        pipe("a red apple", **CALL, hires=Hires(), progress=drawn)
    result = pipe("a red apple", **CALL, hires=Hires(steps=1), vae="tiled")
    assert result.images[0].size == LARGE
    result = pipe("a red apple", **CALL, hires=Hires(steps=1), output_type="latent")  # which decodes nothing
    assert not result.images
    needed.append(10**9)
    assert pipe("a red apple", **CALL, hires=Hires(steps=1)).images[0].size == LARGE
