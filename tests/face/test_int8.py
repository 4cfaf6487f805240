"""int8 from the command line: built, gated, killed and resumed, compared, refused."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shared import write_sealed

import latentrt
from latentrt.engines.bundle.bundle import open_bundle
from latentrt.engines.bundle.records.recipe import Recipe
from latentrt.engines.errors import ParityError, RequestError
from latentrt.engines.graphs.quantization.nodes import QuantizableNode
from latentrt.engines.graphs.quantization.recipe import recipe_for
from latentrt.engines.precision import Backend, Precision
from latentrt.quantization import calibration, checkpoints, search
from latentrt.quantization.search import worst_first
from latentrt.quantization.settings import Effort


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps and a few pictures are enough to see that everything is there."""
    monkeypatch.setattr("latentrt.quantization.settings.EFFORT", Effort(steps=2, pictures=3, calls=1))


@pytest.fixture(scope="module")
def prompts(int8_prompts: Path) -> Path:
    """Three prompts, and lines to skip."""
    return int8_prompts


def test_what_the_bundle_says(int8_bundle: Path, emoji_bundle: Path, command: Callable[..., Any]) -> None:
    """U-Net and decoder are int8 in a quarter of the space; records tell how they were judged; nothing else is left."""
    bundle, whole = open_bundle(int8_bundle), open_bundle(emoji_bundle)
    bundle.check_all()
    assert bundle.manifest.precision is Precision.INT8
    precisions = {name: record.precision for name, record in bundle.manifest.components.items()}
    assert precisions == {"text_encoder": "int8", "unet": "int8", "vae_encoder": "fp32", "vae_decoder": "int8"}
    shown = command("inspect", int8_bundle).stdout
    described = json.loads(command("inspect", int8_bundle, "--json").stdout)["components"]
    for name, quality in (("unet", 24.0), ("vae_decoder", 34.0)):
        part, before = bundle.manifest.components[name], whole.manifest.components[name]
        told = part.quantization
        assert told is not None
        assert (told.prompts, told.steps, told.pictures, told.quality) == (3, 2, 3, quality)
        assert told.psnr_worst <= told.psnr_mean
        assert told.psnr_mean >= quality
        assert all(node.score > 0.0 for node in told.nodes.values())
        assert part.weights is not None
        assert before.weights is not None
        assert bundle.manifest.files[part.weights].size <= 0.30 * whole.manifest.files[before.weights].size
        assert not {before.onnx, before.weights} & set(bundle.manifest.files)
        assert f"{sum(n.rounded for n in told.nodes.values())} of {len(told.nodes)} nodes" in shown
        assert described[name]["quantization"]
    encoder, before = bundle.manifest.components["text_encoder"], whole.manifest.components["text_encoder"]
    assert encoder.quantization is not None
    assert encoder.quantization.recipe is Recipe.W8
    assert encoder.quantization.psnr_mean >= encoder.quantization.psnr_worst >= encoder.quantization.quality == 40.0
    assert encoder.weights is not None
    assert before.weights is not None
    assert bundle.manifest.files[encoder.weights].size <= 0.30 * whole.manifest.files[before.weights].size
    assert "text_encoder with weights in int8" in shown
    assert sorted(path.name for path in int8_bundle.parent.iterdir()) in (
        ["int8.bundle"],
        [".int8.bundle.lock", "int8.bundle"],
    )
    assert command("verify", int8_bundle).status == 0


