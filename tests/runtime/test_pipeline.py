"""What a pipeline promises beyond equality with diffusers: batches, seeds, callbacks, threads, memory."""

import os
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import latentrt
from latentrt.engines.backends.ort_cpu import model as ort_cpu
from latentrt.engines.backends.ort_cpu.halves import HalvedEngine
from latentrt.engines.backends.ort_cpu.model import OrtCpuEngine
from latentrt.engines.errors import RequestError
from latentrt.engines.spec import Array

# Another batch size lets the kernels add in another order
BATCH_TOLERANCE = 1e-4
PROMPTS = ["a cat", "", "two words"]


@pytest.fixture
def draw(tiny_pipe: latentrt.Pipeline) -> Callable[..., latentrt.Result]:
    """Draws with few steps and arrays as output, unless told otherwise."""

    def call(prompt: str | list[str] = "a cat", **wishes: Any) -> latentrt.Result:
        return tiny_pipe(prompt, **{"num_inference_steps": 3, "output_type": "np", **wishes})

    return call


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Array]]:
    """The inputs of every engine call of the test."""
    seen: list[dict[str, Array]] = []
    for kind in (OrtCpuEngine, HalvedEngine):

        def spy(self: Any, inputs: Any, run: Any = kind.run) -> dict[str, Array]:
            seen.append({name: array.copy() for name, array in inputs.items()})
            return run(self, inputs)  # type: ignore[no-any-return]

        monkeypatch.setattr(kind, "run", spy)
    return seen


def unet_calls(calls: list[dict[str, Array]]) -> list[dict[str, Array]]:
    """Those that went to the U-Net."""
    return [inputs for inputs in calls if "timestep" in inputs]


@pytest.mark.parametrize("sampler", ["dpmpp_2m_k", "euler_a"])
def test_more_pictures_than_the_batch_equal_each_drawn_alone(
    draw: Callable[..., latentrt.Result], sampler: str
) -> None:
    """Three prompts with a seed each on an engine for two; euler_a also draws noise on the way."""
    together = draw(PROMPTS, seed=[5, 6, 7], negative_prompt="blurry", sampler=sampler)
    for index, (prompt, seed) in enumerate(zip(PROMPTS, (5, 6, 7), strict=True)):
        alone = draw(prompt, seed=seed, negative_prompt="blurry", sampler=sampler)
        np.testing.assert_allclose(together.latents[index], alone.latents[0], atol=BATCH_TOLERANCE)
        np.testing.assert_allclose(together.images[index], alone.images[0], atol=BATCH_TOLERANCE)


def test_pictures_come_in_the_order_of_the_prompts(draw: Callable[..., latentrt.Result]) -> None:
    """All of the first prompt, then all of the second."""
    result = draw(["a cat", "a dog"], num_images_per_prompt=2, seed=[1, 2, 3, 4])
    assert [metadata.prompt for metadata in result.metadata] == ["a cat", "a cat", "a dog", "a dog"]
    assert result.seeds == (1, 2, 3, 4)
    np.testing.assert_allclose(result.images[2], draw("a dog", seed=3).images[0], atol=BATCH_TOLERANCE)


def test_the_same_seed_twice_is_the_same_to_the_bit(draw: Callable[..., latentrt.Result]) -> None:
    """Also across other calls in between."""
    first = draw(seed=3)
    draw("something else", seed=4)
    np.testing.assert_array_equal(first.latents, draw(seed=3).latents)
    assert not np.array_equal(first.latents, draw(seed=4).latents)


def test_without_a_seed_pictures_differ_and_can_be_drawn_again(draw: Callable[..., latentrt.Result]) -> None:
    """The result tells the seeds that it drew."""
    first, second = draw(["a cat"] * 2), draw(["a cat"] * 2)
    assert len({*first.seeds, *second.seeds}) == 4
    np.testing.assert_array_equal(first.latents, draw(["a cat"] * 2, seed=first.seeds).latents)


def test_numpy_seeds_are_seeds(draw: Callable[..., latentrt.Result]) -> None:
    """What ``rng.integers`` gives."""
    expected = draw(["a", "b"], seed=[3, 4])
    result = draw(["a", "b"], seed=np.array([3, 4]))
    np.testing.assert_array_equal(result.latents, expected.latents)
    np.testing.assert_array_equal(draw(seed=np.int64(3)).latents, draw(seed=3).latents)


@pytest.mark.parametrize("seed", [1.5, "7", [1, 2], [1.5], []])
def test_other_seeds_are_refused(draw: Callable[..., latentrt.Result], seed: Any) -> None:
    """Fractions, texts, and too many or too few."""
    with pytest.raises(latentrt.RequestError, match="seed"):
        draw(seed=seed)


@pytest.mark.parametrize("steps", [2.5, "7"])
def test_steps_are_whole_numbers(draw: Callable[..., latentrt.Result], steps: Any) -> None:
    """Nothing is rounded silently."""
    with pytest.raises(latentrt.RequestError, match="steps"):
        draw(num_inference_steps=steps)


