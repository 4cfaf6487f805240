"""DeepCache in a call: which model calls are whole, what they keep, what is refused, and what pictures say of it."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_loras import save_tiny_lora

import latentrt
from latentrt.engines.backends.ort_cpu.backend import OrtCpu
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.kinds import UNET
from latentrt.engines.engine import ClosesItself
from latentrt.engines.precision import Backend
from latentrt.engines.spec import BATCH, Array, EngineSpec, Tensor, TensorSpec
from latentrt.engines.store.store import compiled_folder, read_engine
from latentrt.runtime.denoiser import deep_cache
from latentrt.runtime.denoiser.conditions.condition import SAMPLE, FixedCondition
from latentrt.runtime.denoiser.deep_cache import CachedDenoiser, cached_denoiser
from latentrt.runtime.denoiser.guider import Guider, Side, StepScales
from latentrt.runtime.sampling.schedule import Level
from latentrt.runtime.serving.http.openai.form import values_from_form
from latentrt.runtime.serving.jobs.order_json import JobRequest

DRAW: Mapping[str, Any] = {
    "num_inference_steps": 9,
    "guidance_scale": 4.0,
    "sampler": "euler",
    "output_type": "latent",
    "seed": 3,
}
FEATURE, NAME = "feature", "name"
LEVELS = tuple(Level(timestep=900.0 - 100.0 * index, alpha=0.6, sigma=0.8 - 0.05 * index) for index in range(8))


class Recorded(ClosesItself):
    """An engine of two rows a call whose feature is the number of its call and the row's name."""

    def __init__(self, log: list[str], *, shallow: bool) -> None:
        rows = TensorSpec(shape=(BATCH, 4, 2, 2), dtype=np.dtype("float32"))
        one = TensorSpec(shape=(BATCH, 1), dtype=np.dtype("float32"))
        inputs = {SAMPLE: rows, "timestep": TensorSpec(shape=(BATCH,), dtype=np.dtype("float32"))}
        self.spec = EngineSpec(
            inputs={**inputs, FEATURE: one} if shallow else {**inputs, NAME: one},
            outputs={"out_sample": rows},
            batches=(1, 2),
        )
        self._log, self._shallow, self._runs = log, shallow, 0

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """Logs the call: what was kept for each of its rows, or that it is whole."""
        self.spec.check(inputs)
        self._runs += 1
        out = {"out_sample": np.asarray(inputs[SAMPLE])}
        if self._shallow:
            self._log.append("".join(f"{value:g} " for value in np.asarray(inputs[FEATURE])[:, 0]).strip())
            return out
        self._log.append("whole")
        return {**out, FEATURE: np.asarray(inputs[NAME]) + 100 * self._runs}

    def close(self) -> None:
        """Nothing."""


def conditions(change: float = 0.0) -> Sequence[FixedCondition]:
    """Two pictures: rows 0, 1 of the negative side and 10, 11 of the positive one."""
    first = {Side.NEGATIVE: 0, Side.POSITIVE: 10}
    rows = {side: np.array([[0.0], [1.0]], np.float32) + one for side, one in first.items()}
    return [FixedCondition({side: {NAME: array + np.float32(change)} for side, array in rows.items()})]


def denoiser(scales: Sequence[float], interval: int, log: list[str]) -> CachedDenoiser:
    """Of eight steps with these weights of guidance."""
    steps = StepScales(scales=tuple(scales), ratios=tuple(level.ratio for level in LEVELS))
    keeping, shallow = (Recorded(log, shallow=shallow) for shallow in (False, True))
    return CachedDenoiser(keeping, shallow, conditions(), Guider(steps=steps), feature=FEATURE, interval=interval)


def answer(model: CachedDenoiser, index: int) -> None:
    """A model call at a step."""
    model(np.zeros((2, 4, 2, 2), np.float32), LEVELS[index])


def test_every_third_call_is_whole_and_rows_keep_their_own() -> None:
    """In two engine calls a step, as an engine holds two of the four rows."""
    log: list[str] = []
    model = denoiser([4.0] * 8, 3, log)
    for index in range(5):
        answer(model, index)
    kept, later = ["100 101", "210 211"], ["300 301", "410 411"]
    assert log == ["whole", "whole", *kept, *kept, "whole", "whole", *later]
    assert (model.whole_calls, model.engine_calls) == (2, 10)


