"""Calls of a pipeline whose loop is on the device draw what those of the loop on the host do."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_loras import save_tiny_lora

import latentrt
from latentrt.engines.backends.ort_cpu.model import MODEL_FILE, STEP_FILE, Opening
from latentrt.engines.backends.ort_cpu.steps import _StepEngine
from latentrt.engines.shapes import Loop
from latentrt.runtime.sampling import tables
from latentrt.runtime.sampling.trace import Table, trace

STEPS: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "latent", "seed": 3}
UNSCALED = {name: value for name, value in STEPS.items() if name != "guidance_scale"}
PICTURE = np.random.default_rng(0).random((32, 32, 3), np.float32)
MASK = np.zeros((32, 32), np.float32)
MASK[8:24] = 1.0


@pytest.fixture(scope="module")
def pipes(tiny_bundle: Path) -> Iterator[dict[str, latentrt.Pipeline]]:
    """The tiny model, opened both ways."""
    opened = {loop.value: latentrt.open(tiny_bundle, loop=loop) for loop in Loop}
    yield opened
    for pipe in opened.values():
        pipe.close()


@pytest.fixture
def steps_made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch of each whole step."""
    made: list[int] = []
    run = _StepEngine.run

    def counted(self: Any, inputs: Any) -> Any:
        made.append(inputs["row"].shape[0])
        return run(self, inputs)

    monkeypatch.setattr(_StepEngine, "run", counted)
    return made


def assert_same(ours: Any, expected: Any) -> None:
    """The U-Net enlarges what another order of operations rounds."""
    scale = np.abs(expected.latents).max()
    np.testing.assert_allclose(ours.latents / scale, expected.latents / scale, rtol=0, atol=2e-5)


CALLS: dict[str, tuple[Any, int]] = {
    "text": (lambda pipe: pipe(["a cat", "a dog"], sampler="euler_a", **STEPS), 3),
    "img2img": (lambda pipe: pipe.img2img("a cat", image=PICTURE, strength=0.7, sampler="heun", **STEPS), 3),
    "inpaint": (lambda pipe: pipe.inpaint("a cat", image=PICTURE, mask_image=MASK, sampler="unipc", **STEPS), 3),
    "rescaled": (lambda pipe: pipe("a cat", guidance_rescale=0.7, **STEPS), 3),
    "perturbed": (lambda pipe: pipe("a cat", pag_scale=2.0, **STEPS), 3),
    "prompt editing": (lambda pipe: pipe("a [cat:dog:1]", prompt_syntax="a1111", **STEPS), 3),
    "cfg++": (lambda pipe: pipe("a cat", cfg_plus_plus=0.6, sampler="dpmpp_2m", **UNSCALED), 3),
    "hires": (lambda pipe: pipe("a cat", hires=latentrt.Hires(scale=1.0, strength=0.7), **STEPS), 4),
}


FAST = ("text", "inpaint")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in CALLS]
)
def test_it_draws_what_the_host_does(pipes: dict[str, latentrt.Pipeline], steps_made: list[int], name: str) -> None:
    """Every step of the run is one of the graph."""
    call, steps = CALLS[name]
    expected = call(pipes["host"])
    assert not steps_made
    assert_same(call(pipes["device"]), expected)
    assert len(steps_made) >= steps


