"""What is submitted: drawn as a call draws it, watched on the way, ended early, refused at once."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from waiting import SOON

import latentrt
from latentrt.runtime.serving.lanes.future import PictureFuture

CALL: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 4.0, "seed": 5, "width": 32, "height": 32}
PICTURE = Image.effect_noise((32, 32), 90).convert("RGB")
MASK = Image.new("L", (32, 32), 255)


@pytest.fixture(scope="module")
def pipe(tiny_bundle: Path) -> Iterator[latentrt.Pipeline]:
    with latentrt.open(tiny_bundle) as pipe:
        yield pipe


class Held:
    """A callback that holds its run before its first step's end until ``go``."""

    def __init__(self) -> None:
        self.begun, self.go, self.steps = threading.Event(), threading.Event(), 0

    def __call__(self, *_: Any) -> None:
        self.steps += 1
        self.begun.set()
        assert self.go.wait(SOON)


def held(pipe: latentrt.Pipeline, **options: Any) -> tuple[PictureFuture, Held]:
    """A run that has made its first step, and waits."""
    callback = Held()
    future = pipe.submit("a cat", **{**CALL, **options}, callback_on_step_end=callback)
    assert callback.begun.wait(SOON)
    return future, callback


@pytest.mark.parametrize(
    ("way", "pictures"),
    [
        ("__call__", {}),
        ("img2img", {"image": PICTURE, "strength": 0.7}),
        pytest.param("inpaint", {"image": PICTURE, "mask_image": MASK}, marks=pytest.mark.slow),
        pytest.param("outpaint", {"image": PICTURE.crop((0, 0, 16, 32)), "right": 16}, marks=pytest.mark.slow),
        pytest.param("__call__", {"hires": latentrt.Hires(scale=1.0, steps=2)}, marks=pytest.mark.slow),
    ],
)
def test_what_a_call_draws(pipe: latentrt.Pipeline, way: str, pictures: dict[str, Any]) -> None:
    """The same picture, whichever way of drawing its arguments tell; the caller's own functions are told as ever."""
    told: list[tuple[int, int]] = []
    expected = getattr(pipe, way)("a cat", **CALL, **pictures)
    future = pipe.submit("a cat", **CALL, **pictures, progress=lambda *steps: told.append(steps))
    result = future.result(SOON)
    assert result.images == expected.images
    assert result.metadata == expected.metadata
    assert np.array_equal(result.latents, expected.latents)
    assert told == [(step, future.steps) for step in range(1, future.steps + 1)]
    assert (future.step, future.done(), future.cancel(), future.interrupt()) == (future.steps, True, False, False)


def test_it_tells_how_far_it_is(pipe: latentrt.Pipeline) -> None:
    """Steps and a small picture, which is that of the clean sample that callbacks are given."""
    seen: list[Any] = []
    first = pipe.submit("a cat", **{**CALL, "seed": 3})
    assert (first.steps, len(first.preview())) in {(3, 0), (3, 1)}
    future, callback = held(pipe)
    assert (future.step, future.steps, future.running()) == (1, 3, True)
    preview = future.preview()
    callback.go.set()
    future.result(SOON)
    pipe(
        "a cat",
        **CALL,
        callback_on_step_end=lambda pipe, step, _, tensors: seen.append(pipe.preview(tensors["denoised"])),
    )
    assert [np.asarray(one).tolist() for one in preview] == [np.asarray(one).tolist() for one in seen[0]]
    assert [np.asarray(one).tolist() for one in future.preview()] == [np.asarray(one).tolist() for one in seen[2]]
    first.result(SOON)