@pytest.mark.parametrize(
    "wishes",
    [
        {"prompt": []},
        {"prompt": 7},
        {"negative_prompt": ["a", "b"]},
        {"num_images_per_prompt": 0},
        {"output_type": "jpeg"},
        {"latents": np.zeros((1, 4, 8, 8), np.float32)},
        {"latents": np.zeros((1, 4, 16, 16))},
        {"latents": np.full((1, 4, 16, 16), np.nan, np.float32)},
        {"width": 48, "height": 48},
    ],
    ids=str,
)
def test_other_impossible_requests_are_refused(draw: Callable[..., latentrt.Result], wishes: dict[str, Any]) -> None:
    """Each with a sentence."""
    with pytest.raises(latentrt.RequestError):
        draw(**wishes)


def test_the_callback_sees_every_step_and_may_replace_the_latents(draw: Callable[..., latentrt.Result]) -> None:
    """What it returns after the last step is what is decoded."""
    seen: list[tuple[int, float]] = []

    def watch(pipe: latentrt.Pipeline, step: int, timestep: float, tensors: dict[str, Array]) -> dict[str, Array]:
        seen.append((step, timestep))
        return {"latents": np.zeros_like(tensors["latents"])} if step == 3 else {}

    result = draw(num_inference_steps=4, callback_on_step_end=watch, seed=1)
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    assert [timestep for _, timestep in seen] == sorted((timestep for _, timestep in seen), reverse=True)
    assert not result.latents.any()


def test_a_replacement_in_the_middle_goes_on(
    draw: Callable[..., latentrt.Result], calls: list[dict[str, Array]]
) -> None:
    """The next U-Net call reads what the callback returned."""

    def clear(pipe: latentrt.Pipeline, step: int, timestep: float, tensors: dict[str, Array]) -> dict[str, Array]:
        return {"latents": np.zeros_like(tensors["latents"])} if step == 0 else {}

    draw(callback_on_step_end=clear, seed=1)
    assert [bool(inputs["sample"].any()) for inputs in unet_calls(calls)] == [True, False, True]


def test_a_replacement_of_another_shape_is_refused(draw: Callable[..., latentrt.Result]) -> None:
    """Got and expected are named."""
    with pytest.raises(latentrt.RequestError, match=r"\(1, 2\), expected \(1, 4, 16, 16\)"):
        draw(callback_on_step_end=lambda *_: {"latents": np.zeros((1, 2), np.float32)})


