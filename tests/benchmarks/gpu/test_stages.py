"""What stages find out, on a stand-in for a GPU and in small on the CPU; and that they fit together."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stand_ins import StandInRTX

from latentrt.benchmarks.gpu import __main__ as command
from latentrt.benchmarks.gpu import environment
from latentrt.benchmarks.gpu.model_stages import model_stages
from latentrt.benchmarks.gpu.models import Case, Model, Scale, families, models, small
from latentrt.benchmarks.gpu.places import Places
from latentrt.benchmarks.gpu.plan import BACKENDS, all_stages
from latentrt.benchmarks.gpu.runner import Limits, in_a_process, in_process, run_stages
from latentrt.benchmarks.gpu.stage import Settings, Stage
from latentrt.benchmarks.gpu.work import gpu_tests, making, peers, sharing, speed
from latentrt.benchmarks.gpu.work.pairs import Layers
from latentrt.benchmarks.report.gpu.schema import (
    SCHEMA,
    BackendRow,
    GpuResult,
    GpuTestRow,
    LanesRow,
    LoraRow,
    MadeRow,
    PairsRow,
    ParityRow,
    PeakRow,
    Row,
    SpeedRow,
    State,
    read_gpu_result,
)
from latentrt.benchmarks.studies.architectures import ARCHITECTURES
from latentrt.engines.backends.compiler import WeightsAs
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.precision import Backend

RTX = Backend.TENSORRT_RTX
TINY = Model(
    name="tiny",
    family="sd1",
    architecture=small(ARCHITECTURES["sd1"]),
    cases=(Case(steps=2), Case(steps=2, batch=2)),
    guidance=3.0,
    sampler="euler",
    lanes=(1, 2),
    loras=True,
)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """For a machine whose GPU is a stand-in; the peak and the memory are those of its tests."""
    compiler = StandInRTX()
    monkeypatch.setitem(COMPILERS, RTX, compiler)
    free = iter(range(10**9, 0, -(10**6)))
    for module in (speed, peers):
        monkeypatch.setattr(module, "free_memory", lambda: next(free))
        monkeypatch.setattr(module, "peak_of", lambda settings, precision: 1e12)
    return Settings(work=tmp_path, scale=Scale.SMALL, backends=("ort-cuda", RTX.value), device="cpu", runs=2)


def test_backends_that_work_and_why_others_do_not(settings: Settings) -> None:
    """Where one is not installed or has no GPU, its reason is the row's."""
    rows = {row.backend: row for row in environment.find_backends(settings) if isinstance(row, BackendRow)}
    assert rows[RTX.value].works
    assert rows[RTX.value].reason is None
    assert not rows["ort-cuda"].works
    assert rows["ort-cuda"].reason


def test_calls_on_a_stand_in(settings: Settings, planned_bundle: Path, tmp_path: Path) -> None:
    """Each case is drawn as on a GPU; step, share of the peak and memory follow from what was measured."""
    chosen = {"model": TINY, "precision": "fp16", "backend": RTX.value, "bundle": planned_bundle}
    np.save(tmp_path / "diffusers.npy", np.zeros((1, 32, 32, 3)))
    beside, first = speed.own_speed(settings, stage="speed", beside=tmp_path / "diffusers.npy", **chosen)
    (second,) = speed.own_speed(settings, stage="speed", beside=tmp_path / "diffusers.npy", batch=2, **chosen)
    assert isinstance(beside, ParityRow)
    assert beside.component == "picture beside diffusers"
    assert beside.psnr is not None
    assert isinstance(first, SpeedRow)
    assert isinstance(second, SpeedRow)
    assert (first.drawn.batch, second.drawn.batch) == (1, 2)
    assert len(first.call.samples) == 2
    assert first.unet_call is not None
    assert first.step is not None
    assert first.decode is not None
    assert first.unet_call.median < first.step.median < first.call.median
    assert first.host_share == pytest.approx(1 - first.unet_call.median / first.step.median)
    assert first.unet_flop is not None
    assert second.unet_flop == pytest.approx(2 * first.unet_flop)
    assert first.share_of_peak == pytest.approx(first.unet_flop / first.step.median / 1e12)
    assert (first.gpu_bytes, second.gpu_bytes) == (10**6, 10**6)