def test_a_pass_without_a_feature_makes_a_call_whole() -> None:
    """Guidance that begins later; that ends, it goes on with the positive rows alone."""
    log: list[str] = []
    model = denoiser([1.0, 4.0, 1.0, 4.0, 1.0, 1.0, 1.0, 1.0], 4, log)
    for index in range(8):
        answer(model, index)
    both = ["200 201", "310 311"]
    assert log == ["whole", "whole", "whole", both[1], *both, both[1], "whole", "410 411", "410 411"][: len(log)]
    assert model.whole_calls == 3


def test_other_conditions_make_a_call_whole() -> None:
    """Another weight of guidance does not."""
    log: list[str] = []
    model, same = denoiser([1.0] * 8, 8, log), conditions()
    answer(model, 0)
    model.condition(same, model._guider)
    answer(model, 1)
    model.condition(same, model._guider)
    answer(model, 2)
    assert log == ["whole", "whole", "210 211"]


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"deep_cache": 0}, "got interval 0 of deep_cache, expected 1 to 1000"),
        ({"deep_cache": "3"}, "got deep_cache '3', expected a whole number, of so many model calls one"),
        ({"deep_cache": True}, "got deep_cache True, expected a whole number"),
        ({"deep_cache": {"interval": 2.5}}, "got interval of deep_cache 2.5, expected a whole number"),
        ({"deep_cache": {"every": 2}}, "got 'every' in deep_cache, expected some of interval, branch"),
        (
            {"deep_cache": latentrt.DeepCache(branch=2)},
            "got branch 2 of deep_cache, expected 0 or 1, which this model has",
        ),
        ({"deep_cache": latentrt.DeepCache(branch=-1)}, "got branch -1 of deep_cache"),
        ({"deep_cache": 3, "num_inference_steps": 8}, "got deep_cache in a run of 8 model calls, expected at least 9"),
    ],
)
def test_refused(tiny_pipe: latentrt.Pipeline, keywords: dict[str, Any], said: str) -> None:
    """Before anything is drawn."""
    with pytest.raises(latentrt.RequestError, match=said):
        tiny_pipe("a cat", **{**DRAW, **keywords})


def test_neutral_is_plain_and_pictures_say_what_is_not(tiny_pipe: latentrt.Pipeline) -> None:
    """An interval of 1 to the last bit; settings travel."""
    plain = tiny_pipe("a cat", **DRAW)
    neutral = tiny_pipe("a cat", **DRAW, deep_cache=1)
    np.testing.assert_array_equal(neutral.latents, plain.latents)
    assert "DeepCache" not in plain.metadata[0].parameters() + neutral.metadata[0].parameters()
    cached = tiny_pipe("a cat", **DRAW, deep_cache=pickle.loads(pickle.dumps(latentrt.DeepCache(interval=2))))
    assert 'DeepCache: "interval=2, branch=0"' in cached.metadata[0].parameters()
    assert not np.allclose(cached.latents, plain.latents, atol=1e-3)
    np.testing.assert_array_equal(tiny_pipe("a cat", **DRAW, deep_cache=2).latents, cached.latents)


@pytest.mark.slow
def test_with_what_else_a_call_says(tiny_bundle: Path, tiny_net: Path, tmp_path: Path) -> None:
    """Each of them changes the picture, too; LoRAs change both graphs."""
    edges = np.random.default_rng(3).integers(0, 256, (32, 32, 3), np.uint8)
    others: dict[str, dict[str, Any]] = {
        "a LoRA": {"loras": {"style": 0.8}},
        "a control net": {"control": latentrt.Control(tiny_net, edges, scale=0.7)},
        "PAG": {"pag_scale": 2.0},
        "FreeU": {"freeu": latentrt.FreeU(b1=1.2, b2=1.3, s1=0.9, s2=0.4)},
    }
    with latentrt.open(tiny_bundle, threads=1) as pipe:
        pipe.load_lora(save_tiny_lora(tmp_path / "style.safetensors", tiny_bundle))
        full = pipe("a cat", **DRAW).latents
        cached = pipe("a cat", **DRAW, deep_cache=2).latents
        for name, keywords in others.items():
            found = pipe("a cat", **DRAW, **keywords, deep_cache=2).latents
            whole = pipe("a cat", **DRAW, **keywords).latents
            # what it draws is what it does without, but for as much as is left out of the plain picture
            assert not np.allclose(found, cached, atol=1e-3), name
            assert 0.0 < np.abs(found - whole).mean() < np.abs(found - full).mean(), name


