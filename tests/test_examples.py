"""The numbered examples run, one after the other, and leave what they say."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from shared import linked_copy
from tiny_loras import save_tiny_lora

import latentrt

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TRAINING, LORA_TRAINING = EXAMPLES / "90_train_emoji.py", EXAMPLES / "91_train_lora.py"
CONTROL_TRAINING = EXAMPLES / "92_train_control.py"
MODEL = EXAMPLES.parent / "models" / "emoji"
SCRIPTS = sorted(EXAMPLES.glob("[0-8][0-9]_*.py"))
# The others draw with the same functions, or build first
OFTEN = {"00_draw"}
PICTURES = (".png", ".webp")
LORAS, CONTROL = EXAMPLES / "loras", EXAMPLES / "control"
COLOURS = ("red", "orange", "gold", "green", "teal", "blue", "purple", "black")


def run(script: Path, folder: Path, *arguments: object) -> str:
    """Runs a script in a folder; returns what it printed."""
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(
    emoji_bundle: Path,
    wide_bundle: Path,
    family_bundle: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The examples' output folder, with the embedded model's bundles built already, and tiny ones for SDXL's."""
    folder = tmp_path_factory.mktemp("examples")
    linked_copy(emoji_bundle, folder / "emoji.bundle")
    linked_copy(wide_bundle, folder / "wide.bundle")
    linked_copy(family_bundle("sdxl"), folder / "sdxl.bundle")
    linked_copy(family_bundle("sdxl-refiner"), folder / "refiner.bundle")
    for seed, name in enumerate(("lcm-lora", "style")):
        save_tiny_lora(folder / f"{name}.safetensors", emoji_bundle, seed=seed, scale=0.01)
    return folder


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(script, id=script.stem, marks=() if script.stem in OFTEN else pytest.mark.slow)
        for script in SCRIPTS
    ],
)
def test_example_runs(script: Path, folder: Path) -> None:
    """It prints something and leaves a new picture or clip."""
    before = {path for path in folder.iterdir() if path.suffix in PICTURES}
    files = ("emoji.bundle", "lcm-lora.safetensors", "style.safetensors") if script.stem == "12_four_steps" else ()
    assert run(script, folder, folder, *files)
    assert {path for path in folder.iterdir() if path.suffix in PICTURES} - before


@pytest.fixture(scope="module")
def icons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight drawn icons, in the place of the npm package's."""
    pytest.importorskip("resvg_py", reason="the dev extra is not installed")
    icons = {
        f"{colour}-circle": {"body": f'<circle cx="16" cy="16" r="{8 + index}" fill="{colour}"/>'}
        for index, colour in enumerate(COLOURS)
    }
    data = tmp_path_factory.mktemp("icons") / "icons.json"
    data.write_text(json.dumps({"icons": icons, "width": 32, "height": 32}))
    titles = ("Animals & Nature", "Food & Drink", "Smileys & Emotion")
    categories = {title: list(icons)[index::3] for index, title in enumerate(titles)}
    data.with_name("metadata.json").write_text(json.dumps({"categories": categories}))
    return data


@pytest.mark.slow
def test_training_makes_a_checkpoint(icons: Path, tmp_path: Path) -> None:
    """A step of each stage."""
    out = tmp_path / "model"
    run(TRAINING, tmp_path, "--data", icons, "--work", tmp_path / "work", "--out", out, "--steps", 1)
    names = ("model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json", "tokenizer")
    assert all((out / name).exists() for name in names)


@pytest.mark.slow
def test_training_makes_a_lora(icons: Path, tmp_path: Path) -> None:
    """Both forms hold the same numbers; a second run gives them again, and keeps them when it is called once more."""
    first, second = tmp_path / "first" / "ink", tmp_path / "second" / "ink"
    for out in (first, second, second):
        run(LORA_TRAINING, tmp_path, "--data", icons, "--work", out.parent, "--out", out, "--steps", 2, "--threads", 1)
    kohya, peft = load_file(first.with_suffix(".safetensors")), load_file(first / "adapter_model.safetensors")
    again = load_file(second.with_suffix(".safetensors"))
    assert kohya.keys() == again.keys()
    assert all(np.array_equal(kohya[name], again[name]) for name in kohya)
    for name, numbers in peft.items():
        path, leaf, _ = name.removeprefix("base_model.model.").rsplit(".", 2)
        stem = f"lora_unet_{path.replace('.', '_')}"
        np.testing.assert_array_equal(kohya[f"{stem}.lora_{'down' if leaf == 'lora_A' else 'up'}.weight"], numbers)
    assert len(kohya) == 3 * len(peft) // 2
    assert any(numbers.any() for name, numbers in peft.items() if "lora_B" in name)


@pytest.mark.slow
def test_training_makes_a_control_net(icons: Path, tmp_path: Path) -> None:
    """In the layout of the one that is there; every layer has learnt something; a second run gives the same weights."""
    pytest.importorskip("cv2", reason="the dev extra is not installed")
    first, second = tmp_path / "first" / "canny", tmp_path / "second" / "canny"
    for out in (first, second):
        options = ("--data", icons, "--work", out.parent, "--out", out, "--steps", 2, "--threads", 1)
        assert "with it: " in run(CONTROL_TRAINING, tmp_path, *options, "--limit-icons", 3)
    weights, again, shipped = (
        load_file(folder / "diffusion_pytorch_model.safetensors") for folder in (first, second, CONTROL / "canny")
    )
    assert {name: (w.shape, w.dtype) for name, w in weights.items()} == {
        name: (w.shape, w.dtype) for name, w in shipped.items()
    }
    assert json.loads((first / "config.json").read_text()) == json.loads((CONTROL / "canny/config.json").read_text())
    assert all(np.array_equal(weights[name], again[name]) for name in weights)
    zeros = [w for name, w in weights.items() if name.startswith(("controlnet_down_blocks", "controlnet_mid_block"))]
    assert len(zeros) == 14
    assert all(w.any() for w in zeros)