@pytest.mark.slow
def test_clients_and_loras_on_a_stand_in(settings: Settings, planned_bundle: Path, tmp_path: Path) -> None:
    """Engines are made and drawn with as on a GPU: each number of clients, and a set of LoRAs."""
    bundle = Path(shutil.copytree(planned_bundle, tmp_path / "fp16.bundle"))
    chosen = {"model": TINY, "precision": "fp16", "backend": RTX.value, "bundle": bundle}
    mark = tmp_path / "mark"
    built = {"model": TINY, "backend": RTX.value, "graphs": bundle, "batch": 1, "bundle": bundle}
    (made,) = making.make_engines(settings, stage="engines.tiny.fp16", mark=mark, **built)
    assert isinstance(made, MadeRow)
    assert made.bytes > 0
    assert mark.exists()

    one, two = sharing.lanes(settings, stage="lanes", **chosen)
    assert isinstance(one, LanesRow)
    assert isinstance(two, LanesRow)
    assert (one.clients, two.clients) == (1, 2)
    assert len(two.per_second.samples) == 2

    ready = tmp_path / "loras.bundle"
    for part in making.parts_of(RTX.value):
        lora = {**built, "bundle": ready, "mark": tmp_path / part, "part": part}
        (made,) = making.make_engines(settings, stage=f"engines.tiny.loras.{part}", weights=WeightsAs.INPUTS, **lora)
        assert isinstance(made, MadeRow)
        assert made.what == f"engines, loras.{part}"
        assert (tmp_path / part).exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", _refuse)  # a plan of a set of LoRAs would be built with a warning
        (cost,) = sharing.loras(settings, stage="loras", model=TINY, backend=RTX.value, bundle=ready)
    assert isinstance(cost, LoraRow)
    assert len(cost.adapted.samples) == 2
    assert len(cost.plain.samples) == 4


@pytest.mark.slow
def test_every_stage_of_a_model_on_a_stand_in(settings: Settings, exports: None) -> None:
    """In every precision, with plans of a fixed size, the U-Net's apart: they fit together, and all is removed."""
    model = replace(TINY, precisions=("fp16", "bf16", "int8", "fp8"), export_size=16)
    places = Places(work=settings.work, model=model.name)
    # The stand-in draws with ONNX Runtime, which has no bfloat16 on CPUs: plans are made of it, and not drawn with
    left_out = (peers.COMPILED, "bf16.tensorrt-rtx", "bf16-x2.tensorrt-rtx")
    stages = [
        stage
        for stage in model_stages(model, places, [RTX])
        if not (stage.name.startswith("speed.") and stage.name.endswith(left_out))
    ]
    empty = GpuResult(
        schema_version=SCHEMA, latentrt="0", created="now", scale="small", made_of="x", machine=environment.machine()
    )
    told: list[str] = []
    limits = Limits(stage=600.0)
    result = run_stages(stages, settings, empty, settings.work / "gpu.json", limits, in_process, told.append)
    assert [record for record in result.stages if record.state is not State.DONE] == []
    assert {(row.precision, row.layers) for row in result.rows if isinstance(row, PairsRow)} == {
        (precision, layers.value) for precision in ("int8", "fp8") for layers in Layers
    }
    beside = {
        row.precision: row.psnr
        for row in result.rows
        if isinstance(row, ParityRow) and row.component == "picture beside diffusers"
    }
    assert beside.keys() == {"fp16", "int8", "fp8"}
    assert min(psnr or 99.0 for psnr in beside.values()) > 20
    assert not any(places.group(precision, RTX.value).exists() for precision in model.precisions)


def test_a_bundle_of_the_size_that_is_drawn(settings: Settings, tiny_bundle: Path, tmp_path: Path) -> None:
    """The same files, but for the manifest; it is sealed anew, and its engines are its own."""
    wide = tmp_path / "wide.bundle"
    making.make_bundle(TINY, 4, tiny_bundle, wide)
    manifest, before = open_bundle(wide).manifest, open_bundle(tiny_bundle).manifest
    assert [str(profile) for profile in manifest.profiles] == ["32x32x4"]
    assert manifest.files == before.files
    weights = manifest.components["unet"].weights
    assert weights is not None
    assert (wide / weights).stat().st_size == (tiny_bundle / weights).stat().st_size
    assert not (wide / "engines").exists()
    assert len(before.profiles) == 2


