"""Builds for speed: what is tried, timed, judged and kept, what the bundle says of it, and who reads that."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from twin_backend import Absent, leave_twin_alone

import latentrt
from latentrt.engines.backends.registry import COMPILERS
from latentrt.engines.errors import EngineError, OutputError, ParityError, RequestError
from latentrt.engines.precision import Backend, Precision
from latentrt.engines.store.store import engines_in
from latentrt.fastest import pictures
from latentrt.fastest.candidates import EXACT, Candidate, Candidates, candidates_here
from latentrt.fastest.contest import Contest, Outcome
from latentrt.fastest.timing import Rounds, Turn, pace, take_turns
from latentrt.quantization.calibration import CalibrationSet
from latentrt.quantization.judge import PictureQuality
from latentrt.quantization.settings import Effort

EXACT_OV = Candidate(precision=Precision.FP32, backend=Backend.OPENVINO)
BF16 = Candidate(precision=Precision.BF16, backend=Backend.OPENVINO)
INT8 = Candidate(precision=Precision.INT8, backend=Backend.ORT_CPU)
INT8_OV = Candidate(precision=Precision.INT8, backend=Backend.OPENVINO)
TRIED = (EXACT, EXACT_OV, BF16, INT8, INT8_OV)


class Present:
    """A backend that is."""

    def version(self) -> str:
        return "1.0"

    def here(self) -> str:
        return "this machine"


@pytest.fixture
def twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with the exact backend and its twin."""
    leave_twin_alone(monkeypatch)


def held(
    seconds: Mapping[Candidate, float],
    decibels: Mapping[Candidate, float],
    *,
    faults: Mapping[Candidate, Exception] | None = None,
    left_out: Mapping[Candidate, str] | None = None,
) -> tuple[Outcome[str], list[Candidate]]:
    """A contest of stand-ins that take so many seconds and draw so well, and who was judged."""
    judged: list[Candidate] = []

    def make(candidate: Candidate) -> str:
        if candidate in (faults or {}):
            raise (faults or {})[candidate]
        return str(candidate)

    def time(made: Mapping[Candidate, str]) -> dict[Candidate, list[Turn]]:
        assert {str(one) for one in made} == set(made.values())
        return {one: [Turn(step=seconds[one] / 10, picture=seconds[one])] * 3 for one in made}

    def judge(candidate: Candidate, reference: Candidate, made: Mapping[Candidate, str]) -> PictureQuality:
        assert reference == EXACT
        judged.append(candidate)
        return PictureQuality(mean=decibels[candidate], worst=decibels[candidate] - 3, worst_prompt="a cat")

    contest = Contest(make=make, time=time, judge=judge, quality=30.0)
    return contest.run(Candidates(tried=TRIED, left_out=left_out or {})), judged


def reasons(outcome: Outcome[str]) -> dict[str, str | None]:
    """Why each was not kept."""
    return {f"{row.precision} on {row.backend}": row.reason for row in outcome.rows}


SECONDS = {EXACT: 1.0, EXACT_OV: 1.02, BF16: 0.48, INT8: 0.7, INT8_OV: 0.4}


def test_the_fastest_that_is_good_enough_is_kept() -> None:
    """What is faster and misses the quality is told with its figures; what is slower is not judged."""
    outcome, judged = held(SECONDS, {INT8_OV: 28.04, BF16: 52.0})
    assert (outcome.kept, outcome.made, outcome.reference, outcome.rounds) == (BF16, str(BF16), EXACT, 3)
    assert judged == [INT8_OV, BF16]
    told = reasons(outcome)
    assert told == {
        "fp32 on ort-cpu": "slower than bf16 on openvino",
        "fp32 on openvino": "slower than bf16 on openvino",
        "bf16 on openvino": None,
        "int8 on ort-cpu": "slower than bf16 on openvino",
        "int8 on openvino": (
            "its pictures reach a mean of 28.0 dB (worst 25.0 dB), expected 30 dB and no picture 8 dB below"
        ),
    }
    rows = {row.precision: row for row in outcome.rows if row.backend is Backend.OPENVINO}
    assert (rows[Precision.BF16].share, rows[Precision.BF16].psnr_mean) == (0.48, 52.0)
    assert rows[Precision.INT8].psnr_worst == pytest.approx(25.04)
    assert rows[Precision.FP32].psnr_mean is None


def test_where_nothing_is_faster_the_exact_engine_is_kept() -> None:
    """As on a CPU without bfloat16, where OpenVINO works in fp32; a gain within the noise is none."""
    outcome, judged = held({EXACT: 1.0, EXACT_OV: 0.98, BF16: 1.06, INT8: 1.1, INT8_OV: 0.975}, {})
    assert (outcome.kept, judged) == (EXACT, [])
    assert reasons(outcome)["fp32 on openvino"] == "hardly faster than fp32 on ort-cpu, which is exact"
    assert reasons(outcome)["bf16 on openvino"] == "slower than fp32 on ort-cpu"