def test_weights_by_name_tell_what_became_of_them(
    int8_bundle: Path, emoji_bundle: Path, command: Callable[..., Any]
) -> None:
    """Each is there, as exact as its kind; the file of what rounding lost has a byte a weight and is told."""
    bundle, whole = open_bundle(int8_bundle), open_bundle(emoji_bundle)
    described = json.loads(command("inspect", int8_bundle, "--json").stdout)["components"]
    assert "tell what rounding lost, for LoRAs" in command("inspect", int8_bundle).stdout
    for component in ("text_encoder", "unet", "vae_decoder"):
        weights, before, record = (
            bundle.weights(component),
            whole.weights(component),
            bundle.manifest.components[component],
        )
        rows, told = weights.named.weights, record.quantization
        assert rows.keys() == before.named.weights.keys()
        assert told is not None
        rounded = {matrix.weight: matrix for matrix in weights.named.rounded.values()}
        for path, node in told.nodes.items():
            weight = f"{path.removeprefix('unet.')}.weight"  # which is below the text model where the path is not
            assert any(name == weight or name.endswith(f".encoder.{weight}") for name in rounded) is node.rounded
        plain = 0
        for name, row in rows.items():
            assert row.reason is None
            exact, read = before.array(name), weights.array(name)
            if name in rounded:
                smoothed = [weights.smoothed(rounded[name], array) for array in (exact, read)]
                assert np.abs(smoothed[0] - smoothed[1]).max() <= weights.steps(rounded[name]).max() / 509.0
            elif any(place.smoothing for place in row.places):
                np.testing.assert_allclose(read, exact, rtol=1e-6)
            else:
                np.testing.assert_array_equal(read, exact)
                plain += 1
        assert plain > 20
        assert record.remainders is not None
        size, parameters = bundle.manifest.files[record.remainders].size, sum(before.array(n).size for n in rounded)
        assert parameters < size < 1.1 * parameters + 20_000
        assert described[component]["remainder_bytes"] == size
    assert bundle.weights("vae_encoder").named == whole.weights("vae_encoder").named


