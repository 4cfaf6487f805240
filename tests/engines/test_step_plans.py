"""Plans of a U-Net that make whole steps: built, found and opened; on a stand-in device, what is copied, and when."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Barrier, Thread
from typing import Any, cast

import numpy as np
import pytest
from stand_ins import StandInRTX
from waiting import until

import latentrt
from latentrt.describing import describe
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.backends.tensorrt.backend import TensorRTRTX
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.engine import Engine
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import AddedInputs, Loop
from latentrt.engines.store.store import engines_in
from latentrt.runtime.serving.lanes.engine_call import EngineCall
from latentrt.runtime.serving.lanes.lanes import Lanes
from latentrt.verifying import verify

BACKEND = "tensorrt-rtx"
DRAW: dict[str, Any] = {"num_inference_steps": 5, "output_type": "latent", "guidance_scale": 4.0}


@pytest.fixture(scope="module")
def rtx() -> Iterator[StandInRTX]:
    """A machine with a GPU: TensorRT-RTX on the stand-in device, for everything."""
    compiler = StandInRTX()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(COMPILERS, Backend.TENSORRT_RTX, compiler)
        yield compiler


@pytest.fixture(scope="module")
def bundle(planned_bundle: Path, rtx: StandInRTX, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with plain plans, and one that makes whole steps."""
    copy = Path(shutil.copytree(planned_bundle, tmp_path_factory.mktemp("steps") / "tiny.bundle"))
    with latentrt.open(copy, backend=BACKEND), pytest.raises(latentrt.EngineError, match=r"rtx --loop device$"):
        latentrt.open(copy, backend=BACKEND, loop="device")
    assert not latentrt.build(copy, backend=BACKEND, loop="device").up_to_date
    return copy


@pytest.fixture
def pipe(bundle: Path) -> Iterator[latentrt.Pipeline]:
    """Opened with the loop on the device."""
    with latentrt.open(bundle, backend=BACKEND, loop="device") as opened:
        yield opened


@pytest.fixture(scope="module")
def cpu(tiny_bundle: Path) -> Iterator[latentrt.Pipeline]:
    """The same model with the loop on the host."""
    with latentrt.open(tiny_bundle, threads=1) as opened:
        yield opened