def test_what_cannot_be_made_is_a_row_with_its_reason() -> None:
    """And so is what was not tried; but the disk, and what is exact, are what the build needs."""
    faults = {
        BF16: EngineError("no bfloat16 here; leave it out"),
        INT8: ParityError("it reached 20 dB"),
        INT8_OV: RequestError("no int8 there; choose another"),
    }
    absent = Candidate(precision=Precision.FP16, backend=Backend.ORT_CUDA)
    outcome, judged = held({**SECONDS, EXACT_OV: 0.9}, {EXACT_OV: 90.0}, faults=faults, left_out={absent: "no GPU"})
    assert (outcome.kept, judged) == (EXACT_OV, [EXACT_OV])
    told = reasons(outcome)
    assert {name: told[str(name)] for name in map(str, faults)} == {str(one): str(why) for one, why in faults.items()}
    assert told["fp16 on ort-cuda"] == "no GPU"
    assert outcome.rows[-1].picture is None
    for fault in ({EXACT: ParityError("missed")}, {BF16: OutputError("the disk is full")}):
        with pytest.raises(type(next(iter(fault.values())))):
            held(SECONDS, {}, faults=fault)


def test_turns_are_interleaved_and_compared_within_a_round() -> None:
    """A disturbance that lasts a round moves no share; rounds end once time is up, but not before the least of them."""
    drawn: list[str] = []
    pictures = {"a": iter([1.0, 9.0, 1.0, 1.0]), "b": iter([0.5, 4.5, 0.5, 0.5])}

    def turn(name: str) -> Callable[[], Turn]:
        def draw() -> Turn:
            drawn.append(name)
            return Turn(step=0.1, picture=next(pictures[name]))

        return draw

    now = iter(range(0, 1000, 10))
    turns = {name: turn(name) for name in "ab"}
    taken = take_turns(turns, Rounds(least=2, most=9, seconds=5.0), clock=lambda: next(now))
    assert drawn == ["a", "b", "a", "b"]
    assert pace(taken["b"], taken["a"]).share == 0.5
    assert pace(taken["a"], taken["a"]).picture == 5.0
    assert len(take_turns(turns, Rounds(least=1, most=2, seconds=1e9))["a"]) == 2