def test_it_draws_nearly_the_same_picture(
    int8_bundle: Path, emoji_bundle: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    """Side by side in one picture, with the difference."""
    sheet = tmp_path / "sheet.png"
    ran = command("compare", emoji_bundle, int8_bundle, "a cat", "-o", sheet, "--steps", 4, "--json")
    assert ran.status == 0, ran.stderr
    assert 15.0 < json.loads(ran.stdout)["psnr"] < 60.0
    with Image.open(sheet) as image:
        assert image.size == (3 * 256 + 4 * 8, 256 + 2 * 8 + 24)
        pixels = np.asarray(image)
    assert pixels[40 + 128, 8 + 2 * 264 :].any()
    same = command("compare", emoji_bundle, emoji_bundle, "a cat", "-o", sheet, "--steps", 2, "--json")
    assert json.loads(same.stdout)["psnr"] == 99.0


@pytest.mark.slow
def test_a_quality_out_of_reach_fails_and_says_what_was_reached(
    emoji_bundle: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes are left in floating point, then the build ends; the calibration is kept, the bundle is not.

    The decoder may stay in floating point: that alone ends nothing.
    """
    monkeypatch.setattr(search, "FLOATING_COUNTS", (0, 2))
    source = shutil.copytree(emoji_bundle, tmp_path / "fp32.bundle")
    with (
        pytest.warns(UserWarning, match=r"^vae_decoder stays in fp32, .* reached a mean of \d+\.\d dB .* 100 dB"),
        pytest.raises(ParityError, match=r"reached a mean of \d+\.\d dB .* expected 90 dB"),
    ):
        latentrt.build(source, tmp_path / "int8.bundle", precision="int8", prompts=prompts, quality=90.0)
    assert not (tmp_path / "int8.bundle").exists()
    kept = tmp_path / ".int8.bundle.int8" / "calibration"
    recipe = recipe_for(Backend.ORT_CPU)
    both = ("unet", "vae_decoder")
    parts = [f"scores-{part}-{recipe}" for part in both] + [f"judged-{part}-{recipe}-ort-cpu" for part in both]
    names = {"observed", "references", *parts}
    assert {path.stem for path in kept.glob("*.npz")} == names


@pytest.mark.slow
def test_a_decoder_may_stay_as_it_is(
    emoji_bundle: Path, prompts: Path, tmp_path: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where that is wished."""
    monkeypatch.setattr("latentrt.quantization.settings.EFFORT", Effort(steps=2, pictures=2, calls=0))
    source, output = shutil.copytree(emoji_bundle, tmp_path / "fp32.bundle"), tmp_path / "int8.bundle"
    wishes = (source, "-o", output, "--precision", "int8", "--prompts", prompts, "--quality", 10)
    ran = command("build", *wishes, "--fp32", "vae_decoder")
    assert ran.status == 0, ran.stderr
    old, new = open_bundle(source).manifest, open_bundle(output).manifest
    assert (new.components["unet"].precision, new.kept_fp32) == ("int8", ("vae_decoder",))
    assert new.components["vae_decoder"].onnx == old.components["vae_decoder"].onnx
    assert new.components["vae_decoder"].quantization is None
    assert "up to date" in command("build", *wishes, "--fp32", "vae_decoder").stdout
    refused = command("build", *wishes, "--fp32", "unet")
    assert refused.status == 2
    assert "got fp32 unet for a bundle in int8" in refused.stderr


@pytest.mark.slow
def test_a_killed_calibration_goes_on_where_it_was(
    emoji_bundle: Path, int8_bundle: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What two pictures showed is not drawn again, and the result is that of an undisturbed run."""
    source = shutil.copytree(emoji_bundle, tmp_path / "fp32.bundle")
    monkeypatch.setattr(checkpoints, "SAVE_EVERY", 0.0)
    drawn: list[int] = []
    calibrating = calibration.CalibrationSet.calibrating

    def counted(self: calibration.CalibrationSet, pipe: latentrt.Pipeline, start: int, *, decoded: bool) -> Any:
        for done in calibrating(self, pipe, start, decoded=decoded):
            drawn.append(done)
            yield done
            if drawn == [1, 2]:
                raise KeyboardInterrupt

    monkeypatch.setattr(calibration.CalibrationSet, "calibrating", counted)
    output = tmp_path / "int8.bundle"
    with pytest.raises(KeyboardInterrupt):
        latentrt.build(source, output, precision="int8", prompts=prompts, quality=24.0)
    assert not output.exists()
    made = latentrt.build(source, output, precision="int8", prompts=prompts, quality=24.0)
    assert drawn == [1, 2, 3]
    told = {name: part.quantization for name, part in made.bundle.manifest.components.items()}
    undisturbed = open_bundle(int8_bundle).manifest.components
    assert {name: part.quantization for name, part in undisturbed.items()} == told


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "without a prompt"),
        ("\n \n", "without a prompt"),
        (b"\xff\xfe\xff", "expected UTF-8 text"),
        (None, "cannot be read"),
    ],
)
def test_prompt_files_that_cannot_be_used(
    text: str | bytes | None, reason: str, emoji_bundle: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    """A sentence, before anything is drawn."""
    path = tmp_path / "prompts.txt"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    ran = command("build", emoji_bundle, "-o", tmp_path / "x.bundle", "--precision", "int8", "--prompts", path)
    assert ran.status == 2
    assert reason in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "x.bundle").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--precision", "int8", "--quality", "0"), "got quality 0 dB"),
        (("--precision", "int8", "--quality", "120"), "got quality 120 dB"),
        (("--precision", "fp16", "--quality", "30"), "got quality for a build that is none of int8, fp8 and bf16"),
        (("--prompts", "x.txt"), "got prompts for a build that is none of int8, fp8 and bf16"),
        (("--precision", "int8", "--backend", "ort-cuda"), "got precision int8 for backend ort-cuda"),
        (("--precision", "int8", "--profile", "64x64"), "got profiles or seamless for a bundle"),
        (("--precision", "int8"), "add -o DIR"),
    ],
)
def test_wishes_that_cannot_be_met(
    arguments: tuple[str, ...], reason: str, emoji_bundle: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    """A sentence each."""
    output = () if reason == "add -o DIR" else ("-o", tmp_path / "x.bundle")
    ran = command("build", emoji_bundle, *arguments, *output)
    assert ran.status == 2
    assert reason in ran.stderr
    assert "Traceback" not in ran.stderr


def test_eight_whole_bits_are_refused_where_they_would_overflow(
    int8_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]
) -> None:
    """A bundle made on a CPU with VNNI, brought to one without."""
    manifest = json.loads((int8_bundle / "bundle.json").read_text("utf-8"))
    manifest["components"]["unet"]["quantization"]["recipe"] = "u8s8"
    folder = shutil.copytree(int8_bundle, tmp_path / "u8s8.bundle", ignore=shutil.ignore_patterns("engines"))
    write_sealed(folder / "bundle.json", manifest)
    monkeypatch.setattr("latentrt.engines.graphs.quantization.recipe.cpu_sums_widely", lambda: False)
    ran = command("build", folder)
    assert ran.status != 0
    assert "needs a CPU with VNNI" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_weights_that_are_no_numbers(emoji_bundle: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    """The component's own gate finds them, before anything is drawn."""
    source = shutil.copytree(emoji_bundle, tmp_path / "nan.bundle")
    path = source / "bundle.json"
    manifest = json.loads(path.read_text("utf-8"))
    name = manifest["components"]["unet"]["weights"]
    weights = np.memmap(source / name, np.float32, "r+")
    weights[weights.size // 2 :][:1000] = np.nan
    weights.flush()
    manifest["files"][name]["sha256"] = hashlib.sha256((source / name).read_bytes()).hexdigest()
    write_sealed(path, manifest)
    ran = command("build", source, "-o", tmp_path / "x.bundle", "--precision", "int8")
    assert ran.status == 2
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "x.bundle").exists()
    assert "unet (fp32) differs from its torch module: got relative error nan" in ran.stderr


def test_prompts_without_tokens(emoji_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a tokenizer makes nothing of is named."""
    bundle = open_bundle(emoji_bundle)
    calibration.check_prompts(bundle, ("frog",))

    class Deaf:
        def encode(self, prompt: str) -> Any:
            ids = np.full(77, 2)
            ids[0] = 1
            return type("Encoded", (), {"ids": ids})

        def end_positions(self, ids: Any) -> Any:
            return np.array([1])

    monkeypatch.setattr(calibration, "tokenizer_from_folder", lambda *_, **__: Deaf())
    with pytest.raises(RequestError, match=r"got the prompt '…', which has no tokens"):
        calibration.check_prompts(bundle, ("…",))


@pytest.mark.parametrize(
    "family", ["sd1-inpaint", pytest.param("lcm-sd1", marks=pytest.mark.slow), "sdxl-turbo", "sdxl-refiner"]
)
def test_every_kind_of_model_is_drawn_with(family: str, family_pipe: Callable[[str], latentrt.Pipeline]) -> None:
    """From noise, from a picture or into one, with guidance or without."""
    pipe, drawn = family_pipe(family), calibration.CalibrationSet(prompts=("a cat", "a frog"), steps=4)
    assert list(drawn.calibrating(pipe, 0, decoded=True))[-1] == 2
    pictures = np.concatenate([np.array(batch.images) for batch in drawn.judging(pipe, 0, 3)])
    profile = pipe.manifest.profiles[0]
    assert pictures.shape == (3, profile.height, profile.width, 3)
    assert not np.array_equal(pictures[0], pictures[2])  # one prompt, two seeds


def test_worst_nodes_come_first_but_small_ones_before_large() -> None:
    """So that few weights stay wide."""
    node = QuantizableNode(
        path="", name="", operator="Gemm", input="", weight="", output="", shape=(10, 10), channels=1
    )
    nodes = [dataclasses.replace(node, path=str(n), shape=(n, 10)) for n in (1, 2, 300, 4, 200)]
    order = worst_first(nodes, {"1": 0.1, "2": 0.3, "300": 0.9, "4": 0.2, "200": 1.0})
    assert [node.path for node in order] == ["2", "4", "1", "200", "300"]


def test_an_int8_bundle_is_no_source(int8_bundle: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    """Its engines can be made again; another int8 of it cannot, nor another precision."""
    assert command("build", int8_bundle, "--precision", "int8").status == 0
    for arguments, reason in (
        (("--precision", "int8", "--quality", "31"), "in int8 already"),
        (("--backend", "tensorrt-rtx", "--gpu", "sm89"), "for a bundle in int8 by recipe"),
    ):
        engines = set((int8_bundle / "engines").iterdir())
        refused = command("build", int8_bundle, *arguments)
        assert refused.status == 2
        assert reason in refused.stderr
        assert set((int8_bundle / "engines").iterdir()) == engines  # not even those that could be made
    ran = command("build", int8_bundle, "--precision", "fp32")
    assert ran.status == 2
    assert "got precision fp32 for a bundle built in int8" in ran.stderr
