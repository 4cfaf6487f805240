"""``--sparsity 2:4``: how many layers are pruned, what the bundle says, and what is refused."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from shared import no_preview_fitted, write_sealed
from tiny_loras import save_tiny_lora

import latentrt
from latentrt.arguments.loras import loras_from_arguments
from latentrt.building.loras import changes_from_loras
from latentrt.building.result import Build
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.sparsity import Sparsity
from latentrt.engines.changes import Changes
from latentrt.engines.errors import BundleError, ParityError, RequestError
from latentrt.engines.graphs.quantization.nodes import OnnxWeights
from latentrt.engines.precision import Backend, Precision
from latentrt.engines.progress import StageTimer
from latentrt.engines.pruning.two_of_four import is_two_of_four
from latentrt.engines.store.components import OpenComponents
from latentrt.engines.store.store import identity_of
from latentrt.quantization.calibration import CalibrationSet
from latentrt.quantization.judge import PictureQuality
from latentrt.quantization.observe import observe
from latentrt.quantization.psnr import picture_psnr
from latentrt.quantization.settings import Effort
from latentrt.runtime.adapters.formats.model_weights import model_weights_of
from latentrt.sparsity.pruning import pruning_of_bundle
from latentrt.sparsity.scores import layer_scores, pruned_layers
from latentrt.sparsity.search import SHARES, SparsitySearch
from latentrt.sparsity.settings import SparsitySettings, sparsity_request_from_arguments

WARNED = "zeros among the weights make no call faster on ort-cpu"
pytestmark = pytest.mark.filterwarnings(f"ignore:{WARNED}")


class Judged:
    """Ten layers of a tenth each, the first the cheapest; pictures lose with each that is pruned."""

    def __init__(self, means: Callable[[int], float]) -> None:
        self.asked: list[int] = []
        self._means = means
        self.layers: list[Any] = [SimpleNamespace(path=str(index)) for index in range(10)]

    def search(self, required: float) -> SparsitySearch:
        return SparsitySearch(
            layers=self.layers[::-1],
            scores={layer.path: 1.0 + int(layer.path) for layer in self.layers},
            shares=dict.fromkeys((layer.path for layer in self.layers), 0.1),
            judge=self._judge,
            required=required,
        )

    def _judge(self, layers: Sequence[Any]) -> PictureQuality:
        assert [layer.path for layer in layers] == [str(index) for index in range(len(layers))]
        self.asked.append(len(layers))
        mean = self._means(len(layers))
        return PictureQuality(mean=mean, worst=mean - 5.0, worst_prompt="a cat")


def test_ever_fewer_layers_until_pictures_are_good_enough_and_a_few_more_again() -> None:
    """The cheapest first; all that was tried is told, the most first, and nothing is judged twice."""
    judged = Judged(lambda count: 40.0 - 2.0 * count)
    chosen, points = judged.search(28.0).run()
    assert chosen is not None
    assert judged.asked == [10, 7, 5, 6]
    assert (len(chosen.layers), chosen.share, chosen.quality.mean) == (6, pytest.approx(0.6), 28.0)
    assert [len(point.layers) for point in points] == [10, 7, 6, 5]
    told = points[0].record().model_dump()
    assert told == pytest.approx({"layers": 10, "share": 1.0, "psnr_mean": 20.0, "psnr_worst": 15.0})


def test_all_layers_where_pictures_bear_it() -> None:
    """Then one point is all."""
    judged = Judged(lambda count: 35.0)
    chosen, points = judged.search(30.0).run()
    assert chosen is points[0]
    assert judged.asked == [10]


def test_no_layers_where_none_can_be_borne() -> None:
    """What was tried is still told; shares too small for a layer are not judged."""
    judged = Judged(lambda count: 20.0)
    chosen, points = judged.search(30.0).run()
    assert chosen is None
    assert judged.asked == [int(10 * share + 1e-9) for share in SHARES if share >= 0.1]
    assert len(points) == len(judged.asked)


def test_a_layer_that_costs_much_ends_it() -> None:
    """No dearer one takes the room that is left behind it."""
    judged = Judged(lambda count: 30.0)
    judged.layers = judged.layers[:3]
    search = SparsitySearch(
        layers=judged.layers,
        scores={"0": 0.1, "1": 1.0, "2": 5.0},
        shares={"0": 0.2, "1": 0.7, "2": 0.1},
        judge=judged._judge,
        required=30.0,
    )
    assert [layer.path for layer in search.within(0.5)] == ["0"]
    assert [layer.path for layer in search.within(1.0)] == ["0", "1", "2"]


def no_scores(_: Any, __: Any, pruned: Mapping[str, Any], ___: Any) -> dict[str, float]:
    """Every layer costs the same: measuring is a test of its own."""
    return dict.fromkeys(pruned, 0.0)


def test_a_pruned_bundle(pruned_bundle: Path, tiny_bundle: Path, command: Callable[..., Any]) -> None:
    """Its weights are the whole ones' or zero, two of four in the layers it names; it draws, and tells of all that."""
    bundle, whole = open_bundle(pruned_bundle), open_bundle(tiny_bundle)
    record = bundle.manifest.components["unet"].sparsity
    assert record is not None
    assert record.pattern is Sparsity.TWO_OF_FOUR
    assert all(layer.pruned for layer in record.layers.values())
    assert [(point.layers, point.psnr_mean) for point in record.frontier] == [(len(record.layers), record.psnr_mean)]
    assert 0.9 < record.share <= 1.0
    new, old = bundle.weights("unet"), whole.weights("unet")
    zeros = 0
    for name, row in old.named.weights.items():
        if not row.places:
            continue
        before, after = old.array(name), new.array(name)
        changed = before != after
        assert not after[changed].any()
        zeros += np.count_nonzero(changed)
        if changed.any():
            assert is_two_of_four(after)
    graph = OnnxWeights(Component(root=pruned_bundle, manifest=bundle.manifest, name="unet").onnx)
    prunable = sum(node.parameters for node in graph.quantizable() if node.path in record.layers)
    assert zeros == pytest.approx(prunable / 2, rel=1e-3)
    with latentrt.open(pruned_bundle) as pipe:
        assert np.isfinite(pipe("a cat", num_inference_steps=1, seed=1).latents).all()
    shown = command("inspect", str(pruned_bundle)).stdout
    assert f"unet pruned to 2:4: {len(record.layers)} of {len(record.layers)} layers" in " ".join(shown.split())
    assert "ort-cpu: not faster for it" in shown
    described = json.loads(command("inspect", str(pruned_bundle), "--json").stdout)
    assert described["components"]["unet"]["sparsity"]["pattern"] == "2:4"
    assert described["components"]["vae_decoder"]["sparsity"] is None