def test_what_is_tried_is_what_runs_here_and_may_get_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that is not installed leaves its reason; a quality that int8 is not known to reach saves its search."""
    for backend in COMPILERS:
        monkeypatch.setitem(COMPILERS, backend, Absent())
    monkeypatch.setitem(COMPILERS, Backend.ORT_CPU, Present())
    monkeypatch.setitem(COMPILERS, Backend.OPENVINO, Present())
    has_bf16 = [False, True, True, True]
    monkeypatch.setattr("latentrt.engines.backends.openvino.library.computes_bf16", lambda: has_bf16.pop(0))
    assert candidates_here(30.0).left_out[BF16] == "this machine has no arithmetic in bf16"
    found = candidates_here(30.0)
    assert found.tried == TRIED
    assert set(found.left_out.values()) == {"it is not installed; install it"}
    found = candidates_here(40.0)
    assert found.tried == (EXACT, EXACT_OV, BF16)
    assert found.left_out[INT8] == "pictures in int8 are not known to reach 40 dB"
    monkeypatch.setitem(COMPILERS, Backend.TENSORRT, Present())
    found = candidates_here(30.0)
    assert [one for one in found.tried if one.backend is not Backend.TENSORRT] == [EXACT]
    assert found.left_out[BF16] == "this machine has a GPU that tensorrt runs on"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--precision", "int8"), "got precision beside fastest"),
        (("--backend", "ort-cpu", "--gpu", "sm89"), "got backend, gpu beside fastest"),
        (("--quality", 0), "got quality 0 dB"),
    ],
)
def test_options_that_it_answers_itself_are_refused(
    tiny_bundle: Path, tmp_path: Path, options: Sequence[object], told: str, command: Callable[..., Any]
) -> None:
    """In a sentence, before anything is made."""
    ran = command("build", tiny_bundle, "-o", tmp_path / "out", "--fastest", *options)
    assert ran.status == 2
    assert told in ran.stderr
    assert not list(tmp_path.iterdir())


def test_bundles_that_it_cannot_start_from_are_refused(
    half_bundle: Path, tiny_bundle: Path, onnx_upscaler_bundle: Path, tmp_path: Path
) -> None:
    """Those in other precisions, those of upscalers, the result itself, and profiles that a bundle does not get."""
    out = tmp_path / "out"
    for source, target, options, told in (
        (half_bundle, out, {}, "got fastest for a bundle in fp16, expected one in fp32"),
        (onnx_upscaler_bundle, out, {}, "which draws no pictures by itself"),
        (tiny_bundle, tiny_bundle, {}, "as the bundle and as the result"),
        (tiny_bundle, out, {"profiles": ["64x64"]}, "got profiles or seamless for a bundle"),
        (tiny_bundle, out, {"family": "sd1"}, "got a bundle and options about a model"),
    ):
        with pytest.raises(RequestError, match=told):
            latentrt.build(source, target, fastest=True, **options)


def test_a_build_for_speed_from_end_to_end(
    tiny_bundle: Path, twin: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]
) -> None:
    """Times are stand-ins. One that is killed goes on where it was; the bundle tells all, and nothing else is left."""
    monkeypatch.setattr("latentrt.quantization.settings.EFFORT", Effort(steps=2, pictures=1, calls=1))
    (tmp_path / "prompts.txt").write_text("a cat\n", "utf-8")

    def turns(contenders: Mapping[Candidate, Callable[[], Turn]], **options: object) -> dict[Candidate, list[Turn]]:
        drawn = {one: turn() for one, turn in contenders.items()}
        assert all(0 < turn.step < turn.picture for turn in drawn.values())
        return {one: [Turn(step=0.1, picture=1.0 if one == EXACT else 0.5)] * 3 for one in contenders}

    def killed(*_: object, **__: object) -> PictureQuality:
        raise KeyboardInterrupt

    judge, output = pictures.Pictures.judge, tmp_path / "out.bundle"
    wishes = (tiny_bundle, "-o", output, "--fastest", "--quality", 70, "--prompts", tmp_path / "prompts.txt")
    monkeypatch.setattr(pictures, "take_turns", turns)
    monkeypatch.setattr(pictures.Pictures, "judge", killed)
    with pytest.raises(KeyboardInterrupt):
        latentrt.build(tiny_bundle, output, fastest=True, prompts=tmp_path / "prompts.txt", quality=70.0)
    assert not output.exists()
    monkeypatch.setattr(pictures, "take_turns", killed)
    monkeypatch.setattr(pictures.Pictures, "judge", judge)
    ran = command("build", *wishes)
    assert ran.status == 0, ran.stderr
    assert "fp32 on ort-cpu: tried (exact" in ran.stderr
    assert "int8 on ort-cpu: left out (pictures in int8 are not known to reach 40 dB)" in ran.stderr
    assert "to judge: 1 pictures of 2 steps" in ran.stderr
    assert "fp32 on ort-cpu: slower than fp32 on openvino" in ran.stdout
    assert {path.name for path in tmp_path.iterdir()} <= {"prompts.txt", "out.bundle", ".out.bundle.lock"}
    assert {engine.backend for engine in engines_in(output)} == {Backend.OPENVINO}
    told = json.loads(command("inspect", output, "--json").stdout)["speed"]
    kept = next(row for row in told["rows"] if (row["precision"], row["backend"]) == ("fp32", "openvino"))
    assert (kept["share"], kept["reason"], told["reference"]) == (0.5, None, "ort-cpu")
    assert kept["psnr_worst"] > 70.0
    monkeypatch.setattr(pictures.Pictures, "first", killed)
    again = json.loads(command("build", *wishes, "--json").stdout)
    assert again["up_to_date"] is True
    assert again["speed"]["rows"] == told["rows"]


@pytest.mark.slow
def test_the_embedded_model_at_its_fastest(
    emoji_bundle: Path, int8_prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is the fastest here, it is good enough, it is what opens, and it draws; backends share a calibration."""
    monkeypatch.setattr("latentrt.quantization.settings.EFFORT", Effort(steps=2, pictures=3, calls=1))
    calibrating, drawn = CalibrationSet.calibrating, []

    def counted(self: CalibrationSet, *arguments: Any, **options: Any) -> Iterator[int]:
        for done in calibrating(self, *arguments, **options):
            drawn.append(done)
            yield done

    monkeypatch.setattr(CalibrationSet, "calibrating", counted)
    made = latentrt.build(emoji_bundle, tmp_path / "out.bundle", fastest=True, prompts=int8_prompts, quality=24.0)
    assert drawn == [1, 2, 3]
    assert made.speed is not None
    assert {(row.precision, row.backend) for row in made.speed.rows if row.picture} >= {("fp32", "ort-cpu")}
    (kept,) = [row for row in made.speed.rows if row.reason is None]
    assert made.bundle.manifest.precision is kept.precision
    assert kept.precision == "fp32" or (kept.psnr_mean or 0.0) >= 24.0
    with latentrt.open(tmp_path / "out.bundle") as pipe:
        assert pipe.backend == kept.backend
        assert pipe("a cat", seed=1, num_inference_steps=2).images
