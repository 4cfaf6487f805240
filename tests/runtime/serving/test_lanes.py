"""Pictures drawn in company: those that are drawn alone, whatever the others are."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stand_ins import StandInRTX
from tiny_loras import save_tiny_lora
from waiting import SOON, until

import latentrt
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import CacheRole
from latentrt.engines.spec import Array
from latentrt.runtime.serving.lanes import line as line_module
from latentrt.runtime.serving.lanes.engine_call import EngineCall, gathered
from latentrt.runtime.serving.lanes.lanes import Lanes
from latentrt.runtime.serving.lanes.line import Line

Options = dict[str, Any]
COMMON: Options = {"guidance_scale": 4.0, "num_inference_steps": 3, "width": 32, "height": 32}
MIXED: tuple[Options, ...] = (
    {"seed": [5]},
    {"seed": [6], "sampler": "euler_a", "num_inference_steps": 4},
    {"seed": [7], "guidance_scale": 1.0, "sampler": "heun"},
    {"seed": [8], "negative_prompt": "a dog", "guidance_rescale": 0.5},
)


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The component of every run that several calls shared, and how many there were."""
    runs: list[tuple[str, int]] = []

    def watching(calls: Sequence[EngineCall]) -> dict[str, Array]:
        lane: Any = calls[0].lane
        runs.append((lane[0] if isinstance(lane[0], str) else lane[1], len(calls)))
        return gathered(calls)

    monkeypatch.setattr(line_module, "gathered", watching)
    return runs


@contextmanager
def nobody_runs(pipe: latentrt.Pipeline, count: int, *, times: int = 1) -> Iterator[None]:
    """Holds the device until so many calls wait for it; then again behind those, so many times in all."""
    line = lanes_of(pipe).line
    holders = held(pipe)
    assert all(holder.seated for holder in holders)
    try:
        yield
        for time in range(times):
            until(partial(all_wait, line, holders, count))
            before, holders = holders, held(pipe) if time + 1 < times else []
            for holder in before:
                line.leave(holder)
    finally:
        for holder in holders:
            line.leave(holder)


def all_wait(line: Line, holders: Sequence[EngineCall], count: int) -> bool:
    """Whether these have the device, and so many others wait for it."""
    return len(line._waiting) == count and all(holder.seated for holder in holders)


def held(pipe: latentrt.Pipeline) -> list[EngineCall]:
    """Calls that run nothing, one for each that the device has room for: they have it now, or when it is their turn."""
    line = lanes_of(pipe).line
    holders = [EngineCall(None, {}, None, 1, dict) for _ in range(line._seats)]  # type: ignore[arg-type]
    for holder in holders:
        line.enter(holder)
    return holders


@contextmanager
def opened(bundle: Path) -> Iterator[latentrt.Pipeline]:
    """A bundle as if its sizes had been built for eight pictures at once, which the CPU's engines do not mind."""
    with latentrt.open(bundle) as pipe:
        profiles = tuple(replace(profile, batch=8) for profile in pipe.manifest.profiles)
        object.__setattr__(pipe._bundle, "manifest", pipe.manifest.model_copy(update={"profiles": profiles}))
        yield pipe


def lanes_of(pipe: latentrt.Pipeline) -> Lanes:
    lanes = pipe._engines
    assert isinstance(lanes, Lanes)
    return lanes


def drawn(pipe: latentrt.Pipeline, options: Options) -> Array:
    prompt = None if "prompt_embeds" in options else "a cat"
    return pipe(prompt, **{**COMMON, **options}, output_type="latent").latents


def in_company(pipe: latentrt.Pipeline, calls: Sequence[Options]) -> list[Array]:
    """Their latents, drawn at once: all wait for the device before the first is encoded, and before it is denoised."""
    with ThreadPoolExecutor(len(calls)) as threads:
        with nobody_runs(pipe, len(calls), times=2):
            waiting = [threads.submit(drawn, pipe, options) for options in calls]
        return [future.result(SOON) for future in waiting]


def worst_decibels(pipe: latentrt.Pipeline, calls: Sequence[Options]) -> float:
    """How far the latents of calls in company are from those of the same calls alone; infinite: bit-equal."""
    alone = [drawn(pipe, options) for options in calls]
    psnr = []
    for one, other in zip(alone, in_company(pipe, calls), strict=True):
        error = float(np.mean((one - other) ** 2))
        psnr.append(20 * np.log10(float(np.ptp(one))) - 10 * np.log10(error) if error else np.inf)
    return min(psnr)


def test_steps_samplers_and_guidance_mix(tiny_bundle: Path, together: list[tuple[str, int]]) -> None:
    """Bit for bit, with the text encoder's calls and the U-Net's shared."""
    with opened(tiny_bundle) as pipe:
        assert worst_decibels(pipe, MIXED) == np.inf
    assert {component for component, _ in together} == {"text_encoder", "unet"}


def test_alone_where_that_is_wanted(tiny_bundle: Path, together: list[tuple[str, int]]) -> None:
    """Nothing waits; the choice goes along with a pickled pipeline."""
    import pickle

    with latentrt.open(tiny_bundle, batching="alone") as pipe, pickle.loads(pickle.dumps(pipe)) as other:
        for one in (pipe, other):
            assert one._engines is one._components
            assert one.submit("a cat", **{**COMMON, "seed": 5}).result(SOON).seeds == (5,)
    assert together == []
    with pytest.raises(latentrt.RequestError, match="got batching 'pairs', expected"):
        latentrt.open(tiny_bundle, batching="pairs")