def _refuse(message: object, *_: object, **__: object) -> None:
    raise AssertionError(message)


@pytest.mark.slow
def test_what_becomes_of_each_test(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As pytest tells it, one after the other, with the reason of those that did not pass."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\ntestpaths = tests\n")
    (tmp_path / "tests" / "test_some.py").write_text(
        "import pytest\npytestmark = pytest.mark.gpu\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 1 == 2\n"
        "def test_skipped(): pytest.skip('no GPU')\n"
        "@pytest.fixture\ndef broken(): raise ValueError('no device')\n"
        "def test_broken(broken): pass\n"
        "def test_other(): pass\n"
    )
    monkeypatch.setattr(gpu_tests, "_HOUSE", tmp_path)
    rows = list(gpu_tests.run_tests(settings, stage="tests.x", chosen="not other"))
    assert all(isinstance(row, GpuTestRow) for row in rows)
    told = {row.name: (row.outcome, row.reason or "") for row in rows if isinstance(row, GpuTestRow)}
    assert told["test_good"] == ("passed", "")
    assert told["test_bad"][0] == "failed"
    assert "assert 1 == 2" in told["test_bad"][1]
    assert told["test_skipped"][0] == "skipped"
    assert "no GPU" in told["test_skipped"][1]
    assert "no device" in told["test_broken"][1]
    assert len(told) == 4


def test_peaks_of_every_type_that_torch_has(settings: Settings) -> None:
    """In products of 64 rows here; what torch lacks has none."""
    rows = {row.what: row for row in environment.measure_peaks(settings) if isinstance(row, PeakRow)}
    assert {"float32", "copy"} <= rows.keys() <= {"float32", "float16", "bfloat16", "int8", "float8", "copy"}
    assert min(min(row.per_second.samples) for row in rows.values()) > 0
    assert environment.product_seconds(settings, "fp32")


def test_every_stage_has_what_it_needs_from_an_earlier_one(tmp_path: Path) -> None:
    """At both scales: names are unique, and nothing is needed that no stage before it makes."""
    for scale in Scale:
        settings = Settings(work=tmp_path, scale=scale, backends=(), device="cpu")
        stages = all_stages(settings, BACKENDS)
        assert len({stage.name for stage in stages}) == len(stages)
        made: set[Path] = set()
        for stage in stages:
            assert made.issuperset(stage.needs), stage.name
            made.update(stage.makes)
            made.difference_update(path for folder in stage.removes for path in tuple(made) if folder in path.parents)
        assert not made
    names = [stage.name for stage in stages]
    assert names.index("backends") < names.index("speed.sdxl.fp16.tensorrt") < names.index("clean.sdxl")
    assert not any("tensorrt" in stage.name for stage in all_stages(settings, [Backend.ORT_CUDA]))


def test_the_loop_on_the_device_is_measured_beside_the_one_on_the_host(tmp_path: Path) -> None:
    """Of pictures; with a plan of its own where backends compile that apart."""
    settings = Settings(work=tmp_path, scale=Scale.FULL, backends=(), device="cpu")
    names = {stage.name for stage in all_stages(settings, [Backend.TENSORRT, Backend.ORT_CUDA])}
    models_of = ("sd15", "sdxl", "sdxl-turbo")
    assert {name for name in names if name.endswith(".loop")} == {
        *(f"{kind}.{model}.fp16.tensorrt.loop" for kind in ("engines", "speed") for model in models_of),
        *(f"speed.{model}.fp16.ort-cuda.loop" for model in models_of),
    }


