"""``latentrt build … --backend tensorrt-rtx --gpu …`` on a machine without a GPU: real plans, looked at and refused."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import TINY
from rich.console import Console
from rich.progress import Progress
from shared import filled_once
from stand_ins import StandInRTX
from stub_export import stub_exporter

import latentrt
from latentrt.cli import terminal
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.backends.tensorrt.contents import counts_with_weights
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.checked_files import file_faults, record_files
from latentrt.engines.bundle.checks.probes import read_probes, write_probes
from latentrt.engines.bundle.component import Component
from latentrt.engines.bundle.records.manifests.engine_manifest import EngineManifest
from latentrt.engines.machine import gpu_machine
from latentrt.engines.precision import Backend
from latentrt.engines.shapes import Shapes
from latentrt.engines.store.store import engines_in
from latentrt.verifying import verify

pytest.importorskip("tensorrt_rtx")

GPUS = ("sm89", "sm120")
# Fixtures of bundles that plans are built from, beside every family's tiny one
BUNDLES = ("emoji_bundle", "half_xl_bundle")
_DTYPES = {"fp32": "float32", "fp16": "float16"}


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A bundle with plans for every architecture beside its engines for the CPU."""

    root: Path

    @property
    def plans(self) -> list[EngineManifest]:
        """The records of its plans."""
        return [engine for engine in engines_in(self.root) if engine.backend == Backend.TENSORRT_RTX]