def test_compiled_batches_are_filled(
    planned_bundle: Path, monkeypatch: pytest.MonkeyPatch, together: list[tuple[str, int]]
) -> None:
    """On a stand-in for a GPU, whose plans have one batch: two guided pictures are one run of four rows."""
    monkeypatch.setitem(COMPILERS, Backend.TENSORRT_RTX, StandInRTX())
    with latentrt.open(planned_bundle, backend="tensorrt-rtx") as pipe:
        calls = [{"seed": [seed], **pipe.encode("a cat", negative_prompt="")} for seed in (5, 6)]
        assert worst_decibels(pipe, calls) == np.inf
    assert together[0] == ("unet", 2)


def test_what_is_kept_goes_on_in_its_own_calls(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, with DeepCache of two branches and intervals: what keeps and what goes on run with their like."""
    roles = set()

    def watching(calls: Sequence[EngineCall]) -> dict[str, Array]:
        lane: Any = calls[0].lane
        assert all(call.lane == lane for call in calls)
        component, shapes, _ = lane
        if component == "unet" and shapes.cached is not None:
            roles.add((shapes.cached.role, shapes.cached.branch))
        return gathered(calls)

    monkeypatch.setattr(line_module, "gathered", watching)
    calls: list[Options] = [
        {"seed": [5], "deep_cache": 2},
        {"seed": [6], "deep_cache": 2, "negative_prompt": "a dog"},
        {"seed": [7], "deep_cache": 3, "num_inference_steps": 12},
        {"seed": [8], "deep_cache": {"interval": 2, "branch": 1}},
        {"seed": [9], "deep_cache": {"interval": 3, "branch": 1}},
        {"seed": [10]},
        {"seed": [11], "guidance_scale": 1.0},
    ]
    with opened(tiny_bundle) as pipe:
        assert (
            worst_decibels(pipe, [{"num_inference_steps": 10, "sampler": "euler", **call} for call in calls]) == np.inf
        )
    assert roles == {(role, branch) for role in CacheRole for branch in (0, 1)}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_families(family_bundle: Callable[[str], Path], family: str, together: list[tuple[str, int]]) -> None:
    """Prompts of one chunk and of two, too, which do not share the U-Net's runs."""
    long = {"prompt_syntax": "compel", "negative_prompt": "a house " * 60}
    with opened(family_bundle(family)) as pipe:
        assert worst_decibels(pipe, (*MIXED, *({**options, **long} for options in MIXED[:2]))) == np.inf
    assert any(component == "unet" for component, _ in together)


@pytest.mark.slow
@pytest.mark.parametrize("bundle", ["emoji_bundle", "half_bundle", "int8_bundle"])
def test_precisions(bundle: str, request: pytest.FixtureRequest, together: list[tuple[str, int]]) -> None:
    """The embedded model in fp32 and in int8, the tiny one in fp16."""
    own = {"width": 64, "height": 64} if bundle != "half_bundle" else {}
    with opened(request.getfixturevalue(bundle)) as pipe:
        assert worst_decibels(pipe, [{**options, **own} for options in MIXED]) == np.inf
    assert any(component == "unet" for component, _ in together)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["control", "control in some steps", "control of one side", "pag", "freeu", "lora"])
def test_what_calls_add(
    tiny_bundle: Path, tiny_net: Path, tmp_path: Path, together: list[tuple[str, int]], kind: str
) -> None:
    """Bit for bit but for LoRAs: changed weights are not packed, and ONNX Runtime multiplies one row otherwise."""
    edges = np.random.default_rng(3).integers(0, 256, (32, 32, 3), np.uint8)
    options: Options = {
        "control": {"control": latentrt.Control(tiny_net, edges, scale=0.7)},
        "control in some steps": {"control": latentrt.Control(tiny_net, edges, end=0.5)},
        "control of one side": {"control": latentrt.Control(tiny_net, edges, mode="control")},
        "pag": {"pag_scale": 2.0},
        "freeu": {"freeu": latentrt.FreeU(b1=1.2, b2=1.3, s1=0.9, s2=0.4)},
        "lora": {"loras": {"style": 0.8}},
    }[kind]
    with opened(tiny_bundle) as pipe:
        pipe.load_lora(save_tiny_lora(tmp_path / "style.safetensors", tiny_bundle))
        calls = [{**options, "sampler": sampler, "seed": [5]} for sampler in ("ddim", "dpmpp_2m", "heun", "lms")]
        worst = worst_decibels(pipe, [*calls, {"seed": [6]}, {"seed": [7]}])
    assert worst > 100.0 if kind == "lora" else worst == np.inf
    assert {"unet", "control"} - {component for component, _ in together} == (
        set() if kind.startswith("control") else {"control"}
    )


@pytest.mark.slow
def test_closed_while_calls_wait(tiny_bundle: Path) -> None:
    """Each is told so, and none waits for ever."""
    pipe = latentrt.open(tiny_bundle)
    drawn(pipe, {})
    with ThreadPoolExecutor(3) as threads:
        with nobody_runs(pipe, 3):
            waiting = [threads.submit(drawn, pipe, {"seed": seed}) for seed in range(3)]
            until(lambda: len(lanes_of(pipe).line._waiting) == 3)
            pipe.close()
        for future in waiting:
            assert isinstance(future.exception(SOON), latentrt.EngineError)
