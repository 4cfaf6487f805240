"""``latentrt bench`` from its arguments to its files, on models so small that only the way through is tested."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_sample import contender, result
from shared import write_sealed

from latentrt.benchmarks.bench import contenders, rounds
from latentrt.benchmarks.bench.contenders import Entrant
from latentrt.benchmarks.bench.machine.flops import work_of
from latentrt.benchmarks.bench.plan import Case, _peers, plan_from_options
from latentrt.benchmarks.bench.rounds import Rounds
from latentrt.benchmarks.bench.workers.pool import Pool
from latentrt.benchmarks.report.schema import BenchResult, read_result
from latentrt.cli.bench import BenchOptions
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.documents import write_document

FEW = ("--runs", "2", "--cold-runs", "1", "--varied-runs", "1", "--steps", "4", "--threads", "1", "--peers")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("a cat\n\n  a red apple  \n", "utf-8")
    return path


@pytest.fixture(scope="module")
def measured(
    tiny_bundle: Path, tiny_checkpoint: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, BenchResult]:
    """A whole run of ours and the reference, with all outputs; a third contender breaks off as it opens."""
    from latentrt.benchmarks.peers.registry import PEERS, Peer
    from latentrt.cli.app import main

    folder = tmp_path_factory.mktemp("bench")
    broken = {**PEERS, "broken": Peer(title="broken", adapter="no_such_adapter", precision="fp32")}
    arguments = ["bench", tiny_bundle, "--checkpoint", tiny_checkpoint, "--against", "diffusers", "--against", "broken"]
    arguments += ["--prompts", prompts, "--json", folder / "r.json", "--report", folder / "r.html"]
    arguments += ["--markdown", folder / "r.md", *FEW, folder / "peers"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contenders, "PEERS", broken)
        with pytest.raises(SystemExit) as exit:
            main([str(argument) for argument in arguments])
    assert exit.value.code == 0
    return folder, read_result(folder / "r.json")


@pytest.mark.slow
def test_measures_every_stage_of_both(measured: tuple[Path, BenchResult]) -> None:
    """Every figure has a sample a run, and stages add up to the picture."""
    _, found = measured
    ours, theirs, _ = found.contenders
    for row in (ours, theirs):
        latency = row.latency
        assert latency is not None
        assert latency.encode
        assert latency.denoise
        assert latency.decode
        assert latency.rest
        assert latency.step
        assert latency.host_overhead
        assert latency.unet_call
        assert len(latency.picture.samples) == 2
        assert len(latency.step.samples) == 2 * 3
        for place, whole in enumerate(latency.picture.samples):
            stages = (latency.encode, latency.denoise, latency.decode, latency.rest)
            assert sum(stage.samples[place] for stage in stages) == pytest.approx(whole)
        assert min(latency.unet_call.samples) > 0
        assert row.cold_start
        assert row.open
        assert row.cold_start.median > row.open.median > 0
        assert row.failures == {}
    assert ours.packages_bytes
    assert theirs.packages_bytes
    assert ours.packages_bytes < theirs.packages_bytes
    assert found.peak
    assert found.work
    assert found.share_of_peak(ours)
    assert ours.operators
    assert ours.operators["Conv"] > 0
    assert theirs.operators is None


@pytest.mark.slow
def test_pictures_are_compared_with_the_reference(measured: tuple[Path, BenchResult]) -> None:
    """The same prompts; ours is near, the reference is itself."""
    _, found = measured
    ours, theirs, _ = found.contenders
    assert ours.quality
    assert theirs.quality
    assert [row.prompt for row in ours.quality.pictures] == ["a cat", "a red apple"]
    for picture in ours.quality.pictures:
        assert picture.psnr is not None
        assert picture.psnr > 60
        assert picture.latent_relative_error is not None
        assert 0 < picture.latent_relative_error < 1e-3
        assert picture.ssim > 0.999
    assert [row.psnr for row in theirs.quality.pictures] == [None, None]


@pytest.mark.slow
def test_varies_pictures_sizes_and_steps(measured: tuple[Path, BenchResult]) -> None:
    """What the bundle's profiles allow: two at once, two sizes; and step counts around the one asked for."""
    ours = measured[1].contenders[0]
    assert ours.throughput
    assert ours.by_pixels
    assert ours.by_steps
    assert [point.value for point in ours.throughput.points] == [1, 2]
    assert [point.value for point in ours.by_pixels.points] == [32 * 32, 48 * 32]
    assert [point.value for point in ours.by_steps.points] == [4, 8]
    assert ours.by_pixels.exponent is not None


