"""The numbered examples run, one after the other, and leave what they say."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_loras import save_tiny_lora

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TRAINING, LORA_TRAINING = EXAMPLES / "90_train_emoji.py", EXAMPLES / "91_train_lora.py"
SCRIPTS = sorted(EXAMPLES.glob("[0-8][0-9]_*.py"))
# The others draw with the same functions, or build first
OFTEN = {"00_draw", "02_img2img", "12_four_steps"}
LORAS = EXAMPLES / "loras"
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
    shutil.copytree(emoji_bundle, folder / "emoji.bundle")
    shutil.copytree(wide_bundle, folder / "wide.bundle")
    shutil.copytree(family_bundle("sdxl"), folder / "sdxl.bundle")
    shutil.copytree(family_bundle("sdxl-refiner"), folder / "refiner.bundle")
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
    """It prints something and leaves a new picture."""
    before = set(folder.glob("*.png"))
    files = ("emoji.bundle", "lcm-lora.safetensors", "style.safetensors") if script.stem == "12_four_steps" else ()
    assert run(script, folder, folder, *files)
    assert set(folder.glob("*.png")) - before


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
