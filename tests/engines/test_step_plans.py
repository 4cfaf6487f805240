"""Plans of a U-Net that make whole steps: built, found and opened; on a stand-in device, what is copied, and when."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import numpy as np
import pytest
from stand_ins import StandInRTX

import latentrt
from latentrt.describing import describe
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.backends.tensorrt.backend import TensorRTRTX
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import AddedInputs, Loop
from latentrt.engines.store.store import engines_in
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


def test_all_is_given_back(bundle: Path, rtx: StandInRTX) -> None:
    """Whatever ran."""
    with latentrt.open(bundle, backend=BACKEND, loop="device") as opened:
        opened(["a", "b"], seed=3, sampler="euler_a", **DRAW)
    assert not rtx.driver.live


@pytest.mark.slow
@pytest.mark.parametrize(
    "added", [frozenset[AddedInputs](), frozenset({AddedInputs.CONTROL})], ids=["plain", "control"]
)
def test_a_plan_for_sm89_is_really_built(tiny_bundle: Path, tmp_path: Path, added: frozenset[AddedInputs]) -> None:
    """By TensorRT-RTX itself, with neither a GPU nor a driver."""
    pytest.importorskip("tensorrt_rtx")
    unet = Component(
        root=tiny_bundle, manifest=open_bundle(tiny_bundle).manifest, name="unet", added=added, loop=Loop.DEVICE
    )
    compiler = TensorRTRTX()
    contents = compiler.compile(unet, compiler.targets(["sm89"])[0], tmp_path, None)
    assert contents is not None
    assert {"state", "row"} <= contents.shapes[0].inputs.keys()
    assert set(contents.shapes[0].outputs) == {"next_state", "denoised", "next_sample"}
    assert (tmp_path / "model.plan").stat().st_size > 10_000
