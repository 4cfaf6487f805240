"""The frontier of int8: what is timed and drawn with, what is chosen, what the bundle says of it."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from shared import write_sealed

import latentrt
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.records.recipe import Recipe
from latentrt.engines.graphs.quantization.nodes import QuantizableNode
from latentrt.engines.precision import Backend, Precision
from latentrt.engines.progress import StageTimer
from latentrt.quantization import search
from latentrt.quantization.checkpoints import Checkpoints
from latentrt.quantization.frontier import FrontierPoint, best_point
from latentrt.quantization.judge import PictureQuality
from latentrt.quantization.search import Search, SearchResult
from latentrt.quantization.settings import Effort
from latentrt.quantization.timing import StepTime, paired_ratios, step_time_from_ratios

NODE = QuantizableNode(
    path="", name="", operator="Gemm", input="x", weight="", output="", shape=(1, 10), channels=1
)  # fmt: skip


def point(floating: int, step: float | None, mean: float | None, *, spread: float = 0.0) -> FrontierPoint:
    """With a worst picture 2 dB below the mean."""
    return FrontierPoint(
        floating=floating,
        time=None if step is None else StepTime(median=step, spread=spread),
        quality=None if mean is None else PictureQuality(mean=mean, worst=mean - 2.0, worst_prompt=""),
    )


@pytest.mark.parametrize(
    ("points", "chosen"),
    [
        ([point(0, None, 29.0), point(4, None, 31.0)], 4),
        ([point(0, 0.5, 31.0), point(4, 0.505, 34.0)], 4),  # as fast, within 2 %
        ([point(0, 0.5, 31.0), point(4, 0.52, 34.0)], 0),
        ([point(0, 0.5, 31.0, spread=0.03), point(4, 0.52, 34.0)], 4),  # nobody can tell
        ([point(0, 0.5, 31.0, spread=0.2), point(4, 0.54, 34.0)], 0),  # nor may a busy machine hide anything
        ([point(0, 0.5, 31.0), point(4, 0.4, 30.5)], 4),
        ([point(0, 0.3, 29.0), point(4, 0.5, 31.0)], 4),  # too far is not chosen, however fast
        ([point(0, 0.5, 31.0), point(4, 0.6, None)], 0),
        ([point(0, 0.5, 20.0), point(4, 0.5, 21.0)], None),
    ],
)
def test_the_fastest_that_is_good_enough(points: list[FrontierPoint], chosen: int | None) -> None:
    """Of several that are as fast the nearest to fp32."""
    best = best_point(points, 30.0)
    assert (None if best is None else best.floating) == chosen


def test_pairs_of_calls() -> None:
    """Both run in turn, either first; the median and half of the distances come of it."""
    calls: list[str] = []

    def engine(name: str) -> Any:
        return SimpleNamespace(run=lambda inputs: calls.append(name))

    done: list[int] = []
    ratios = paired_ratios(engine("int8"), engine("fp32"), {}, 2, done.append)
    assert calls == ["int8", "fp32", "fp32", "int8", "int8", "fp32"]
    assert (ratios.shape, done) == ((2,), [1, 2])
    assert (ratios > 0.0).all()
    assert step_time_from_ratios(np.array([0.5, 0.7, 0.4])) == StepTime(median=0.5, spread=pytest.approx(0.1))


class Tried:
    """A search over sixty nodes whose graphs are numbers: how many nodes are in floating point."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, steps: Mapping[int, float], means: Mapping[int, float]
    ) -> None:
        self.timed: list[int] = []
        self.drawn: list[int] = []
        self.written: list[int] = []
        nodes = tuple(dataclasses.replace(NODE, name=str(n), path=str(n)) for n in range(60))
        monkeypatch.setattr(search, "write_quantized", lambda _, kept, *__: self.written.append(60 - len(kept)))
        monkeypatch.setattr(search, "compiled_graph", self._compiled)
        settings = SimpleNamespace(
            precision=Precision.INT8, recipe="u8s8", judged_on=Backend.ORT_CPU, effort=Effort(pairs=1), pictures=1,
            calibration=SimpleNamespace(prompt_of=str),
        )  # fmt: skip
        self._search: Any = {
            "quantization": SimpleNamespace(
                checkpoints=Checkpoints(folder / "work", {}), settings=settings, progress=StageTimer()
            ),
            "part": SimpleNamespace(
                name="unet", nodes=nodes, weights=None, weight_share=lambda floating: len(floating) / 60
            ),
            "rounding": SimpleNamespace(
                inputs={}, outputs={}, attentions=(), scores={node.path: -float(node.path) for node in nodes}
            ),
            "psnrs": lambda count: self._drew(count, means),
            "ratios": lambda count: self._took(count, steps),
            "finish": lambda _: None,
            "saved_as": "judged",
        }  # fmt: skip
        self._folder = folder

    def run(self, required: float) -> SearchResult:
        """A search from what was saved."""
        return Search(required=required, **self._search).run(self._folder)

    @contextmanager
    def _compiled(self, *_: Any) -> Iterator[int]:
        yield self.written[-1]

    def _drew(self, count: int, means: Mapping[int, float]) -> Iterator[float]:
        self.drawn.append(count)
        yield means[count]

    def _took(self, count: int, steps: Mapping[int, float]) -> Any:
        self.timed.append(count)
        return np.array([steps[count]])