def test_the_control_net_of_the_examples_is_small_and_fits_the_embedded_model() -> None:
    """8 MB at most in fp16; an outline comes down to the latents' size; no path of the training machine."""
    weights = CONTROL / "canny" / "diffusion_pytorch_model.safetensors"
    assert weights.stat().st_size < 8_000_000
    assert {w.dtype for w in load_file(weights).values()} == {np.dtype(np.float16)}
    net, unet, vae = (
        json.loads(file.read_text("utf-8"))
        for file in (CONTROL / "canny/config.json", *(MODEL / part / "config.json" for part in ("unet", "vae")))
    )
    assert len(net["conditioning_embedding_out_channels"]) == len(vae["block_out_channels"])
    for name in ("block_out_channels", "down_block_types", "layers_per_block", "cross_attention_dim"):
        assert net[name] == unet[name]
    assert not [name for name in net.values() if isinstance(name, str) and "/" in name]


@pytest.mark.slow
def test_emoji_are_drawn_along_an_outline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand, in a shape that the model does not draw by itself, for two prompts that the net has not seen."""
    pytest.importorskip("cv2", reason="the dev extra is not installed")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    outlines = importlib.import_module("emoji_outlines")
    latentrt.build(CONTROL / "canny", folder / "canny.bundle", for_bundle=folder / "emoji.bundle")
    with Image.open(CONTROL / "outlines" / "apple.png") as drawing:
        outline = latentrt.prepare.invert(drawing.convert("RGB"))
    lines = np.asarray(outline.convert("L").resize((64, 64), Image.Resampling.BOX))
    followed = {}
    with latentrt.open(folder / "emoji.bundle") as pipe:
        for scale in (0.0, 1.0):
            control = latentrt.Control(folder / "canny.bundle", outline, scale=scale)
            drawn = pipe(
                ["red apple", "lemon"], control=[control], num_inference_steps=20, guidance_scale=3, seed=[5, 5]
            )
            followed[scale] = min(outlines.agreement(np.asarray(picture), lines)[0] for picture in drawn.images)
    assert followed[0.0] < 0.5
    assert followed[1.0] > 0.8


def test_agreement_of_a_picture_with_an_outline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shape follows its own outline, one beside it does not, and half of an outline is followed by half."""
    cv2 = pytest.importorskip("cv2", reason="the dev extra is not installed")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    outlines = importlib.import_module("emoji_outlines")
    picture = np.full((64, 64, 3), 255, np.uint8)
    picture[16:40, 16:40] = (220, 20, 20)
    lines = cv2.Canny(picture, 100, 200)
    assert outlines.agreement(picture, lines) == (1.0, 1.0)
    assert outlines.agreement(picture, np.roll(lines, 4, (0, 1)))[0] < 0.2
    half = lines.copy()
    half[:28] = 0
    followed, meant = outlines.agreement(picture, half)
    assert followed == 1.0
    assert 0.4 < meant < 0.7
    assert outlines.agreement(np.full_like(picture, 255), lines)[0] == 0.0


def test_the_lora_of_the_examples_is_small() -> None:
    """Half a megabyte for each form, and no path of the machine that it was trained on."""
    for file in (LORAS / "ink.safetensors", LORAS / "ink" / "adapter_model.safetensors"):
        assert file.stat().st_size < 500_000
    config = json.loads((LORAS / "ink" / "adapter_config.json").read_text("utf-8"))
    assert config["base_model_name_or_path"] == "models/emoji"
    assert not [name for name in config.values() if isinstance(name, str) and name.startswith("/")]


def test_training_that_was_stopped_goes_on_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the last checkpoint, to the same weights."""
    import torch

    monkeypatch.syspath_prepend(str(EXAMPLES))
    training = importlib.import_module("emoji_training")
    points = torch.linspace(-1, 1, 12)[:, None]

    def trained(work: Path, stopped_at: int | None = None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        modules = torch.nn.ModuleDict({"line": torch.nn.Linear(1, 1)})
        seen = 0

        def loss_of(indices: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
            nonlocal seen
            if seen == stopped_at:
                raise KeyboardInterrupt
            seen += 1
            x = points[indices]
            noise = torch.randn(x.shape, generator=generator)
            return (modules["line"](x).float() - 3 * x - 1 + 0.1 * noise).square().mean()

        work.mkdir(exist_ok=True)
        run = training.Run(seed=0, minutes=0, steps=8, work=work, out=work, save_every=0.0)
        pace = training.Pace(batch=4, rate=1e-2, ema=0.9)
        with nullcontext() if stopped_at is None else pytest.raises(KeyboardInterrupt):
            training.train("line", modules, loss_of, len(points), pace, run)
        return dict(modules.state_dict())

    whole = trained(tmp_path / "whole")
    trained(tmp_path / "stopped", stopped_at=5)
    resumed = trained(tmp_path / "stopped")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
