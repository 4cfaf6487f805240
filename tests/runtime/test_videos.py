"""Videos: what a call may say of them, what it tells on the way, and how much of them is in memory."""

import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from waiting import SOON
from watched_session import MOST, Watched

import latentrt
from latentrt.engines.engine import ClosesItself
from latentrt.engines.errors import EngineError, RequestError
from latentrt.engines.spec import Array, EngineSpec, Tensor, TensorSpec
from latentrt.runtime.call.result import OutputType
from latentrt.runtime.call.tasks.video.clip import Clip
from latentrt.runtime.call.tasks.video.decoding import frame_decoder

FLOATS = np.dtype("float32")
CALL: dict[str, Any] = {"num_inference_steps": 2, "seed": 5}
COLOURS = np.random.default_rng(0).integers(0, 256, (3, 3, 3), np.uint8)
PICTURE = Image.fromarray(COLOURS).resize((32, 32))
OTHER = PICTURE.rotate(90)


@pytest.fixture(scope="module")
def pipe(tiny_svd_bundle: Path) -> Iterator[latentrt.Pipeline]:
    with latentrt.open(tiny_svd_bundle, threads=1) as pipe:
        yield pipe


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "fps": ({"fps": 0}, "got fps 0, expected 1 to 1000 frames per second; 7 is common"),
    "half a frame": ({"fps": 7.5}, "got fps 7.5, expected a whole number"),
    "motion": ({"motion_bucket_id": -1}, r"got motion_bucket_id -1, expected 0 \(little motion\) to 255"),
    "noise": ({"noise_aug_strength": -0.1}, "got noise_aug_strength -0.1, expected 0 to 10; 0.02 is common"),
    "frames": ({"num_frames": 14}, "got 14 frames of 32x32, but the bundle has 32x32x4f, 48x32x3f; .*32x32x14f"),
    "frames of a size": ({"num_frames": 3, "width": 32}, "got 3 frames of 32x32, but the bundle has"),
    "no frames": ({"num_frames": 0}, "got 0 frames of 32x32, but the bundle has [^,]*, [^,]*; ask for one of these$"),
    "one frame": ({"num_frames": 1}, "got 1 frame of 32x32, but the bundle has [^,]*, [^,]*; ask for one of these$"),
    "a size": ({"width": 64, "height": 64}, "got 4 frames of 64x64, but .* build again with --profile 64x64x4f"),
    "an odd size": ({"width": 33}, "got 4 frames of 33x32, but the bundle has [^,]*, [^,]*; ask for one of these$"),
    "chunk": ({"decode_chunk_size": 0}, "got decode_chunk_size 0, expected at least 1 frame"),
    "guidance": ({"max_guidance_scale": -1}, "got max_guidance_scale -1, expected 0 to 1000; 1 to 3 is common"),
    "NaN": ({"min_guidance_scale": float("nan")}, "got min_guidance_scale nan, expected 0 to 1000"),
    "switched off": ({"min_guidance_scale": 3.0, "max_guidance_scale": 1.0}, "switches guidance off for all frames"),
    "videos": ({"num_videos_per_prompt": 0}, "got num_videos_per_prompt 0, expected at least 1"),
    "seeds": ({"seed": [1, 2]}, "got 2 seeds for 1 pictures"),
    "text": ({"prompt": "a cat"}, "got keyword 'prompt'.*a model that draws videos reads no text; leave it out"),
    "one scale": ({"guidance_scale": 3.0}, "got keyword 'guidance_scale'.*max_guidance_scale for the last frame"),
    "timesteps": ({"timesteps": [9]}, "got keyword 'timesteps'.*has no timesteps: give sigmas"),
    "a slip": ({"motion_bucket": 3}, "did you mean motion_bucket_id?"),
    "latents": ({"latents": np.zeros((1, 4, 16, 16), np.float32)}, r"expected \(1, 4, 4, 16, 16\) float32"),
    "embeddings": (
        {"callback_on_step_end": print, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]},
        "got callback_on_step_end_tensor_inputs 'prompt_embeds', expected some of latents, guidance_scale, denoised",
    ),
    "sampler": ({"sampler": "lcm"}, "got sampler 'lcm' for a model with EDM's noise levels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused(pipe: latentrt.Pipeline, name: str) -> None:
    """One sentence, before anything is drawn; so does submitting."""
    wishes, sentence = REFUSED[name]
    for call in (pipe.img2vid, pipe.submit_img2vid):
        with pytest.raises(RequestError, match=sentence):
            call(PICTURE, **wishes)


def test_pictures_that_cannot_be(pipe: latentrt.Pipeline) -> None:
    """Arrays of another size, latents, none at all."""
    array = np.zeros((40, 40, 3), np.uint8)
    with pytest.raises(RequestError, match="got an image array of 40x40 pixels for videos of 32x32x4f, expected 32x32"):
        pipe.img2vid(array, **CALL)
    with pytest.raises(RequestError, match="which are latents where the channels come first"):
        pipe.img2vid(np.zeros((1, 4, 16, 16), np.float32), **CALL)
    with pytest.raises(RequestError, match="got image None, expected a PIL picture"):
        pipe.img2vid(None, **CALL)  # type: ignore[arg-type]


def test_other_models_and_other_calls(pipe: latentrt.Pipeline, tiny_pipe: latentrt.Pipeline) -> None:
    """Each says what its model draws, and with which call."""
    with pytest.raises(RequestError, match="got image-to-video with a model that draws pictures from text"):
        tiny_pipe.img2vid(PICTURE)
    with pytest.raises(RequestError, match=r"a model that draws videos.*use img2vid"):
        pipe("a cat")
    with pytest.raises(RequestError, match=r"a model that draws videos.*use img2vid"):
        pipe.img2img(image=PICTURE)


def test_warnings(pipe: latentrt.Pipeline) -> None:
    """Of what the model was not trained with, and of pictures that are stretched."""
    call = {**CALL, "num_inference_steps": 1, "output_type": "latent"}
    with pytest.warns(UserWarning, match="fps 60 is beyond what the model was trained with, 5 to 30"):
        pipe.img2vid(PICTURE, **call, fps=60, max_guidance_scale=1.0)
    with pytest.warns(UserWarning, match="motion_bucket_id 300 is beyond"):
        pipe.img2vid(PICTURE, **call, motion_bucket_id=300, max_guidance_scale=1.0)
    with pytest.warns(UserWarning, match="a picture of 64x32 is stretched to 32x32 pixels; crop it"):
        pipe.img2vid(PICTURE.resize((64, 32)), **call, max_guidance_scale=1.0)


def test_a_result(pipe: latentrt.Pipeline, tmp_path: Path) -> None:
    """Frames, and a file with the settings that drew them."""
    drawn = pipe.img2vid(PICTURE, **CALL, fps=12, motion_bucket_id=90, decode_chunk_size=3, min_guidance_scale=1.5)
    (frames,) = drawn.frames
    assert [frame.size for frame in frames] == [(32, 32)] * 4  # type: ignore[union-attr]
    assert drawn.fps == 12
    assert drawn.latents.shape == (1, 4, 4, 16, 16)
    assert drawn.seeds == (5,)
    assert not drawn.interrupted
    (path,) = drawn.save(tmp_path / "clip.webp")
    with Image.open(path) as clip:
        assert (clip.n_frames, clip.size) == (4, (32, 32))  # type: ignore[attr-defined]
        np.testing.assert_array_equal(np.asarray(clip.convert("RGB")), np.asarray(frames[0]))
    text = str(latentrt.read_parameters(path))
    wanted = "Frames: 4, FPS: 12, Motion bucket: 90, Noise augmentation: 0.02, Decode chunk: 3"
    for part in ("Schedule type: Karras, CFG scale: 3, Seed: 5, Size: 32x32", "Min CFG scale: 1.5", wanted):
        assert part in text
    assert "Time ids" not in text
    unguided = pipe.img2vid(PICTURE, **CALL, max_guidance_scale=1.0, output_type="latent")
    assert "Min CFG scale" not in unguided.metadata[0].parameters()
    assert unguided.frames == []
    with pytest.raises(RequestError, match="got a result without PIL pictures"):
        unguided.save(tmp_path / "clip.webp")


def test_the_profile_of_the_pictures_own_size(pipe: latentrt.Pipeline) -> None:
    """Is taken before the first; what the call says counts more. Arrays draw as PIL pictures do."""
    wide = PICTURE.resize((48, 32))
    call = {**CALL, "num_inference_steps": 1}
    drawn = pipe.img2vid(wide, **call, output_type="np")
    assert np.shape(drawn.frames[0]) == (3, 32, 48, 3)
    again = pipe.img2vid(np.asarray(wide), **call, output_type="np")
    np.testing.assert_array_equal(drawn.frames[0], again.frames[0])


def test_seeds_of_their_own(pipe: latentrt.Pipeline) -> None:
    """Each video is the one that its seed draws alone; those of one picture come together."""
    call = {"num_inference_steps": 1, "output_type": "latent", "noise_aug_strength": 0.5}
    drawn = pipe.img2vid([PICTURE, OTHER], seed=[1, 2, 3, 4], num_videos_per_prompt=2, **call)
    assert drawn.latents.shape == (4, 4, 4, 16, 16)
    for index, (picture, seed) in enumerate(((PICTURE, 1), (PICTURE, 2), (OTHER, 3), (OTHER, 4))):
        alone = pipe.img2vid(picture, seed=[seed], **call).latents[0]
        np.testing.assert_allclose(drawn.latents[index], alone, rtol=0, atol=1e-4)
    assert np.abs(drawn.latents[0] - drawn.latents[1]).max() > 0.01


def test_what_is_told_on_the_way(pipe: latentrt.Pipeline) -> None:
    """Progress of model calls and of chunks; the callback's previews are of every frame."""
    told: list[tuple[int, int]] = []
    sizes: list[int] = []

    def look(pipe: Any, step: int, timestep: float, tensors: dict[str, Any]) -> None:
        assert tensors["denoised"].shape == (2, 4, 4, 16, 16)
        sizes.append(len(pipe.preview(tensors["denoised"])))

    pipe.img2vid(
        [PICTURE, OTHER],
        **CALL,
        decode_chunk_size=3,
        progress=lambda done, total: told.append((done, total)),
        callback_on_step_end=look,
    )
    assert told == [(done, 6) for done in range(1, 7)]
    assert sizes == [8, 8]
    with pytest.raises(RequestError, match=r"got latents \(1, 4, 16, 16\), expected \(N, F, 4, h, w\)"):
        pipe.preview(np.zeros((1, 4, 16, 16), np.float32))


def test_a_callback_may_end_a_run(pipe: latentrt.Pipeline) -> None:
    """What there is is decoded to its end, and chunks are counted from where model calls would have ended."""
    told: list[tuple[int, int]] = []

    def end(*_: Any) -> None:
        raise latentrt.Interrupt

    drawn = pipe.img2vid(
        PICTURE, **CALL, decode_chunk_size=2, callback_on_step_end=end, progress=lambda *done: told.append(done)
    )
    assert drawn.interrupted
    assert len(drawn.frames[0]) == 4
    assert told == [(3, 4), (4, 4)]


def test_a_callback_may_change_the_guidance(pipe: latentrt.Pipeline) -> None:
    """That of the last frame, for the rest of the run."""
    call = {**CALL, "output_type": "latent"}

    def drawn(scale: float, then: float) -> Array:
        def change(pipe: Any, step: int, timestep: float, tensors: dict[str, Any]) -> dict[str, Any]:
            told.append(tensors["guidance_scale"])
            return {} if step else {"guidance_scale": then, "latents": np.full((1, 4, 4, 16, 16), 0.5, np.float32)}

        return pipe.img2vid(
            PICTURE,
            **call,
            max_guidance_scale=scale,
            callback_on_step_end=change,
            callback_on_step_end_tensor_inputs=["guidance_scale"],
        ).latents

    told: list[float] = []
    changed = drawn(2.0, 4.0)
    np.testing.assert_array_equal(changed, drawn(4.0, 4.0))
    assert np.abs(changed - drawn(2.0, 2.0)).max() > 1e-4
    np.testing.assert_array_equal(drawn(1.0, 4.0), changed)  # a run that began with one pass goes on with two
    assert told == [2.0, 4.0, 4.0, 4.0, 2.0, 2.0, 1.0, 4.0]


def test_submitted(pipe: latentrt.Pipeline) -> None:
    """The same videos, also while others are drawn; a future tells its steps, and can be cancelled."""
    alone = pipe.img2vid(PICTURE, **CALL, decode_chunk_size=2)
    futures = [pipe.submit_img2vid(PICTURE, **CALL, decode_chunk_size=2) for _ in range(2)]
    for future in futures:
        drawn = future.result(SOON)
        np.testing.assert_allclose(drawn.latents, alone.latents, rtol=0, atol=1e-4)
        assert (future.step, future.steps) == (4, 4)
        assert len(future.preview()) == 4
        for ours, theirs in zip(drawn.frames[0], alone.frames[0], strict=True):
            np.testing.assert_allclose(np.asarray(ours, int), np.asarray(theirs, int), atol=1)
    begun, go = threading.Event(), threading.Event()

    def hold(*_: Any) -> None:
        begun.set()
        assert go.wait(SOON)

    held = pipe.submit_img2vid(PICTURE, **CALL, callback_on_step_end=hold)
    assert begun.wait(SOON)
    held.cancel()
    go.set()
    with pytest.raises(CancelledError):
        held.result(SOON)


def test_a_step_passes_few_frames(tiny_svd_bundle: Path) -> None:
    """From ``img2vid`` to the function that calls the session, both counted."""
    with latentrt.open(tiny_svd_bundle, threads=1) as pipe:
        model: Any = pipe._components._models["unet"]._model  # type: ignore[attr-defined]
        model._session = watched = Watched(model._session)
        pipe.img2vid(PICTURE, **CALL, output_type="latent")
    assert len(watched.stacks) >= 2
    for stack in watched.stacks:
        assert stack[-1] == "FromPicture.img2vid"
        assert len(stack) <= MOST, stack


class Counting(ClosesItself):
    """A decoder that says how many frames it was given, and whether earlier results were alive then."""

    def __init__(self, batches: tuple[int, ...]) -> None:
        tensor = TensorSpec(shape=("batch", 3, 8, 8), dtype=FLOATS)
        latents = TensorSpec(shape=("batch", 4, 4, 4), dtype=FLOATS)
        self.spec = EngineSpec(inputs={"latent_sample": latents}, outputs={"sample": tensor}, batches=batches)
        self.given: list[list[float]] = []
        self.alive: list[int] = []
        self._made: list[weakref.ref[Array]] = []

    def run(self, inputs: Any) -> dict[str, Array]:
        self.spec.check(inputs)
        latents: Tensor = inputs["latent_sample"]
        self.alive.append(sum(made() is not None for made in self._made))
        self.given.append(np.asarray(latents)[:, 0, 0, 0].tolist())
        pixels = np.zeros((len(self.given[-1]), 3, 8, 8), np.float32)
        self._made.append(weakref.ref(pixels))
        return {"sample": pixels}

    def close(self) -> None:
        """Holds nothing."""


@pytest.fixture
def decoded(pipe: latentrt.Pipeline) -> Callable[..., tuple[Counting, Any]]:
    """Decodes two videos of frames that are numbered, with an engine of some batches."""

    def decode(frames: int, chunk: int | None, batches: tuple[int, ...] = ()) -> tuple[Counting, Any]:
        engine = Counting(batches or tuple(range(1, frames + 1)))
        space = pipe.manifest.latents.model_copy(update={"scaling_factor": 1.0})
        engines: Any = SimpleNamespace(
            engine=lambda *_: engine, bundle=SimpleNamespace(manifest=SimpleNamespace(latents=space))
        )
        clip = Clip(frames=frames, fps=7, motion_bucket_id=1, noise_aug_strength=0.0, chunk=chunk)
        request: Any = SimpleNamespace(canvas=SimpleNamespace(profile=None))
        latents = np.zeros((2, frames, 4, 4, 4), np.float32)
        latents += np.arange(2 * frames, dtype=np.float32).reshape(2, frames)[..., None, None, None]
        decoder = frame_decoder(engines, request, clip)
        return engine, decoder.frames(latents, OutputType.PIL, lambda done: None)

    return decode


def test_memory_is_that_of_one_chunk(decoded: Callable[..., tuple[Counting, Any]]) -> None:
    """25 frames in chunks of 8: none straddles two videos, and none is left when the next one is decoded."""
    engine, videos = decoded(25, 8)
    assert [len(given) for given in engine.given] == [8, 8, 8, 1] * 2
    assert [number for given in engine.given for number in given] == list(range(50))
    assert engine.alive == [0] * 8
    assert [len(video) for video in videos] == [25, 25]
    assert videos[0][0].size == (8, 8)


def test_chunks_that_were_compiled(decoded: Callable[..., tuple[Counting, Any]]) -> None:
    """No chunk is padded or divided: what an engine has no batch for is refused, and the default is what goes."""
    engine, _ = decoded(14, None, (2, 4, 7))
    assert [len(given) for given in engine.given] == [7, 7] * 2
    engine, _ = decoded(14, 4, (2, 4, 7))
    assert [len(given) for given in engine.given] == [4, 4, 4, 2] * 2
    with pytest.raises(RequestError, match="got decode_chunk_size 3 for 14 frames, expected 2, 4, 7, for which"):
        decoded(14, 3, (2, 4, 7))
    with pytest.raises(EngineError, match="takes 4 frames at once, of which no video of 14 can be made"):
        decoded(14, None, (4,))
    engine, _ = decoded(3, 9)
    assert [len(given) for given in engine.given] == [3] * 2
    assert replace(Clip(frames=3, fps=7, motion_bucket_id=1, noise_aug_strength=0.0, chunk=9)).decoded_at_once == 3