def test_an_error_in_a_callback_reaches_the_caller(draw: Callable[..., latentrt.Result]) -> None:
    """That is how a caller interrupts; the pipeline goes on working."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(callback_on_step_end=interrupt)
    draw()


@pytest.mark.parametrize(("guidance", "rows"), [(0.0, 1), (1.0, 1), (1.01, 2), (7.5, 2)])
def test_guidance_of_at_most_one_halves_the_work(
    draw: Callable[..., latentrt.Result], calls: list[dict[str, Array]], guidance: float, rows: int
) -> None:
    """One engine call a step, and the unconditional half only where it counts."""
    result = draw(guidance_scale=guidance, seed=1)
    assert [len(inputs["sample"]) for inputs in unet_calls(calls)] == [rows] * 3
    assert result.timings.unet_calls == 3


@pytest.mark.parametrize(("strength", "expected"), [(0.0, 0), (0.1, 0), (0.5, 2), (0.99, 4), (1.0, 5)])
def test_strength_is_the_share_of_steps(
    tiny_pipe: latentrt.Pipeline, calls: list[dict[str, Array]], strength: float, expected: int
) -> None:
    """At 0 the U-Net is never asked; a strength that is less than a step is warned of."""
    image = np.full((32, 32, 3), 0.5, np.float32)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        result = tiny_pipe.img2img("a cat", image=image, strength=strength, num_inference_steps=5, seed=1)
    told = [str(one.message) for one in seen if "strength" in str(one.message)]
    assert len(told) == (strength == 0.1)
    assert all("raise strength or num_inference_steps" in message for message in told)
    assert len(unet_calls(calls)) == result.timings.unet_calls == expected


def test_timings_add_up(draw: Callable[..., latentrt.Result]) -> None:
    """No stage is negative, and together they are at most the whole."""
    timings = draw(seed=1).timings
    parts = (timings.encode_prompt, timings.encode_image, timings.denoise, timings.decode)
    assert min(parts) >= 0.0 < timings.unet <= timings.denoise
    assert 0.5 * timings.total <= sum(parts) <= timings.total * 1.001


def test_output_types(draw: Callable[..., latentrt.Result], tmp_path: Path) -> None:
    """Arrays are the pictures before rounding; latents come without decoding."""
    picture = draw(output_type="pil", seed=1)
    array, latent = draw(output_type="np", seed=1), draw(output_type="latent", seed=1)
    assert array.images[0].shape == (32, 32, 3)
    assert array.images[0].dtype == np.float32
    assert 0.0 <= array.images[0].min() <= array.images[0].max() <= 1.0
    np.testing.assert_array_equal(np.asarray(picture.images[0]), (array.images[0] * 255).round())
    assert latent.images == []
    np.testing.assert_array_equal(latent.latents, picture.latents)
    for result in (array, latent):
        with pytest.raises(latentrt.RequestError, match="output_type='pil'"):
            result.save(tmp_path / "x.png")


def test_latents_in_replace_the_seeds_noise(draw: Callable[..., latentrt.Result]) -> None:
    """The noise of a seed, given as latents, draws that seed's picture; the caller's array stays as it was."""
    from latentrt.runtime.sampling.noise import Noise

    latents = Noise(9, (1, 4, 16, 16))()
    kept = latents.copy()
    np.testing.assert_array_equal(draw(latents=latents, seed=1).latents, draw(seed=9).latents)
    np.testing.assert_array_equal(latents, kept)


def test_several_pictures_are_saved_by_number(draw: Callable[..., latentrt.Result], tmp_path: Path) -> None:
    """One keeps its name."""
    assert draw(output_type="pil").save(tmp_path / "a.png") == [tmp_path / "a.png"]
    paths = draw(["a", "b"], output_type="pil").save(tmp_path / "b.png")
    assert [path.name for path in paths] == ["b-0.png", "b-1.png"]
    assert all(path.is_file() for path in paths)


def test_two_threads_draw_the_same_picture(tiny_bundle: Path, draw: Callable[..., latentrt.Result]) -> None:
    """Up to the order of additions."""
    with latentrt.open(tiny_bundle, threads=2) as pipe:
        together = pipe("a cat", num_inference_steps=3, seed=1, output_type="np")
    np.testing.assert_allclose(together.images[0], draw(seed=1).images[0], atol=1e-4)


@pytest.mark.parametrize(("threads", "expected"), [(None, {0, 3}), (3, {3, 2})])
def test_an_operator_has_one_thread_per_core_or_as_many_as_told(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, threads: int | None, expected: set[int]
) -> None:
    """0 is ONNX Runtime's word for one per core; who calls a U-Net's halves brings one (of four cores).

    What sets one thread for the other tests is left out here.
    """
    fixed: Any = ort_cpu.session_options
    made: list[Any] = []

    def seen(*arguments: Any, **keywords: Any) -> Any:
        made.append(fixed.__wrapped__(*arguments, **keywords))
        return made[-1]

    monkeypatch.setattr(ort_cpu, "session_options", seen)
    monkeypatch.setattr(ort_cpu, "physical_cores", lambda: 4)
    latentrt.open(tiny_bundle, threads=threads).close()
    assert {option.intra_op_num_threads for option in made} == expected


def test_threads_share_a_pipeline(draw: Callable[..., latentrt.Result]) -> None:
    """Eight pictures on four threads equal the same drawn one after the other."""
    sequential = [draw(seed=seed).latents for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        parallel = list(pool.map(lambda seed: draw(seed=seed).latents, range(8)))
    np.testing.assert_allclose(np.stack(parallel), np.stack(sequential), atol=1e-6)


def test_a_closed_pipeline_refuses(tiny_bundle: Path) -> None:
    """With a sentence; closing twice is nothing."""
    pipe = latentrt.open(tiny_bundle)
    pipe.close()
    pipe.close()
    with pytest.raises(latentrt.EngineError, match="closed"):
        pipe("a cat")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_memory_does_not_grow(draw: Callable[..., latentrt.Result]) -> None:
    """200 pictures after 20 to warm up: less than 30 MB more."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    for _ in range(20):
        draw(num_inference_steps=2)
    before = resident()
    for _ in range(200):
        draw(num_inference_steps=2)
    assert resident() - before < 30 * 2**20


@pytest.mark.parametrize(
    "wrong",
    [
        {"guidance_scale": "a"},
        {"negative_prompt": 5},
        {"num_images_per_prompt": 1.5},
        {"num_inference_steps": "five"},
        {"width": 0},
        {"latents": [1.0]},
        {"output_type": "jpeg"},
        {"sampler": 3},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_arguments_of_wrong_types_are_refused(tiny_pipe: latentrt.Pipeline, wrong: dict[str, Any]) -> None:
    """A RequestError that names what was got, not an error from deep inside."""
    with pytest.raises(RequestError, match="got"):
        tiny_pipe("x", **wrong)


def test_numpy_numbers_are_numbers(tiny_pipe: latentrt.Pipeline) -> None:
    """Steps, sizes and seeds may come from arrays."""
    drawn = tiny_pipe("x", num_inference_steps=np.int64(1), width=np.int32(32), height=32, seed=np.uint32(3))
    assert drawn.seeds == (3,)


def test_trailing_spacing_has_as_many_steps_as_asked(tiny_pipe: latentrt.Pipeline) -> None:
    """61 of 1000 steps round to one more in the reference, the last at timestep −1."""
    schedule = latentrt.Sampler(name="ddim", timestep_spacing="trailing").schedule(tiny_pipe.manifest.schedule, 61)
    assert len(schedule) == 61
    assert schedule.timesteps[-1] >= 0