def test_cancelled_as_it_runs(pipe: latentrt.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends at its next step, and nothing is decoded."""
    monkeypatch.setattr("latentrt.runtime.call.drawing.decoded", lambda *_: pytest.fail("it decodes"))
    future, callback = held(pipe)
    assert future.cancel()
    assert not future.cancelled()
    callback.go.set()
    with pytest.raises(CancelledError):
        future.result(SOON)
    assert (callback.steps, future.step, future.cancelled(), future.cancel()) == (1, 2, True, True)


def test_cancelled_too_late_for_a_step(pipe: latentrt.Pipeline) -> None:
    """Who was told that it is cancelled gets no picture of it."""
    future, callback = held(pipe, num_inference_steps=1)
    assert future.cancel()
    callback.go.set()
    with pytest.raises(CancelledError):
        future.result(SOON)


def test_interrupted(pipe: latentrt.Pipeline) -> None:
    """What there is comes back, as a callback's ``Interrupt`` has it."""
    future, callback = held(pipe)
    assert future.interrupt()
    callback.go.set()
    result = future.result(SOON)
    assert result.interrupted
    assert (len(result.images), future.step) == (1, 2)
    assert not future.cancelled()


def test_the_callers_callback_may_end_it(pipe: latentrt.Pipeline) -> None:
    """By ``Interrupt``, or by an error, which the future has."""

    def fails(*_: Any) -> None:
        raise LookupError("not this one")

    def stops(*_: Any) -> None:
        raise latentrt.Interrupt

    assert pipe.submit("a cat", **CALL, callback_on_step_end=stops).result(SOON).interrupted
    assert isinstance(pipe.submit("a cat", **CALL, callback_on_step_end=fails).exception(SOON), LookupError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampler": "eu"}, "got sampler 'eu'"),
        ({"stepps": 3}, "stepps"),
        ({"mask_image": MASK}, "got mask_image without image"),
        ({"strength": 0.5}, "got strength without image"),
        ({"left": 8}, "got a side that grows without image"),
        ({"image": PICTURE, "padding_mask_crop": 4}, "got padding_mask_crop without mask_image"),
        ({"image": PICTURE, "kept_pixels": "decoded"}, "got kept_pixels without mask_image"),
        ({"image": PICTURE, "mask_image": MASK, "left": 8}, "got mask_image for a picture that grows"),
    ],
)
def test_refused_at_once(pipe: latentrt.Pipeline, arguments: dict[str, Any], message: str) -> None:
    """In the thread that asks; no future comes of it."""
    with pytest.raises(latentrt.RequestError, match=message):
        pipe.submit("a cat", **arguments)


def test_first_come_first_served(tiny_bundle: Path) -> None:
    """Twice a run's pictures are drawn at once, others wait; closing ends what runs and draws no more."""
    pipe = latentrt.open(tiny_bundle)
    workers = 2 * max(profile.batch for profile in pipe.manifest.profiles)
    running = [held(pipe, seed=seed) for seed in range(workers)]
    behind = [pipe.submit("a cat", **CALL) for _ in range(2)]
    assert [future.running() for future in behind] == [False] * 2
    assert behind[0].cancel()
    assert behind[0].cancelled()
    closing = threading.Thread(target=pipe.close)
    closing.start()
    with pytest.raises(CancelledError):
        behind[1].result(SOON)
    for _, callback in running:
        callback.go.set()
    closing.join(SOON)
    assert all(future.cancelled() for future in (*behind, *(future for future, _ in running)))
    with pytest.raises(latentrt.EngineError, match="the pipeline is closed"):
        pipe.submit("a cat", **CALL)


def test_a_callback_may_close_the_pipeline(tiny_bundle: Path) -> None:
    """It does not wait for itself."""
    pipe = latentrt.open(tiny_bundle)
    future = pipe.submit("a cat", **CALL, callback_on_step_end=lambda pipe, *_: pipe.close())
    with pytest.raises(CancelledError):
        future.result(SOON)


def test_in_an_event_loop(pipe: latentrt.Pipeline) -> None:
    """asyncio waits for it, and cancels it."""
    cancelled, callback = held(pipe)

    async def both() -> bool:
        done = await asyncio.wrap_future(pipe.submit("a cat", **CALL))
        waiting = asyncio.wrap_future(cancelled)
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return len(done.images) == 1

    assert asyncio.run(both())
    callback.go.set()
    assert cancelled.exception(SOON) is not None
    assert cancelled.cancelled()