def assert_same(ours: Any, expected: Any) -> None:
    """The graph of the stand-in is not the one that was compiled for the CPU."""
    scale = np.abs(expected.latents).max()
    np.testing.assert_allclose(ours.latents / scale, expected.latents / scale, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_it_is_built_beside_the_plain_one(bundle: Path, command: Callable[..., Any]) -> None:
    """It passes the U-Net's gate, is listed, verified, and not built twice."""
    plans = {
        engine.flags.get("loop"): engine
        for engine in engines_in(bundle)
        if (engine.component, engine.backend) == ("unet", Backend.TENSORRT_RTX)
    }
    assert set(plans) == {None, "device"}
    measured = plans["device"].parity
    assert measured is not None
    assert measured.relative_error < 1e-4
    contents = plans["device"].contents
    assert contents is not None
    assert {"state", "row"} <= contents.shapes[0].inputs.keys()
    assert latentrt.build(bundle, backend=BACKEND, loop="device").up_to_date
    assert [engine["loop"] for engine in describe(bundle)["engines"]].count("device") == 1
    assert "tensorrt-rtx sm89, whole steps" in " ".join(command("inspect", bundle).stdout.split())
    assert "unet in whole steps" in verify(bundle, backend=BACKEND)


def test_latents_stay_between_steps(pipe: latentrt.Pipeline, cpu: latentrt.Pipeline, rtx: StandInRTX) -> None:
    """One launch a step, of a graph for each direction; nothing is copied on the device, or back before the end."""
    told = pipe.encode("a cat")
    for sampler in ("euler_a", "dpmpp_2m"):
        for _ in range(2):  # each direction once, whichever it begins with
            pipe(**told, seed=1, sampler=sampler, **DRAW)
        begin = len(rtx.driver.log)
        ours = pipe(**told, seed=3, sampler=sampler, **DRAW)
        log = rtx.driver.log[begin:]
        counts = Counter(log)
        assert counts["launch"] == DRAW["num_inference_steps"]
        assert (counts["copy_on_device"], counts["execute_async_v3"], counts["copy_to_host"]) == (0, 0, 1)
        assert "launch" not in log[log.index("copy_to_host") :]
        assert_same(ours, cpu("a cat", seed=3, sampler=sampler, **DRAW))


@pytest.mark.slow
def test_callbacks_get_latents_by_a_copy(pipe: latentrt.Pipeline, cpu: latentrt.Pipeline, rtx: StandInRTX) -> None:
    """What they change goes on; who watches progress alone has nothing copied."""
    seen: list[int] = []
    told = pipe.encode("a cat")
    begin = len(rtx.driver.log)
    pipe(**told, seed=3, sampler="euler", progress=lambda step, of: seen.append(step), **DRAW)
    assert seen == [1, 2, 3, 4, 5]
    assert Counter(rtx.driver.log[begin:])["copy_to_host"] == 1

    def halve(_: Any, step: int, __: float, tensors: Any) -> Any:
        return {"latents": tensors["latents"] * 0.5} if step == 2 else None

    common = {"seed": 3, "sampler": "dpmpp_2m", "callback_on_step_end": halve, **DRAW}
    assert_same(pipe("a cat", **common), cpu("a cat", **common))


def test_requests_share_steps(pipe: latentrt.Pipeline, cpu: latentrt.Pipeline, rtx: StandInRTX) -> None:
    """Two of one picture in a plan for two: each as it is alone, and rows stay where they are."""
    wishes: list[dict[str, Any]] = [
        {"prompt": "a cat", "seed": 3, "sampler": "euler_a"},
        {"prompt": "a dog", "seed": 4, "sampler": "dpmpp_2m"},
        {"prompt": "a fox", "seed": 5, "sampler": "heun"},
    ]
    expected = [cpu(**wish, **DRAW) for wish in wishes]
    found: dict[int, Any] = {}
    together = Barrier(len(wishes))

    def draw(place: int) -> None:
        together.wait()
        found[place] = pipe(**wishes[place], **DRAW)

    threads = [Thread(target=draw, args=(place,)) for place in range(len(wishes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, result in enumerate(expected):
        assert_same(found[place], result)


def drawn_together(pipe: latentrt.Pipeline, wishes: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Draws requests in threads of their own; no engine runs before all that still go wait for it."""
    line, found = cast(Lanes, pipe._engines).line, dict[int, Any]()

    def draw(place: int) -> None:
        found[place] = pipe(**wishes[place])

    def holding() -> EngineCall:
        """A call that has the only seat."""
        call = EngineCall(cast(Engine, None), {}, None, 1, dict)
        assert line.enter(call) or line.results(call) is None
        return call

    threads, held = [Thread(target=draw, args=(place,)) for place in range(len(wishes))], holding()
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        until(lambda: len(line._waiting) >= sum(thread.is_alive() for thread in threads))
        line.leave(held)
        held = holding()
    line.leave(held)
    return [found[place] for place in range(len(wishes))]


def test_a_shared_step_is_one_launch(pipe: latentrt.Pipeline, cpu: latentrt.Pipeline, rtx: StandInRTX) -> None:
    """Of two requests of other samplers and guidance: their states lie one below the other, and stay there."""
    wishes: list[dict[str, Any]] = [
        {**pipe.encode("a cat"), **DRAW, "seed": 3, "sampler": "euler_a"},
        {**pipe.encode("a dog"), **DRAW, "seed": 4, "sampler": "dpmpp_2m", "guidance_scale": 7.0},
    ]
    for _ in range(2):  # each direction once, whichever it begins with
        drawn_together(pipe, wishes)
    begin, shared = len(rtx.driver.log), pipe.shared_runs.get(2, 0)
    drawn = drawn_together(pipe, wishes)
    counts = Counter(rtx.driver.log[begin:])
    assert pipe.shared_runs[2] - shared == counts["launch"] == DRAW["num_inference_steps"]
    assert (counts["copy_on_device"], counts["execute_async_v3"], counts["copy_to_host"]) == (0, 0, len(wishes))
    for result, wish in zip(drawn, wishes, strict=True):
        assert_same(result, cpu(**wish))


@pytest.mark.slow
def test_a_step_goes_on_without_those_that_ended(
    pipe: latentrt.Pipeline, cpu: latentrt.Pipeline, rtx: StandInRTX
) -> None:
    """Of three requests of one row each and of other lengths; the states of who goes on are put together by copies."""
    wishes: list[dict[str, Any]] = [
        {**pipe.encode(prompt), **DRAW, "seed": steps, "guidance_scale": 1.0, "num_inference_steps": steps}
        for steps, prompt in ((2, "a cat"), (5, "a dog"), (4, "a fox"))
    ]
    begin, shared = len(rtx.driver.log), Counter(pipe.shared_runs)
    drawn = drawn_together(pipe, wishes)
    runs = Counter(pipe.shared_runs)
    assert (runs[3] - shared[3], runs[2] - shared[2]) == (2, 2)
    assert Counter(rtx.driver.log[begin:])["copy_on_device"] > 0
    for result, wish in zip(drawn, wishes, strict=True):
        assert_same(result, cpu(**wish))


def test_the_plain_plan_is_opened_by_who_needs_it(
    bundle: Path, rtx: StandInRTX, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are not on the device beside those of whole steps before."""
    opened: list[str] = []
    opens = StandInRTX.open

    def counted(self: StandInRTX, component: Component, folder: Path, *, threads: int | None) -> Any:
        opened.append(component.label)
        return opens(self, component, folder, threads=threads)

    monkeypatch.setattr(StandInRTX, "open", counted)
    with latentrt.open(bundle, backend=BACKEND, loop="device") as pipe:
        pipe("a cat", seed=3, sampler="euler", **DRAW)
        assert "unet in whole steps" in opened
        assert "unet" not in opened
        pipe("a cat", seed=3, apg={}, **DRAW)
        assert "unet" in opened


def test_all_is_given_back(bundle: Path, rtx: StandInRTX) -> None:
    """Whatever ran."""
    with latentrt.open(bundle, backend=BACKEND, loop="device") as opened:
        opened(["a", "b"], seed=3, sampler="euler_a", **DRAW)
    assert not rtx.driver.live


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bundle_name", "added"),
    [
        ("tiny_bundle", frozenset[AddedInputs]()),
        ("tiny_bundle", frozenset({AddedInputs.CONTROL})),
        ("half_bundle", frozenset(AddedInputs)),
        ("masked_bundle", frozenset[AddedInputs]()),
    ],
    ids=["plain", "control", "fp16 with all", "nine channels"],
)
def test_a_plan_for_sm89_is_really_built(
    bundle_name: str, added: frozenset[AddedInputs], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """By TensorRT-RTX itself, with neither a GPU nor a driver."""
    pytest.importorskip("tensorrt_rtx")
    root = request.getfixturevalue(bundle_name)
    unet = Component(root=root, manifest=open_bundle(root).manifest, name="unet", added=added, loop=Loop.DEVICE)
    compiler = TensorRTRTX()
    contents = compiler.compile(unet, compiler.targets(["sm89"])[0], tmp_path, None)
    assert contents is not None
    assert {"state", "row"} <= contents.shapes[0].inputs.keys()
    assert set(contents.shapes[0].outputs) == {"next_state", "denoised", "next_sample"}
    assert (tmp_path / "model.plan").stat().st_size > 10_000