@pytest.mark.slow
def test_what_cannot_run_is_a_row_with_its_reason(measured: tuple[Path, BenchResult]) -> None:
    """In the JSON and in the table."""
    folder, found = measured
    assert found.contenders[2].latency is None
    assert "no_such_adapter" in (found.contenders[2].absent or "")
    assert "broken was not measured: ModuleNotFoundError" in (folder / "r.md").read_text("utf-8")


@pytest.mark.slow
def test_leaves_nothing_behind_but_its_outputs(measured: tuple[Path, BenchResult]) -> None:
    """No journal, no pictures; no path of this machine in the result."""
    folder, _ = measured
    assert {path.name for path in folder.iterdir()} == {"r.json", "r.html", "r.md"}
    assert str(folder.parent) not in (folder / "r.json").read_text("utf-8")
    assert str(Path.home()) not in (folder / "r.html").read_text("utf-8")


@pytest.mark.slow
def test_renders_again_from_the_json(
    measured: tuple[Path, BenchResult], command: Callable[..., Any], tmp_path: Path
) -> None:
    """Page and table byte for byte."""
    folder, _ = measured
    ran = command(
        "bench", "--render", folder / "r.json", "--report", tmp_path / "n.html", "--markdown", tmp_path / "n.md"
    )
    assert ran.status == 0, ran.stderr
    assert (tmp_path / "n.md").read_bytes() == (folder / "r.md").read_bytes()
    assert (tmp_path / "n.html").read_bytes() == (folder / "r.html").read_bytes()


def test_compares_two_files(command: Callable[..., Any], tmp_path: Path) -> None:
    """A line for what changed."""
    write_document(tmp_path / "old.json", result(contender("latentrt fp32", "latentrt_bundle", 1.0)))
    write_document(tmp_path / "new.json", result(contender("latentrt fp32", "latentrt_bundle", 0.5)))
    ran = command("bench", "--compare", tmp_path / "old.json", tmp_path / "new.json")
    assert ran.status == 0
    assert "latentrt fp32: picture better, 1.00 s → 500 ms (0.50×)" in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{tmp}"], "no readable bundle.json"),
        ([], "expected bundles to measure, two results to --compare, or one to --render"),
        (["{bundle}", "--render", "r.json"], "name one of the three"),
        (["{bundle}", "--against", "diffusers"], "add --checkpoint"),
        (["{bundle}", "--checkpoint", "{tmp}/none"], "expected a folder in diffusers layout"),
        (["{bundle}", "--checkpoint", "{checkpoint}", "--against", "comfy"], "got peer 'comfy', expected one of"),
        (["{bundle}", "--backend", "abacus"], "got backend 'abacus'"),
        (["{bundle}", "{bundle}"], "twice"),
        (["{bundle}", "{bundle}@ort-cpu"], "twice"),
        (["{bundle}@abacus"], "got backend 'abacus'"),
        (["{tmp}/none@ort-cpu"], "none', expected the folder of a bundle"),
        (["{bundle}", "--runs", "0"], "got --runs 0, expected at least 1"),
        (["{bundle}", "--size", "17x17"], "17x17"),
        (["{bundle}", "--resident", "some"], "got --resident 'some'"),
        (["{bundle}", "--prompts", "{tmp}/none.txt"], "which cannot be read"),
        (["{bundle}", "--icons", "{tmp}/none.npz"], "cannot read icons"),
        (["{bundle}", "--clip", "{tmp}"], "cannot read a CLIP model"),
        (["{bundle}", "--report", "{tmp}/none/r.html"], "the folder does not exist"),
        (["{bundle}", "--json", "{tmp}"], "it is a folder"),
        (["--compare", "{tmp}/a.json", "{tmp}/b.json"], "cannot read"),
        (["--render", "{tmp}/a.json"], "cannot read"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str],
    said: str,
    command: Callable[..., Any],
    tiny_bundle: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    """Exit status 2 and nothing on stdout, before anything is measured."""
    places = {"tmp": tmp_path, "bundle": tiny_bundle, "checkpoint": tiny_checkpoint}
    ran = command("bench", *(argument.format(**places) for argument in arguments))
    assert ran.status == 2, ran.stderr
    assert said in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert ran.stdout == ""


def test_render_wants_an_output(command: Callable[..., Any], tmp_path: Path) -> None:
    """And not the JSON that it reads."""
    write_document(tmp_path / "r.json", result())
    assert "add --report or --markdown" in command("bench", "--render", tmp_path / "r.json").stderr
    ran = command("bench", "--render", tmp_path / "r.json", "--json", tmp_path / "n.json")
    assert "leave it out" in ran.stderr