STEPS = {0: 0.40, 4: 0.41, 8: 0.408, 16: 0.5, 32: 0.6}
MEANS = {0: 28.0, 4: 31.0, 8: 33.0, 16: 36.0, 32: 40.0}


def test_what_follows_the_first_is_drawn_with_unless_it_is_slower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first too slow one ends the search; what is chosen lies in the folder, and nothing is measured twice."""
    tried = Tried(tmp_path, monkeypatch, STEPS, MEANS)
    result = tried.run(30.0)
    assert (tried.timed, tried.drawn) == ([0, 4, 8, 16], [0, 4, 8])
    assert tried.written == [0, 4, 8, 16, 8]
    assert result.floating is not None
    assert (len(result.floating), result.quality.mean) == (8, 33.0)
    records = [one.record() for one in result.points]
    assert [(row.floating, row.step, row.psnr_mean) for row in records if row] == [
        (0, 0.40, 28.0),
        (4, 0.41, 31.0),
        (8, 0.408, 33.0),
        (16, 0.5, None),
    ]
    tried.written.clear()
    again = tried.run(30.0)
    assert (tried.timed, tried.drawn, tried.written) == ([0, 4, 8, 16], [0, 4, 8], [8])
    assert again == result
    better = tried.run(35.0)  # what was too slow for less is drawn with for more
    assert better.floating is not None
    assert (len(better.floating), tried.drawn) == (16, [0, 4, 8, 16])
    missed = tried.run(41.0)
    assert missed.floating is None
    assert (missed.quality.mean, tried.drawn) == (36.0, [0, 4, 8, 16])


def test_no_more_than_two_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that is drawn with takes as long as judging does."""
    tried = Tried(tmp_path, monkeypatch, dict.fromkeys(STEPS, 0.5), MEANS)
    result = tried.run(20.0)
    assert tried.drawn == [0, 4, 8]
    assert result.quality.mean == 33.0


def test_the_bundle_tells(int8_bundle: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    """What was tried, and which of it was chosen; a bundle that says nothing of it is read as it was."""
    assert open_bundle(int8_bundle).manifest.components["unet"].quantization.frontier == ()  # type: ignore[union-attr]
    manifest = json.loads((int8_bundle / "bundle.json").read_text("utf-8"))
    told = manifest["components"]["unet"]["quantization"]
    floating = sum(not node["rounded"] for node in told["nodes"].values())
    row = {"spread": 0.02, "psnr_mean": 33.3, "psnr_worst": 27.8}
    told["frontier"] = [
        {**row, "floating": floating, "step": 0.56},
        {**row, "floating": floating + 4, "step": 0.71, "psnr_mean": None, "psnr_worst": None},
    ]
    folder = shutil.copytree(int8_bundle, tmp_path / "told.bundle", ignore=shutil.ignore_patterns("engines"))
    write_sealed(folder / "bundle.json", manifest)
    shown = command("inspect", folder).stdout.splitlines()
    (chosen,) = (line for line in shown if "chosen" in line)
    assert all(text in chosen for text in (str(floating), "0.56", "33.3", "27.8"))
    assert any("0.71" in line and "slower" in line for line in shown)


@pytest.mark.slow
def test_a_build_finds_it(
    emoji_bundle: Path, int8_prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each component has times; the figures of the one that was chosen are the component's own."""
    monkeypatch.setattr("latentrt.quantization.settings.EFFORT", Effort(steps=2, pictures=2, calls=0, pairs=1))
    source = shutil.copytree(emoji_bundle, tmp_path / "fp32.bundle")
    made = latentrt.build(source, tmp_path / "int8.bundle", precision="int8", prompts=int8_prompts, quality=10.0)
    for name in ("unet", "vae_decoder"):
        told = made.bundle.manifest.components[name].quantization
        assert told is not None
        assert 1 < len(told.frontier) <= 3
        floating = sum(not node.rounded for node in told.nodes.values())
        (chosen,) = (row for row in told.frontier if row.floating == floating)
        assert (chosen.psnr_mean, chosen.psnr_worst) == (told.psnr_mean, told.psnr_worst)
        assert chosen.step > 0.0


@pytest.mark.slow
def test_openvino_judges_its_own(
    emoji_bundle: Path, int8_prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]
) -> None:
    """Its bundle says who drew, and ONNX Runtime, which has no such convolutions, refuses it."""
    pytest.importorskip("openvino")
    monkeypatch.setattr("latentrt.quantization.settings.EFFORT", Effort(steps=2, pictures=2, calls=0))
    source, output = shutil.copytree(emoji_bundle, tmp_path / "fp32.bundle"), tmp_path / "int8.bundle"
    wishes: dict[str, Any] = {"precision": "int8", "backend": "openvino", "prompts": int8_prompts, "quality": 10.0}
    made = latentrt.build(source, output, **wishes)
    for name in ("unet", "vae_decoder"):
        told = made.bundle.manifest.components[name].quantization
        assert told is not None
        assert told.backend is Backend.OPENVINO
        assert told.recipe in (Recipe.U8S8_INPUTS, Recipe.U8S8_REDUCED)
        assert told.psnr_mean > 20.0
    assert latentrt.build(source, output, **wishes).up_to_date
    refused = command("build", output, "--backend", "ort-cpu")
    assert ("expected openvino" in refused.stderr) is (told.recipe is Recipe.U8S8_INPUTS)