def test_what_no_call_needs_is_not_opened(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph of whole steps alone, until a call goes through the loop on the host."""
    opened: list[str] = []
    session = Opening._session

    def counted(self: Opening, *rest: Any) -> Any:
        opened.append(f"{self.folder.name}/{self.graph}")
        return session(self, *rest)

    monkeypatch.setattr(Opening, "_session", counted)
    with latentrt.open(tiny_bundle, loop="device") as pipe:
        pipe("a cat", **STEPS)
        (steps,) = {name for name in opened if name.endswith(STEP_FILE)}
        plain = f"{steps.partition('/')[0]}/{MODEL_FILE}"
        assert plain not in opened
        pipe("a cat", apg={}, **STEPS)
        assert plain in opened


@pytest.mark.parametrize(
    "options",
    [
        {"apg": {}},
        {"dynamic_thresholding": {}},
        pytest.param(
            {"sampler": latentrt.Sampler(name="pndm", skip_prk_steps=False), "num_inference_steps": 4},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["apg", "thresholding", "prk"],
)
def test_what_is_not_linear_is_left_to_the_host(
    pipes: dict[str, latentrt.Pipeline], steps_made: list[int], options: dict[str, Any]
) -> None:
    """Bit for bit as without it."""
    expected, ours = (pipes[loop]("a cat", **{**STEPS, **options}) for loop in ("host", "device"))
    np.testing.assert_array_equal(ours.latents, expected.latents)
    assert not steps_made


def moved(one: Any, other: Any) -> float:
    """By how much latents differ."""
    return float(np.abs(one.latents - other.latents).max())


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["balanced", "control"])
def test_control_nets_see_what_the_step_before_led_to(
    pipes: dict[str, latentrt.Pipeline], tiny_net: Path, steps_made: list[int], mode: str
) -> None:
    """Two of them, one for a part of the run; pictures of one call, two calls a step."""
    nets = [
        latentrt.Control(tiny_net, PICTURE, scale=0.9, mode=mode),
        latentrt.Control(tiny_net, PICTURE[::-1].copy(), scale=0.5, end=0.6),
    ]
    options = {**STEPS, "sampler": "heun"}
    expected = pipes["host"](["a cat", "a dog"], control=nets, **options)
    assert moved(expected, pipes["host"](["a cat", "a dog"], **options)) > 1e-3
    assert_same(pipes["device"](["a cat", "a dog"], control=nets, **options), expected)
    assert steps_made == [4] * 5


@pytest.mark.slow
def test_loras_are_loaded_and_changed(tiny_bundle: Path, tmp_path: Path, steps_made: list[int]) -> None:
    """Each set has a graph of its own over its weights; without any it is the plain model again."""
    calls: tuple[dict[str, float], ...] = ({}, {"a": 0.8}, {"a": -0.5, "b": 1.0}, {"a": 0.8}, {})
    drawn: dict[Loop, list[Any]] = {}
    with ExitStack() as opened:
        for loop in Loop:
            pipe = opened.enter_context(latentrt.open(tiny_bundle, threads=1, loop=loop, lora_cache=1))
            for seed, name in enumerate("ab"):
                pipe.load_lora(save_tiny_lora(tmp_path / f"{name}.safetensors", tiny_bundle, seed=seed))
            drawn[loop] = [pipe("a cat", loras=loras, sampler="euler_a", **STEPS) for loras in calls]
    for ours, expected in zip(drawn[Loop.DEVICE], drawn[Loop.HOST], strict=True):
        assert_same(ours, expected)
    plain, one, both, again, last = drawn[Loop.DEVICE]
    assert min(moved(plain, one), moved(one, both)) > 1e-2
    np.testing.assert_array_equal(one.latents, again.latents)
    np.testing.assert_array_equal(plain.latents, last.latents)
    assert len(steps_made) == len(calls) * 3


@pytest.mark.slow
@pytest.mark.parametrize(("name", "bound"), [("half_bundle", 5e-3), ("int8_bundle", 1e-2), ("masked_bundle", 2e-5)])
def test_bundles_of_other_kinds(name: str, bound: float, steps_made: list[int], request: pytest.FixtureRequest) -> None:
    """What float32 rounds otherwise may fall on another number of fewer bits, and U-Nets enlarge that."""
    drawn: dict[Loop, Any] = {}
    for loop in Loop:
        with latentrt.open(request.getfixturevalue(name), threads=1, loop=loop) as pipe:
            masked = name == "masked_bundle"
            pictures: dict[str, Any] = {"image": PICTURE, "mask_image": MASK} if masked else {}
            draw: Any = pipe.inpaint if masked else pipe
            drawn[loop] = draw("a red apple", sampler="dpmpp_2m", **pictures, **STEPS)
    assert len(steps_made) == 3
    scale = np.abs(drawn[Loop.HOST].latents).max()
    assert moved(*drawn.values()) / scale < bound


def test_a_run_is_traced_once(pipes: dict[str, latentrt.Pipeline], monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call with the same steps finds its table."""
    traced: list[str] = []

    def counting(schedule: Any, solver: Any, name: str) -> Table:
        traced.append(name)
        return trace(schedule, solver, name)

    monkeypatch.setattr(tables, "trace", counting)
    for strength in (0.7, 0.7, 0.4):
        pipes["device"].img2img("a cat", image=PICTURE, strength=strength, sampler="er_sde", **STEPS)
    assert traced == ["er_sde"] * 2