@pytest.fixture(scope="module")
def half_xl_bundle(family_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny SDXL in fp16; its autoencoder stays in fp32."""
    folder = tmp_path_factory.mktemp("bundles") / "half_xl.bundle"
    latentrt.build(family_checkpoint("sdxl"), folder, precision="fp16", profiles=["32x32", "48x32x2"])
    return folder


OFTEN = ("sdxl-refiner",)  # pooled states and time ids


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow) for name in (*BUNDLES, *reversed(TINY))
    ],
)
def compiled(
    request: pytest.FixtureRequest,
    family_bundle: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Compiled:
    """Each bundle, compiled once; families backwards, so that another process that builds them is met halfway."""
    source: Path = request.getfixturevalue(request.param) if request.param in BUNDLES else family_bundle(request.param)
    root = shutil.copytree(source, tmp_path_factory.mktemp("compiled") / "x.bundle")
    assert not latentrt.build(root, backend="tensorrt-rtx", gpus=GPUS).up_to_date
    return Compiled(root=root)


def test_every_component_has_a_plan_for_every_gpu(compiled: Compiled) -> None:
    """Each under its own key, marked as not measured, and not made again."""
    components = open_bundle(compiled.root).manifest.components
    places = {(plan.component, plan.machine) for plan in compiled.plans}
    assert places == {(name, gpu_machine(gpu)) for name in components for gpu in GPUS}
    assert len({plan.key for plan in compiled.plans}) == len(compiled.plans) == len(components) * len(GPUS)
    assert {plan.parity for plan in compiled.plans} == {None}
    assert latentrt.build(compiled.root, backend="tensorrt-rtx", gpus=GPUS[:1]).up_to_date


def test_tensors_are_those_of_the_bundle(compiled: Compiled) -> None:
    """Names, dtypes and static shapes at every profile, batch included."""
    manifest = open_bundle(compiled.root).manifest
    for plan in compiled.plans:
        assert plan.contents is not None
        component = Component(root=compiled.root, manifest=manifest, name=plan.component)
        assert {profile for shape in plan.contents.shapes for profile in shape.profiles} == set(manifest.profiles)
        assert plan.shapes == tuple(map(str, manifest.profiles))
        for shape in plan.contents.shapes:
            batch = max(profile.batch for profile in shape.profiles) * component.record.batch_per_picture
            spec = manifest.spec(plan.component, Shapes(profile=shape.profiles[0]), (batch,))
            for records, tensors in ((shape.inputs, spec.inputs), (shape.outputs, spec.outputs)):
                assert {name: (record.shape, record.dtype) for name, record in records.items()} == {
                    name: (tensor.sized(batch), tensor.dtype.name) for name, tensor in tensors.items()
                }


def test_layers_have_the_precision_that_was_asked_for(compiled: Compiled) -> None:
    """Of the layers with weights; and nothing of the graph was folded away."""
    for plan in compiled.plans:
        assert plan.contents is not None
        counts = counts_with_weights(plan.contents.layers)
        total, asked = sum(counts.values()), _DTYPES[plan.precision.value]
        assert total > 10
        assert counts[asked] > total / 2
        assert plan.precision.value == "fp16" or counts == {asked: total}
        kinds = {"unet": "ATTENTION_INPUT", "vae_encoder": "CONVOLUTION", "vae_decoder": "CONVOLUTION"}
        assert plan.contents.layers[kinds.get(plan.component, "ATTENTION_INPUT")]


def test_plans_hold_their_weights(compiled: Compiled) -> None:
    """A plan is at least as large as what it must remember, and has its digest."""
    manifest = open_bundle(compiled.root).manifest
    for plan in compiled.plans:
        weights = manifest.components[plan.component].weights
        assert weights is not None
        assert plan.files["model.plan"].size > manifest.files[weights].size
        assert not file_faults(compiled.root / "engines" / plan.key, plan.files, largest_hashed=None)


def test_plans_are_refused_here_and_the_cpu_goes_on(compiled: Compiled, no_gpu: None) -> None:
    """By name with the reason; auto takes what runs; verify looks at all files and runs what runs."""
    with pytest.raises(latentrt.EngineError, match=r"found no NVIDIA GPU.*a backend for CPUs"):
        latentrt.open(compiled.root, backend="tensorrt-rtx")
    with latentrt.open(compiled.root) as pipe:
        assert pipe.backend == "ort-cpu"
    verify(compiled.root)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA finds nothing, whatever this machine has."""
    runtime = pytest.importorskip("cuda.bindings.runtime")
    none = (runtime.cudaError_t.cudaErrorNoDevice, None)
    monkeypatch.setattr(runtime, "cudaGetDeviceCount", lambda: none)


@pytest.fixture
def planned(tiny_bundle: Path, shared: Path, tmp_path: Path, no_gpu: None) -> Path:
    """The tiny bundle with plans for an sm89 alone."""

    def build(folder: Path) -> None:
        shutil.copytree(tiny_bundle, folder, ignore=shutil.ignore_patterns("engines"))
        latentrt.build(folder, backend="tensorrt-rtx", gpus=["sm89"])

    return shutil.copytree(filled_once(shared / "planned.bundle", build), tmp_path / "planned.bundle")


def test_a_bundle_of_plans_alone_says_why_it_does_not_open(planned: Path) -> None:
    """And what to do; what it says helps."""
    with pytest.raises(
        latentrt.EngineError,
        match=rf"no engine of '{planned}' runs here: found no NVIDIA GPU.*latentrt build {planned}",
    ):
        latentrt.open(planned)
    latentrt.build(planned)
    latentrt.open(planned).close()


def test_inspect_shows_plans(planned: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As a table for people, and in full as JSON."""
    monkeypatch.setattr(terminal, "stdout", Console(width=200, highlight=False, markup=False))
    shown = command("inspect", planned)
    assert shown.status == 0
    row = next(line for line in shown.stdout.splitlines() if "tensorrt-rtx" in line and "unet" in line)
    for word in ("sm89", "MB", "fp32", "–"):
        assert word in row
    assert f"for {gpu_machine('sm89')}" in shown.stdout
    assert "timestep (4) float32" in shown.stdout
    assert "out_sample (4, 4, 16, 16) float32" in shown.stdout
    rows = json.loads(command("inspect", planned, "--json").stdout)["engines"]
    assert [row["component"] for row in rows] == ["text_encoder", "vae_encoder", "vae_decoder", "unet"]
    assert {(row["parity"], row["fits_this_machine"], row["bytes"] > 10**6) for row in rows} == {(None, False, True)}
    assert all(row["contents"]["layers"] and row["contents"]["shapes"] for row in rows)


@pytest.mark.slow
def test_what_was_not_run_is_gated_by_its_onnx(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_gpu: None
) -> None:
    """A build from the model for a GPU that is not there: no component is left without figures, or with wrong ones."""
    stub: Any = stub_exporter(tiny_bundle)
    export = stub.export_components
    monkeypatch.setitem(sys.modules, "latentrt.export.components", stub)
    output = tmp_path / "new.bundle"
    built = latentrt.build(
        tiny_checkpoint, output, backend="tensorrt-rtx", gpus=["sm89"], profiles=["32x32x2", "48x32"]
    )
    old = open_bundle(tiny_bundle).manifest.components
    for name, record in built.bundle.manifest.components.items():
        assert record.parity.cases == old[name].parity.cases
        assert 0 < record.parity.relative_error < 1e-5
        assert f"{name}: gate the ONNX" in built.seconds

    def wrong(checkpoint: Any, root: Path, *rest: Any) -> Any:
        manifest = export(checkpoint, root, *rest)
        path = root / "probes" / "unet.safetensors"
        probes = read_probes(path)
        for probe in probes:
            probe.outputs["out_sample"][...] *= np.float32(1.01)
        write_probes(path, probes)
        return manifest.model_copy(update={"files": record_files(root, manifest.files)})

    stub.export_components = wrong
    with pytest.raises(latentrt.ParityError, match=r"unet \(fp32\) differs"):
        latentrt.build(tiny_checkpoint, tmp_path / "other.bundle", backend="tensorrt-rtx", gpus=["sm89"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.bundle"]


def test_inspect_says_what_never_ran_on_its_device(
    planned_bundle: Path, tiny_bundle: Path, command: Callable[..., Any]
) -> None:
    """Of the backends that a bundle has engines for; of one for CPUs nothing."""
    said = "tensorrt-rtx: this version of latentrt was tested on stand-ins for the device, never on one"
    assert said in command("inspect", planned_bundle).stdout.splitlines()
    assert "never on one" not in command("inspect", tiny_bundle).stdout


def test_an_unchanged_model_keeps_its_engines_and_gets_those_it_lacks(
    tiny_copy: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is exported again for another architecture."""
    monkeypatch.setitem(COMPILERS, Backend.TENSORRT_RTX, StandInRTX())
    options: dict[str, Any] = {"profiles": ["32x32x2", "48x32"], "backend": "tensorrt-rtx"}
    before = {path: path.stat().st_mtime_ns for path in tiny_copy.rglob("*") if path.is_file()}
    built = latentrt.build(tiny_checkpoint, tiny_copy, gpus=["sm120"], **options)
    assert not built.up_to_date
    assert {name.partition(": ")[2] for name in built.seconds} == {"compile"}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert latentrt.build(tiny_checkpoint, tiny_copy, gpus=["sm120"], **options).up_to_date


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--backend tensorrt-rtx --gpu rtx4090", ("'rtx4090'", "sm89", "sm120")),
        ("--backend tensorrt-rtx", ("no NVIDIA GPU", "--gpu")),
        ("--backend ort-cpu --gpu sm89", ("sm89", "ort-cpu", "tensorrt-rtx")),
        ("--gpu sm89", ("sm89", "ort-cpu", "tensorrt-rtx")),
        ("--backend tensorrt --gpu sm89", ("sm89", "GPU that is present", "tensorrt-rtx")),
        ("--backend ort-cuda", ("no NVIDIA GPU",)),
        ("--backend tensorrt", ("no NVIDIA GPU", "tensorrt-rtx", "--gpu")),
        ("--backend tensorrt-rtx --gpu sm89 --workspace 0", ("0 MB", "at least 1")),
        ("--workspace 512", ("512 MB", "ort-cpu")),
        ("--backend tensorrt-rtx --gpu sm89 --profile 64x64", ("64x64", "32x32x2")),
    ],
)
def test_refused_in_one_line(
    command: Callable[..., Any], tiny_copy: Path, no_gpu: None, arguments: str, words: tuple[str, ...]
) -> None:
    """Exit status 2, before anything is compiled."""
    before = sorted(tiny_copy.rglob("*"))
    done = command("build", tiny_copy, *arguments.split())
    assert done.status == 2
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words), done.stderr
    assert [path for path in sorted(tiny_copy.rglob("*")) if path not in before and path.is_file()] == []