def test_engines_of_pruned_weights_are_their_own(pruned_bundle: Path, tiny_bundle: Path) -> None:
    """The pattern is part of the U-Net's key, and of no other component's."""
    from latentrt.engines.backends.registry import COMPILERS

    for name, expected in (("unet", {"sparsity": "2:4"}), ("vae_decoder", {})):
        component = Component(root=pruned_bundle, manifest=open_bundle(pruned_bundle).manifest, name=name)
        flags = dict(identity_of(component, COMPILERS[Backend.ORT_CPU], "here").flags)
        assert {key: flags[key] for key in flags if key == "sparsity"} == expected


def test_loras_are_added_in_full(pruned_bundle: Path, tmp_path: Path) -> None:
    """Zeros that a LoRA touches are filled: the sum is what it would be of any weights."""
    lora = save_tiny_lora(tmp_path / "style.safetensors", pruned_bundle, components=("unet",))
    weights = open_bundle(pruned_bundle).weights("unet")
    changes = changes_from_loras(loras_from_arguments([lora]), *model_weights_of(open_bundle(pruned_bundle)))["unet"]
    for name, change in changes.weights.items():
        before = weights.array(name)
        zeros = before == 0.0
        assert np.count_nonzero(zeros) == before.size // 2
        assert np.count_nonzero(change(before)[zeros]) > 0.99 * np.count_nonzero(zeros)
    with pytest.raises(RequestError, match="zeros among its weights, which LoRAs would fill; fuse them into the"):
        latentrt.build(pruned_bundle, tmp_path / "fused.bundle", loras=[lora])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": "1:2"}, "got sparsity '1:2', expected"),
        ({"sparsity": "2:4", "precision": "bf16"}, "sparsity 2:4 for precision bf16, expected fp32, fp16"),
        ({"sparsity": "2:4", "quality": 120.0}, "got quality 120 dB, expected above 0 and below 99"),
        ({"sparsity": "2:4", "precision": "fp16"}, "got precision fp16 and sparsity for a bundle in fp32"),
        ({"sparsity": "2:4", "profiles": ["64x64"]}, "which keeps its own with zeros among its weights"),
        ({"sparsity": "2:4", "fastest": True}, "got sparsity beside fastest"),
    ],
)
def test_wishes_that_cannot_be_met(arguments: dict[str, Any], message: str, tiny_bundle: Path, tmp_path: Path) -> None:
    """Each is refused before anything is drawn."""
    with pytest.raises(RequestError, match=message):
        latentrt.build(tiny_bundle, tmp_path / "made.bundle", **arguments)
    assert not (tmp_path / "made.bundle").exists()