def test_each_pass_of_a_hires_fix_keeps_its_own(tiny_pipe: latentrt.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each begins with a whole call; a second pass that is too short has no others."""
    made: list[CachedDenoiser] = []

    def watched(*given: Any, **more: Any) -> CachedDenoiser:
        made.append(cached_denoiser(*given, **more))
        return made[-1]

    monkeypatch.setattr(deep_cache, "cached_denoiser", watched)
    for steps, whole in ((8, [3]), (10, [3, 4])):
        made.clear()
        hires = latentrt.Hires(scale=1.0, steps=steps, strength=1.0)
        tiny_pipe("a cat", **DRAW, deep_cache=3, hires=hires)
        assert [one.whole_calls for one in made] == whole


def test_a_run_that_a_callback_changes(tiny_pipe: latentrt.Pipeline) -> None:
    """Other embeddings on the way: the next call is whole, so what was kept of the others is not gone on from."""
    others = tiny_pipe.encode("a dog", negative_prompt="")

    def swap(_: Any, step: int, timestep: float, tensors: dict[str, Any]) -> dict[str, Any]:
        del timestep, tensors
        return dict(others) if step == 3 else {}

    names = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    swapped = tiny_pipe(
        "a cat", **DRAW, deep_cache=4, callback_on_step_end=swap, callback_on_step_end_tensor_inputs=names
    )
    assert not np.allclose(swapped.latents, tiny_pipe("a cat", **DRAW, deep_cache=4).latents, atol=1e-3)


def test_engines_without_the_graphs(tiny_copy: Path) -> None:
    """Of an older build draw plainly, are told what to do, and are made again by a build."""
    opened = open_bundle(tiny_copy)
    component = Component(root=opened.root, manifest=opened.manifest, name=UNET)
    folder = compiled_folder(component, Backend.ORT_CPU)
    graphs = [folder / "keeping.onnx", *sorted(folder.glob("shallow-*.onnx"))]
    assert len(graphs) == 3
    held = read_engine(folder)
    older = held.model_copy(update={"files": {name: one for name, one in held.files.items() if name != "keeping.onnx"}})
    assert [OrtCpu().would_improve(component, one) for one in (held, older)] == [False, True]
    with latentrt.open(tiny_copy, threads=1) as pipe:
        for path in graphs:
            path.unlink()
        with pytest.raises(latentrt.EngineError, match=r"without its graph keeping.*deep_cache.*run latentrt build"):
            pipe("a cat", **DRAW, deep_cache=3)
        assert pipe("a cat", **DRAW).latents.shape[0] == 1


def test_other_backends_say_which_one_does_it(tiny_pipe: latentrt.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one sentence, before the first model call."""
    assert not any(COMPILERS[one].deep_cache for one in (Backend.TENSORRT_RTX, Backend.ORT_CUDA))
    monkeypatch.setattr(type(COMPILERS[Backend.ORT_CPU]), "deep_cache", False)
    with pytest.raises(
        latentrt.EngineError, match="got deep_cache on backend ort-cpu, expected one of openvino, which do it"
    ):
        tiny_pipe("a cat", **DRAW, deep_cache=3)


def test_on_the_command_line(tiny_bundle: Path, command: Any, tmp_path: Path) -> None:
    """The same picture as the keyword draws."""
    options = ["--steps", 9, "--guidance", 4, "--sampler", "euler", "--seed", 3, "-o"]
    with latentrt.open(tiny_bundle, threads=1) as pipe:
        for text, keyword in (("3", 3), ("interval=2,branch=1", {"interval": 2, "branch": 1})):
            ran = command("generate", tiny_bundle, "a cat", "--deep-cache", text, *options, tmp_path / f"{text}.npy")
            assert ran.status == 0, ran.stderr
            expected = pipe("a cat", **DRAW, deep_cache=keyword).latents
            np.testing.assert_allclose(np.load(tmp_path / f"{text}.npy"), expected, rtol=0, atol=1e-4)


def test_in_json_and_in_forms() -> None:
    """A number, or fields by name."""
    for given, fields in ((3, [("deep_cache", "3")]), ({"interval": 2}, [("deep_cache[interval]", "2")])):
        body = {"prompt": "a cat", "deep_cache": given}
        assert JobRequest.model_validate(body).model_dump()["deep_cache"] == given
        assert values_from_form(fields) == {"deep_cache": given}