def test_a_bundle_may_name_its_backend(tiny_bundle: Path, tmp_path: Path) -> None:
    """The others take those of the option; a folder whose own name has the sign is a folder."""
    odd = shutil.copytree(tiny_bundle, tmp_path / "at@home")
    bundles = [tiny_bundle, tiny_bundle.with_name(f"{tiny_bundle.name}@openvino"), odd]
    plan = plan_from_options(BenchOptions(bundles=bundles, backend=["ort-cpu", "ort-cuda"]))
    assert plan.bundles == (tiny_bundle, odd)
    assert plan.ours == (
        (tiny_bundle, "ort-cpu"), (tiny_bundle, "ort-cuda"), (tiny_bundle, "openvino"),
        (odd, "ort-cpu"), (odd, "ort-cuda"),
    )  # fmt: skip


def test_who_draws_by_another_sampler_is_compared_by_that(tiny_bundle: Path, tmp_path: Path) -> None:
    """The reference draws by both; who has other noise gets PyTorch's from a file, for no picture that is timed."""
    import torch

    from latentrt.benchmarks.peers.registry import EULER, Peer

    asked: list[tuple[str, dict[str, Any]]] = []

    class Silent:
        resident = True

        def draw(self, entrant: Entrant, case: Case, request: dict[str, Any]) -> dict[str, Any]:
            asked.append((entrant.name, request))
            value = 0.5 if request["sampler"] == EULER else 0.25
            np.savez(request["output"], pixels=np.full((1, 32, 32, 3), value, np.float32))
            return {}

    common = {"precision": "fp32", "python": Path("python"), "model": tiny_bundle}
    peer = Peer(title="other", adapter="other", precision="fp32", sampler=EULER, given_noise=True)
    reference = Entrant(name="reference", adapter="diffusers_eager", **common)  # type: ignore[arg-type]
    other = Entrant(name="other", adapter="other", peer=peer, **common)  # type: ignore[arg-type]
    plan = plan_from_options(BenchOptions(bundles=[tiny_bundle], against=["none"], seed=7))
    nothing: Any = None
    whole = Rounds(plan, nothing, Silent(), nothing, tmp_path, lambda line: None)  # type: ignore[arg-type]
    whole.pictures([reference, other])
    assert [(name, request["sampler"]) for name, request in asked] == [
        ("reference", "DPM++ 2M, Karras"), ("reference", "Euler"), ("other", "Euler"),
    ]  # fmt: skip
    noise = np.load(asked[2][1]["noise"])
    np.testing.assert_allclose(noise, torch.randn(noise.shape, generator=torch.Generator().manual_seed(7)), atol=1e-6)
    assert "noise" not in asked[0][1]
    name, qualities = whole.qualities([reference, other], None)
    assert name == "reference"
    assert qualities["other"].worst.psnr is None


def test_peers_default_to_the_reference_where_there_is_a_checkpoint() -> None:
    """Nothing said, nothing wanted, everything."""
    from latentrt.benchmarks.peers.registry import PEERS

    checkpoint = Path("model")
    assert _peers(None, None) == ()
    assert _peers(None, checkpoint) == ("diffusers",)
    assert _peers(["none"], checkpoint) == ()
    assert _peers(["all"], checkpoint) == tuple(PEERS)


