"""int8 and bf16 of models that read no text: what they are given, and pictures judged frame by frame."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import latentrt
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.records.conditioning import Task
from latentrt.engines.bundle.records.recipe import Recipe
from latentrt.engines.errors import ParityError, RequestError
from latentrt.engines.precision import Backend, Precision
from latentrt.engines.shapes import profile_from_text
from latentrt.engines.store.store import engines_in
from latentrt.quantization.calibration import CalibrationSet
from latentrt.quantization.settings import Effort, quantization_request_from_arguments
from latentrt.quantization.subjects import DrawnModel, part_of_photograph

MODEL = DrawnModel(name="svd", steps=25, reads_text=False)


@pytest.mark.parametrize(("frames", "parts"), [(1, 8), (4, 8), (14, 3), (25, 2), (80, 2)])
def test_models_without_text_are_given_parts_of_a_photograph(frames: int, parts: int) -> None:
    """Fewer of them, the more frames each becomes; every frame is a picture that is judged."""
    model = DrawnModel(name="svd", steps=25, reads_text=False, frames=frames)
    request = quantization_request_from_arguments(Precision.INT8, Backend.ORT_CPU, None, None)
    assert request is not None
    settings = request.settings(model)
    assert settings.calibration.prompts == tuple(f"part {n + 1} of the photograph" for n in range(parts))
    assert settings.pictures % frames == 0
    assert settings.pictures >= 32
    assert settings.calibration.steps == 20


def test_prompts_are_refused_where_nobody_reads_them() -> None:
    """And wanted elsewhere."""
    with pytest.raises(RequestError, match="got prompts to calibrate with for a model that reads none"):
        MODEL.subjects(("a cat",))
    assert DrawnModel(name="emoji", steps=25).subjects(("a cat",)) == ("a cat",)


def test_parts_are_different_pictures_of_the_models_size() -> None:
    """Also where the size is not square; behind the last they begin anew."""
    profile = profile_from_text("48x32x4f")
    parts = [np.asarray(part_of_photograph(index, profile)) for index in range(9)]
    assert {part.shape for part in parts} == {(32, 48, 3)}
    assert len({part.tobytes() for part in parts}) == 8
    assert np.array_equal(parts[0], parts[8])


class Recorder:
    """A pipeline that draws pictures of the number of its seed, and keeps what it was given."""

    def __init__(self, task: Task, profile: str) -> None:
        self.profile, self.calls = profile_from_text(profile), list[tuple[str, int, dict[str, Any]]]()
        conditioning = SimpleNamespace(task=task, text_encoders=())
        self.manifest = SimpleNamespace(conditioning=conditioning, profiles=(self.profile,))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def draw(images: list[Any], **options: Any) -> Any:
            self.calls.append((name, len(images), options))
            drawn = [np.full((2, 3, 3), seed, np.float32) for seed in options["seed"]]
            latents = np.zeros((len(images), 4, 1, 1), np.float32)
            videos = [[picture + frame / 10 for frame in range(self.profile.frames)] for picture in drawn]
            return SimpleNamespace(images=drawn, frames=videos, latents=latents, timings=None)

        return draw


def test_every_frame_is_judged_by_its_video() -> None:
    """Frames lie one after another; a judgement that goes on draws whole videos from where it was."""
    drawn = CalibrationSet(prompts=("part 1", "part 2"), steps=3, frames=4)
    assert [drawn.pictures(least) for least in (1, 8, 9, 32)] == [8, 8, 12, 32]
    pipe: Any = Recorder(Task.VIDEOS, "32x32x4f")
    images = [image for batch in drawn.judging(pipe, 4, 12) for image in batch.images]
    assert [round(float(image[0, 0, 0]) % 1000, 1) for image in images] == [1, 1.1, 1.2, 1.3, 2, 2.1, 2.2, 2.3]
    assert [drawn.prompt_of(index) for index in (0, 3, 4, 9)] == [
        "part 1, frame 1",
        "part 1, frame 4",
        "part 2, frame 1",
        "part 1, frame 2",
    ]
    motions = [options.pop("motion_bucket_id") for _, _, options in pipe.calls]
    assert len(set(motions)) == 2
    options = {"num_frames": 4, "width": 32, "height": 32, "num_inference_steps": 3, "output_type": "np"}
    assert pipe.calls == [
        ("img2vid", 1, {**options, "seed": [1_000_001]}),
        ("img2vid", 1, {**options, "seed": [1_000_002]}),
    ]


def test_views_go_around() -> None:
    """Each drawing has a pose of its own, up and down too; a variation has none."""
    drawn = CalibrationSet(prompts=("part 1", "part 2", "part 3"), steps=3)
    views: Any = Recorder(Task.VIEWS, "32x32x2")
    assert list(drawn.calibrating(views, 0, decoded=False)) == [2, 3]
    assert [name for name, *_ in views.calls] == ["view", "view"]
    poses = [list(zip(call["elevation"], call["azimuth"], strict=True)) for *_, call in views.calls]
    assert poses == [[(0.0, 0.0), (20.0, 50.0)], [(-20.0, 100.0)]]
    assert views.calls[0][2]["output_type"] == "latent"
    variations: Any = Recorder(Task.VARIATIONS, "32x32x4")
    assert list(drawn.calibrating(variations, 0, decoded=True)) == [3]
    ((name, count, options),) = variations.calls
    assert (name, count, options["seed"]) == ("variation", 3, [0, 1, 2])


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps and a few pictures are enough to see that everything is there."""
    effort = Effort(steps=2, pictures=3, calls=1)
    monkeypatch.setattr("latentrt.quantization.settings.EFFORT", effort)
    monkeypatch.setattr("latentrt.bf16.settings.EFFORT", effort)
    monkeypatch.setattr("latentrt.quantization.subjects._FRAMES", 2)


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_a_video_model_becomes_int8(tiny_svd_bundle: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    """With its convolutions over frames; the quality is the mean over all frames, and is what drawing gives."""
    output = tmp_path / "int8.bundle"
    ran = command("build", tiny_svd_bundle, "-o", output, "--precision", "int8", "--quality", "20")
    assert ran.status == 0, ran.stderr
    bundle = open_bundle(output)
    bundle.check_all()
    record = bundle.manifest.components["unet"].quantization
    assert record is not None
    assert (record.prompts, record.pictures, record.steps, record.quality) == (2, 8, 2, 20.0)
    assert record.psnr_mean >= 20.0
    assert record.worst_prompt.startswith("part ")
    assert ", frame " in record.worst_prompt
    over_frames = [path for path in record.nodes if ".temporal_res_block.conv" in path]
    assert over_frames
    assert all(record.nodes[path].rounded for path in over_frames)
    assert bundle.manifest.components["vae_decoder"].quantization is None  # it computes in fp32
    drawn = CalibrationSet(prompts=("part 1 of the photograph", "part 2 of the photograph"), steps=2, frames=4)
    frames = []
    for path in (tiny_svd_bundle, output):
        with latentrt.open(path, backend="ort-cpu") as pipe:
            frames.append(np.concatenate([batch.images for batch in drawn.judging(pipe, 0, 8)]))
    errors = ((frames[0].astype(np.float64) - frames[1]) ** 2).mean((1, 2, 3))
    assert np.mean(-10 * np.log10(errors)) == pytest.approx(record.psnr_mean, abs=0.5)  # of float16 references
    assert np.min(-10 * np.log10(errors)) == pytest.approx(record.psnr_worst, abs=0.5)
    assert command("verify", output).status == 0
    assert "of the photograph, frame" in command("inspect", output).stdout
    assert json.loads(command("build", tiny_svd_bundle, "-o", output, "--precision", "int8", "--quality", "20",
                              "--json").stdout)["up_to_date"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_a_video_model_becomes_int8_on_openvino(tiny_svd_bundle: Path, tmp_path: Path) -> None:
    """Its own engines draw what is judged, and draw the same clip again."""
    pytest.importorskip("openvino")
    output = tmp_path / "int8.bundle"
    latentrt.build(tiny_svd_bundle, output, precision="int8", backend="openvino", quality=20.0)
    told = open_bundle(output).manifest.components["unet"].quantization
    assert told is not None
    assert (told.backend, told.prompts, told.pictures) == (Backend.OPENVINO, 2, 8)
    assert told.recipe in (Recipe.U8S8_INPUTS, Recipe.U8S8_REDUCED)
    assert all(node.rounded for path, node in told.nodes.items() if ".temporal_res_block.conv" in path)
    drawn = CalibrationSet(prompts=("part 1 of the photograph", "part 2 of the photograph"), steps=2, frames=4)
    frames = []
    for path, backend in ((tiny_svd_bundle, "ort-cpu"), (output, "openvino")):
        with latentrt.open(path, backend=backend) as pipe:
            frames.append(np.concatenate([batch.images for batch in drawn.judging(pipe, 0, 8)]))
    errors = ((frames[0].astype(np.float64) - frames[1]) ** 2).mean((1, 2, 3))
    assert np.mean(-10 * np.log10(errors)) == pytest.approx(told.psnr_mean, abs=0.5)  # of float16 references


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_a_video_models_plan_in_int8(tiny_svd_bundle: Path, tmp_path: Path) -> None:
    """Built for a GPU that is not here: as many layers are quantized as the bundle tells, those over frames too."""
    pytest.importorskip("tensorrt_rtx")
    output = tmp_path / "int8.bundle"
    latentrt.build(tiny_svd_bundle, output, precision="int8", backend="tensorrt-rtx", gpus=["sm89"], quality=20.0)
    told = open_bundle(output).manifest.components["unet"].quantization
    assert told is not None
    assert told.recipe is Recipe.S8S8
    rounded = [path for path, node in told.nodes.items() if node.rounded]
    assert any(".temporal_res_block.conv" in path for path in rounded)
    (plan,) = (engine.contents for engine in engines_in(output) if engine.component == "unet")
    assert plan is not None
    assert sum(plan.quantized.values()) == len(rounded)


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_a_quality_over_frames_that_is_not_reached(
    tiny_svd_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ends the build, with the frame that is worst."""
    monkeypatch.setattr("latentrt.quantization.search.FLOATING_COUNTS", (0,))
    with pytest.raises(ParityError, match=r"reached a mean of \d+\.\d dB .* expected 90 dB"):
        latentrt.build(tiny_svd_bundle, tmp_path / "int8.bundle", precision="int8", quality=90.0)
    assert not (tmp_path / "int8.bundle").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("family", "kept"),
    [
        ("zero123", ()),
        ("stable-zero123", ()),
        ("sd-image-variations", ("vae_decoder",)),  # whose tiny random decoder misses the gate in int8
    ],
)
def test_models_that_are_told_of_a_picture_become_int8(
    picture_bundle: Callable[[str], Path], family: str, kept: tuple[str, ...], tmp_path: Path
) -> None:
    """U-Net and decoder, held to pictures of the model's own workflow."""
    latentrt.build(picture_bundle(family), tmp_path / "int8.bundle", precision="int8", quality=20.0, fp32=kept)
    components = open_bundle(tmp_path / "int8.bundle").manifest.components
    rounded = {name for name, record in components.items() if record.precision == "int8"}
    assert rounded >= {"unet", "vae_decoder"} - set(kept)
    told = components["unet"].quantization
    assert told is not None
    assert told.psnr_mean >= 20.0


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_a_video_model_becomes_bf16(tiny_svd_bundle: Path, tmp_path: Path) -> None:
    """Its frames are judged likewise."""
    latentrt.build(tiny_svd_bundle, tmp_path / "bf16.bundle", precision="bf16", backend="openvino", quality=25.0)
    told = open_bundle(tmp_path / "bf16.bundle").manifest.pictures
    assert told is not None
    assert (told.prompts, told.pictures) == (2, 8)
    assert told.psnr_mean >= 25.0