def test_a_pruned_bundle_is_no_source(pruned_bundle: Path, tmp_path: Path) -> None:
    """What is judged by pictures of all weights is made of these; and nothing is pruned twice."""
    for arguments, message in (
        ({"sparsity": "2:4"}, "is pruned already"),
        ({"precision": "int8"}, "got precision int8 for .* pruned to 2:4.*with --sparsity beside it"),
        ({"precision": "bf16"}, "got precision bf16 for .* pruned to 2:4"),
        ({"fastest": True}, "got fastest for .* pruned to 2:4"),
    ):
        with pytest.raises(RequestError, match=message):
            latentrt.build(pruned_bundle, tmp_path / "made.bundle", **arguments)  # type: ignore[arg-type]


def test_lora_ready_plans_have_no_zeros_to_see(pruned_bundle: Path) -> None:
    """Weights as inputs could be anything; a plan of weights as constants is built."""
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(RequestError, match="got lora-ready for sparsity 2:4"):
        latentrt.build(pruned_bundle, backend="tensorrt-rtx", gpus=["sm89"], lora_ready=True)


def test_room_for_rounding() -> None:
    """Where eight bits follow, pruning alone must be better than both together; the asked quality is theirs."""
    request = sparsity_request_from_arguments(Sparsity.TWO_OF_FOUR, Precision.INT8, None, 28.0)
    assert request is not None
    settings = SparsitySettings(
        pattern=request.pattern,
        calibration=CalibrationSet(prompts=("a cat",), steps=2),
        effort=request.effort,
        quality=28.0,
    )
    assert settings.leaving_room().quality == 31.0
    assert sparsity_request_from_arguments(None, None, None, None) is None


def test_scores_are_what_pruning_a_layer_moves(tiny_bundle: Path, tmp_path: Path) -> None:
    """Measured by a call with that layer pruned alone; those of a killed build are taken again."""
    settings = SparsitySettings(
        pattern=Sparsity.TWO_OF_FOUR,
        calibration=CalibrationSet(prompts=("a cat",), steps=1),
        effort=Effort(steps=1, pictures=1, calls=1),
        quality=30.0,
    )
    pruning = pruning_of_bundle(open_bundle(tiny_bundle), settings, tmp_path, StageTimer())
    with closing(OpenComponents(pruning.base, Backend.ORT_CPU, threads=None)) as engines:
        observations = observe(pruning, engines)["unet"]
        object.__setattr__(pruning, "layers", pruning.layers[:2])
        how = pruned_layers(pruning, observations)
        scores = layer_scores(pruning, engines, how, observations)
        (call,) = observations.calls
        first, second = pruning.layers
        exact = pruning.engine(engines).run(call)["out_sample"]
        zeros = Changes(key="by hand", weights={first.weight: how[first.path]})
        moved = pruning.engine(engines, zeros).run(call)["out_sample"] - exact
        ratio = scores[first.path] / float(np.sqrt(np.mean(np.square(moved))))
        assert ratio > 0.0
        zeros = Changes(key="by hand, too", weights={second.weight: how[second.path]})
        moved = pruning.engine(engines, zeros).run(call)["out_sample"] - exact
        assert scores[second.path] / float(np.sqrt(np.mean(np.square(moved)))) == pytest.approx(ratio, rel=1e-4)
        pruning.checkpoints.save("scores", {path: np.array(7.0) for path in scores})
        assert layer_scores(pruning, engines, how, observations) == dict.fromkeys(scores, 7.0)