@pytest.mark.slow
def test_one_resident_goes_on_where_it_was_stopped(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One contender open at a time, broken off before the cold starts; then nothing is drawn twice.

    The pictures that were drawn have meanwhile lost a number to NaN: that is a reason in the row, not the run's end.
    """
    from latentrt.cli.app import main

    arguments = ["bench", tiny_bundle, "--checkpoint", tiny_checkpoint, "--against", "diffusers", "--resident", "one"]
    arguments += ["--runs", "2", "--cold-runs", "1", "--varied-runs", "0", "--steps", "3", "--threads", "1"]
    arguments += ["--prompts", tmp_path / "prompts.txt", "--json", tmp_path / "r.json", "--peers", tmp_path / "peers"]
    (tmp_path / "prompts.txt").write_text("a cat\n", "utf-8")
    opened: list[int] = []
    draws: list[str] = []
    draw = Pool.draw

    def counted(self: Pool, entrant: Entrant, case: Case, request: dict[str, Any]) -> dict[str, Any]:
        answer = draw(self, entrant, case, request)
        draws.append(entrant.name)
        opened.append(len(self._workers))
        return answer

    def run() -> int:
        with pytest.raises(SystemExit) as exit:
            main([str(argument) for argument in arguments])
        return int(exit.value.code or 0)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Pool, "draw", counted)
    with monkeypatch.context() as patch:
        patch.setattr(Rounds, "cold", stopped)
        assert run() == 130
    assert set(opened) == {1}
    assert draws == ["latentrt fp32", "diffusers"] * 2
    kept = tmp_path / ".r.json.journal.pictures"
    ours = kept / f"{hashlib.sha256(b'latentrt fp32').hexdigest()[:16]}-0.npz"
    pixels = np.load(ours)["pixels"]
    pixels[0, 0, 0] = np.nan
    np.savez(ours, pixels=pixels)
    draws.clear()
    colds: list[str] = []
    start = rounds.cold_start

    def counted_start(python: Path, adapter: str, *rest: Any, **options: Any) -> Any:
        colds.append(adapter)
        return start(python, adapter, *rest, **options)

    monkeypatch.setattr(rounds, "cold_start", counted_start)
    assert run() == 0
    assert draws == []
    assert colds == ["latentrt_bundle"] * 2 + ["diffusers_eager"] * 2  # each right behind one that does not count
    row, reference = read_result(tmp_path / "r.json").contenders
    assert row.failures == {"quality": "its picture of 'a cat' has NaN or infinity"}
    assert row.quality is None
    assert reference.quality
    assert row.cold_start
    assert row.latency
    assert len(row.latency.picture.samples) == 2
    assert not read_result(tmp_path / "r.json").settings.resident
    assert not kept.exists()


def test_a_checkpoint_that_the_bundle_was_not_built_from_is_refused(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    """One byte of the weights is another; and so is a bundle whose source had another file of that name."""
    other = shutil.copytree(tiny_checkpoint, tmp_path / "other")
    weights = next((other / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + bytes([weights.read_bytes()[-1] ^ 1]))
    ran = command("bench", tiny_bundle, "--checkpoint", other)
    assert ran.status == 2
    assert f"whose unet/{weights.name} is not what tiny.bundle was built from" in ran.stderr
    bundle = shutil.copytree(tiny_bundle, tmp_path / "another.bundle")
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["source"]["files"][f"unet/{weights.name}"]["sha256"] = "0" * 64
    write_sealed(bundle / "bundle.json", manifest)
    ran = command("bench", tiny_bundle, bundle)
    assert ran.status == 2
    assert f"got bundles tiny.bundle and another.bundle, whose checkpoints differ in unet/{weights.name}" in ran.stderr


def test_duplicates_are_refused_before_environments_are_made(
    tiny_bundle: Path, tiny_checkpoint: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which take minutes."""
    monkeypatch.setattr(contenders, "environment_python", lambda *_: pytest.fail("an environment was made"))
    ran = command("bench", tiny_bundle, tiny_bundle, "--checkpoint", tiny_checkpoint, "--against", "optimum-onnx")
    assert ran.status == 2
    assert "twice" in ran.stderr


def test_work_without_guidance_is_half(tiny_bundle: Path) -> None:
    """Of the U-Net's and the text encoder's; the decoder's is the same."""
    bundle = open_bundle(tiny_bundle)
    profile = bundle.manifest.profiles[0]
    whole, half = (work_of(bundle, profile, pytest.fail, guided=guided) for guided in (True, False))
    assert whole
    assert half
    assert whole.unet == 2 * half.unet
    assert whole.text_encoder == 2 * half.text_encoder
    assert whole.vae_decoder == half.vae_decoder


def test_work_that_cannot_be_counted_is_said_and_left_out(tiny_copy: Path) -> None:
    """A damaged graph."""
    bundle, said = open_bundle(tiny_copy), []
    (tiny_copy / bundle.manifest.components["unet"].onnx).write_bytes(b"no graph")
    assert work_of(bundle, bundle.manifest.profiles[0], said.append, guided=True) is None
    assert said[0].startswith("FLOP are not counted: ")


@pytest.mark.parametrize(("arguments", "module"), [(["{bundle}"], "skimage.metrics"), (["--compare"], "scipy.stats")])
def test_missing_packages_are_said_first(
    arguments: list[str],
    module: str,
    tiny_bundle: Path,
    tmp_path: Path,
    command: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one sentence."""
    monkeypatch.setitem(sys.modules, module, None)
    write_document(tmp_path / "r.json", result())
    more = [tmp_path / "r.json"] * 2 if arguments == ["--compare"] else []
    ran = command("bench", *(argument.format(bundle=tiny_bundle) for argument in arguments), *more)
    assert ran.status == 2
    assert ran.stderr.count("\n") == 1
    assert "install latentrt[bench]" in ran.stderr


@pytest.mark.slow
def test_result_is_json_that_others_can_read(measured: tuple[Path, BenchResult]) -> None:
    """No NaN, no infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    json.loads((measured[0] / "r.json").read_text("utf-8"), parse_constant=refuse)