def test_models_in_small_differ_in_numbers_alone() -> None:
    """The same models and cases, of the same pipelines; every family there is."""
    for large, little in zip(models(Scale.FULL), models(Scale.SMALL), strict=True):
        assert [case.batch for case in large.cases] == [case.batch for case in little.cases]
        assert len(set(little.cases)) == len(large.cases)
        assert large.architecture.pipeline == little.architecture.pipeline
        assert large.architecture.unet.keys() <= little.architecture.unet.keys()
        assert large.batches == little.batches
    assert families().keys() == ARCHITECTURES.keys()
    video = next(model for model in models(Scale.FULL) if model.name == "svd-xt").profile()
    assert (video.width, video.height, video.frames) == (1024, 576, 25)


def test_places_are_a_model_s_own(tmp_path: Path) -> None:
    """Of each backend a folder for a precision, with bundles by the number of pictures and marks of their engines."""
    places = Places(work=tmp_path, model="sdxl")
    assert places.bundle("fp16", "tensorrt") != places.bundle("fp16", "ort-cuda")
    assert places.group("fp16", "tensorrt") in places.lora_bundle("tensorrt").parents
    assert places.folder in places.group("fp16", "tensorrt").parents
    bundles = places.bundle("fp16", "tensorrt"), places.bundle("fp16", "tensorrt", 4), places.lora_bundle("tensorrt")
    assert len({places.engines(bundle, part) for bundle in bundles for part in making.Part}) == 9


def run(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command, in this process."""
    monkeypatch.setattr(sys, "argv", ["gpu", *map(str, arguments)])
    command.main()


def test_the_command_names_stages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With those that make what the chosen ones need."""
    run("list", "--only", "speed.sdxl.int8.tensorrt", monkeypatch=monkeypatch)
    assert capsys.readouterr().out.split() == [
        "checkpoint.sdxl",
        "graphs.sdxl.fp32-unet",
        "graphs.sdxl.int8-tensorrt",
        "engines.sdxl.int8.tensorrt.unet",
        "engines.sdxl.int8.tensorrt.others",
        "speed.sdxl.int8.tensorrt",
    ]
    with pytest.raises(SystemExit):
        run("list", "--only", "nothing", monkeypatch=monkeypatch)
    assert "fits no stage" in capsys.readouterr().err


@pytest.mark.slow
def test_a_rehearsal_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exports: None) -> None:
    """All stages of two models, without torch.compile, and some others on the CPU; then nothing is left to do.

    All but the first are run in this process: starting a hundred takes longer than what they do.
    """
    monkeypatch.chdir(tmp_path)
    launched: list[str] = []

    def launch(stage: Stage, settings: Settings, limit: float) -> Iterator[Row]:
        launched.append(stage.name)
        return (in_a_process if stage.name == "backends" else in_process)(stage, settings, limit)

    monkeypatch.setattr(command, "_launched", launch)
    monkeypatch.setattr(peers, "PEERS", {peers.EAGER: peers.PEERS[peers.EAGER]})
    only = ["*emoji.fp32*", "*.sd15.*", "*.svd-xt.*", "clean.*", "parity.sdxl.*"]
    words = [word for pattern in only for word in ("--only", pattern)]
    rehearsed = ("--scale", "small", "--backend", "ort-cpu", "--device", "cpu", "--runs", 1, "--work", tmp_path / "gpu")
    run("run", *rehearsed, *words, monkeypatch=monkeypatch)
    result = read_gpu_result(tmp_path / "gpu" / "gpu.json")
    assert [record for record in result.stages if record.state is not State.DONE] == []
    kinds = {BackendRow, PeakRow, ParityRow, MadeRow, SpeedRow, LanesRow, LoraRow, PairsRow}
    assert {type(row) for row in result.rows} == kinds
    drawn = {(row.model, row.contender.name) for row in result.rows if isinstance(row, SpeedRow)}
    assert drawn == {(model, name) for model in ("sd15", "svd-xt") for name in ("latentrt", "diffusers")}
    beside = [row for row in result.rows if isinstance(row, ParityRow) and row.component.startswith("picture beside")]
    assert len(beside) == 4  # fp16 by both loops and int8, and the video
    assert min(row.psnr or 99.0 for row in beside) > 20
    assert not any((tmp_path / "gpu" / "models").iterdir())
    launched.clear()
    run("run", *rehearsed, *words, monkeypatch=monkeypatch)
    assert not launched