@pytest.mark.slow
def test_a_quality_out_of_reach_fails_and_says_what_was_reached(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the least that is tried."""
    monkeypatch.setattr("latentrt.sparsity.settings.EFFORT", Effort(steps=1, pictures=1, calls=1))
    monkeypatch.setattr("latentrt.sparsity.pruner.layer_scores", no_scores)
    monkeypatch.setattr("latentrt.sparsity.search.SHARES", (0.25,))
    (tmp_path / "prompts.txt").write_text("a cat\n", "utf-8")
    with pytest.raises(ParityError, match=r"layers pruned reached a mean of .* dB .*expected 98 dB.*--quality"):
        latentrt.build(
            tiny_bundle, tmp_path / "made.bundle", sparsity="2:4", prompts=tmp_path / "prompts.txt", quality=98.0
        )
    assert not (tmp_path / "made.bundle").exists()


@pytest.mark.slow
def test_pruned_and_rounded(
    emoji_bundle: Path, int8_prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights in int8 have the zeros; figures are against all weights in fp32; a second build finds it done."""
    effort = Effort(steps=2, pictures=3, calls=1)
    monkeypatch.setattr("latentrt.sparsity.settings.EFFORT", effort)
    monkeypatch.setattr("latentrt.quantization.settings.EFFORT", effort)
    source, made = shutil.copytree(emoji_bundle, tmp_path / "whole.bundle"), tmp_path / "both.bundle"

    def build() -> Build:
        return latentrt.build(source, made, sparsity="2:4", precision="int8", prompts=int8_prompts, quality=22.0)

    assert not build().up_to_date
    assert build().up_to_date
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".both")} <= {".both.bundle.lock"}
    bundle = open_bundle(made)
    unet = bundle.manifest.components["unet"]
    assert unet.sparsity is not None
    assert unet.quantization is not None
    assert (unet.precision, unet.sparsity.quality, unet.quantization.quality) == ("int8", 25.0, 22.0)
    rounded = bundle.weights("unet").named.rounded
    pruned = {path for path, layer in unet.sparsity.layers.items() if layer.pruned}
    sparse = 0
    for row in rounded.values():
        stored = np.memmap(made / row.file, np.int8, "r", row.offset, row.shape)
        whole = is_two_of_four(stored, 1 - row.axis)
        sparse += whole
        assert whole or not any(path.endswith(row.weight.removesuffix(".weight")) for path in pruned)
    assert sparse >= sum(
        layer.pruned and unet.quantization.nodes[p].rounded for p, layer in unet.sparsity.layers.items()
    )
    calibration = CalibrationSet(prompts=("a cat", "red apple", "an astronaut riding a horse"), steps=2)
    assert calibration.sha256 == unet.quantization.prompts_sha256
    with latentrt.open(made) as pipe, latentrt.open(emoji_bundle) as exact:
        pictures = [
            [image for batch in calibration.judging(one, 0, 3) for image in batch.images] for one in (pipe, exact)
        ]
    mean = np.mean([picture_psnr(*both) for both in zip(*pictures, strict=True)])
    assert unet.quantization.psnr_mean == pytest.approx(mean, abs=0.05)


@pytest.mark.slow
def test_from_a_model_in_fp16(
    tiny_checkpoint: Path, exports: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zeros and half the bytes; a build without sparsity, or with another quality, does not take it for its own."""
    monkeypatch.setattr("latentrt.sparsity.settings.EFFORT", Effort(steps=2, pictures=1, calls=1))
    (tmp_path / "prompts.txt").write_text("a cat\n", "utf-8")
    made = tmp_path / "made.bundle"

    def build(**arguments: Any) -> Build:
        return latentrt.build(tiny_checkpoint, made, precision="fp16", profiles=["32x32"], **arguments)

    asked: dict[str, Any] = {"sparsity": "2:4", "prompts": tmp_path / "prompts.txt", "quality": 0.5}
    with no_preview_fitted():
        assert not build(**asked).up_to_date
        assert build(**asked).up_to_date
        bundle = open_bundle(made)
        unet = bundle.manifest.components["unet"]
        assert unet.sparsity is not None
        assert unet.precision == "fp16"
        weights = bundle.weights("unet")
        assert is_two_of_four(weights.array("mid_block.resnets.0.conv1.weight"))
        assert weights.array("mid_block.resnets.0.conv1.weight").dtype == np.float16
        assert not build(**{**asked, "quality": 0.6}).up_to_date
        assert not build().up_to_date
    assert open_bundle(made).manifest.components["unet"].sparsity is None


class Replacing:
    """Another bundle takes the source's place in a stage with these words in its name."""

    def __init__(self, source: Path, stage: str) -> None:
        self._source, self._stage = source, stage

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if self._stage in name:
            manifest = json.loads((self._source / "bundle.json").read_text("utf-8"))
            manifest["source"]["revision"] = "another"
            write_sealed(self._source / "bundle.json", manifest)
        yield

    def phase(self, name: str, done: int, total: int) -> None:
        pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "precision"), [("layers pruned", None), ("unet: compile", None), ("unet: int8 with", "int8")]
)
def test_a_source_that_is_replaced_meanwhile(
    stage: str, precision: str | None, tiny_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No bundle is made of two, also where eight bits are made of what was pruned of it."""
    effort = Effort(steps=1, pictures=1, calls=1)
    monkeypatch.setattr("latentrt.sparsity.settings.EFFORT", effort)
    monkeypatch.setattr("latentrt.quantization.settings.EFFORT", effort)
    monkeypatch.setattr("latentrt.sparsity.pruner.layer_scores", no_scores)
    (tmp_path / "prompts.txt").write_text("a cat\n", "utf-8")
    made, kept = tmp_path / "made.bundle", ["vae_decoder"] if precision else []
    wishes: dict[str, Any] = {"prompts": tmp_path / "prompts.txt", "quality": 0.5, "fp32": kept}
    with pytest.raises(BundleError, match="built anew while another bundle was made of it"):
        latentrt.build(
            tiny_copy, made, sparsity="2:4", precision=precision, progress=Replacing(tiny_copy, stage), **wishes
        )
    assert not made.exists()