@pytest.mark.slow
def test_json_is_quiet_and_a_terminal_shows_a_bar(
    tiny_copy: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Percent and the builder's phase, on a terminal and without --json alone."""
    written = StringIO()
    console = Console(file=written, force_terminal=True, width=120, highlight=False, markup=False)
    monkeypatch.setattr(terminal, "stderr", console)
    told = terminal.BuildProgress.phase

    def drawn(bars: terminal.BuildProgress, name: str, done: int, total: int) -> None:
        """Every phase reaches the screen; otherwise those alone that last until the next refresh."""
        told(bars, name, done, total)
        if bars._bar is not None:
            bars._bar.refresh()

    monkeypatch.setattr(terminal.BuildProgress, "phase", drawn)
    arguments = ("build", tiny_copy, "--backend", "tensorrt-rtx", "--gpu")
    assert json.loads(command(*arguments, "sm89", "--json").stdout)["up_to_date"] is False
    assert "%" not in written.getvalue()
    assert "unet: compile" in written.getvalue()
    assert command(*arguments, "sm120").status == 0
    assert "%" in written.getvalue()
    assert "raph" in written.getvalue()  # "Cloning network graph", "Optimizing graph", …


def test_bars_of_phases() -> None:
    """A stage without phases shows none; one with them its share."""
    progress = terminal.BuildProgress()
    progress.phase("before any stage", 1, 2)
    column = terminal._PhaseColumn()
    with Progress(console=Console(file=StringIO())) as bars:
        bars.add_task("unet: compile", total=None, phase="")
        (task,) = bars.tasks
        assert str(column.render(task)) == ""
        bars.update(task.id, completed=3, total=4, phase="Optimizing graph")
        shown = StringIO()
        Console(file=shown, width=80).print(column.render(task))
    assert "75 %" in shown.getvalue()
    assert "Optimizing graph" in shown.getvalue()
